"""Values of a line of a log, with errors that name the file and the line."""

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


def numbers(record: Record, key: str, place: str) -> tuple[float, ...]:
    """The list of numbers under a key, () if there is none.

    Raises:
        ValueError: naming file, line and key, if it is something else.
    """
    values = record.get(key)
    values = [] if values is None else values
    if not isinstance(values, list) or not all(is_number(value) for value in values):
        raise ValueError(f"{place}: {key!r} is not a list of numbers")
    return tuple(float(value) for value in values)


def is_number(value: object) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(record: Record, key: str, place: str) -> float | None:
    """The number under a key, None if there is none.

    Raises:
        ValueError: naming file, line and key, if it is something else.
    """
    value = record.get(key)
    if value is None:
        return None
    if not is_number(value):
        raise ValueError(f"{place}: {key!r} is {value!r}; expected a number")
    return float(value)


def optional_integer(record: Record, key: str, place: str) -> int | None:
    """The whole number under a key, None if there is none.

    Raises:
        ValueError: naming file, line and key, if it is something else.
    """
    value = number(record, key, place)
    if value is not None and not value.is_integer():
        raise ValueError(f"{place}: {key!r} is {value!r}; expected a whole number")
    return None if value is None else int(value)


def integer(record: Record, key: str, place: str) -> int:
    """The whole number under a key, which must be there.

    Raises:
        ValueError: naming file, line and key, if it is something else.
    """
    value = optional_integer(record, key, place)
    if value is None:
        raise ValueError(f"{place}: {key!r} is missing; expected a whole number")
    return value


def states(record: Record, place: str) -> tuple[int, ...]:
    """The sizes of the layers, () if there are none.

    Raises:
        ValueError: naming file, line and key, if it is something else.
    """
    states = record.get("states")
    if states is None:
        return ()
    sizes = list(states.values()) if isinstance(states, dict) else states
    sizes = sizes if isinstance(sizes, list) else [sizes]
    if not all(isinstance(size, int) for size in sizes):
        raise ValueError(f"{place}: 'states' is {states!r}; expected one whole number per layer")
    return tuple(sizes)
