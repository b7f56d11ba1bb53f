"""Settings given by name, checked against the typed dataclasses they are for."""

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_overrides(settings: Mapping[str, Any], kind: type, where: str) -> None:
    """Refuse keys that ``kind`` does not have, and values that are not of the field's type, at any depth.

    Args:
        settings: By field name; a table for a field that is itself a dataclass.
        kind: The dataclass.
        where: What to put before a key in an error, such as ``base.``.

    Raises:
        ValueError: Naming the key, and the nearest known one or the type.
    """
    hints = get_type_hints(kind)
    check_names(settings, [field.name for field in fields(kind)], where)
    for name, value in settings.items():
        hint = hints[name]
        if is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}{name} is {value!r}; it must be a table of {hint.__name__}")
            check_overrides(value, hint, f"{where}{name}.")
        elif not _fits(value, hint):
            raise ValueError(f"{where}{name} is {value!r}; it must be {_words(hint)}")


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse unknown names.

    Raises:
        ValueError: Naming the first of them, the nearest known name, and all known names.
    """
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {where}{near[0]}?" if near else ";"
            raise ValueError(f"unknown key {where}{name}{hint} known here: {', '.join(known)}")


def check_path(path: str, kind: type, where: str) -> None:
    """Refuse a dotted path to a field that is not there or holds more than one value.

    Raises:
        ValueError: Naming the path.
    """
    inner: Any = kind
    passed = ""
    for name in path.split("."):
        if not is_dataclass(inner):
            raise ValueError(f"{where} is {path!r}, but {passed.rstrip('.')} has no fields")
        check_names([name], [field.name for field in fields(inner)], f"{where} = {passed}")
        inner = get_type_hints(inner)[name]
        passed += f"{name}."
    if is_dataclass(inner):
        raise ValueError(f"{where} is {path!r}, which is a table; name one of its fields")


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Tables laid over each other, later ones on top, at every depth."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            below = result.get(name)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            result[name] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def at_path(path: str, value: Any) -> dict[str, Any]:
    """A table that sets only the field at a dotted path."""
    for name in reversed(path.split(".")):
        value = {name: value}
    table: dict[str, Any] = value
    return table


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str)
    if origin in (tuple, list) or hint in (tuple, list):
        return isinstance(value, list | tuple)
    container = origin or hint
    return isinstance(value, container) if isinstance(container, type) else True


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words(choice) for choice in get_args(hint) if choice is not type(None))
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
