"""The experiment file: which arms, sizes and seeds, as TOML or JSON.

title = "States on sequential MNIST"
seeds = [0, 1, 2]
sizes = [8, 16]

[base]                          # any setting of a training run
task = "smnist"
steps = 4000
model.state_dim = 256

[arms.full]                     # no size: once per seed

[arms.compressm]
size = "compression.rank"       # the setting that takes the sizes

[arms.scratch]
size = "model.state_dim"
sizes = [8]                     # its own, if not all
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressm.experiments.overrides import check_names, check_overrides, check_path
from compressm.training import TrainConfig

Size = int | float

# What the grid itself sets.
_OF_THE_GRID = ("arm", "seed")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A method of the comparison.

    Attributes:
        name: Its label in tables and figures.
        size: Dotted path of the setting that takes the sizes, such as ``compression.rank``; None for an arm
            without sizes, which runs once per seed.
        sizes: Its sizes.
        settings: What it changes of the base.
    """

    name: str
    size: str | None
    sizes: tuple[Size, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole experiment file.

    Attributes:
        title: What it is about.
        seeds: Seeds of every arm and size.
        base: Settings of every run.
        arms: The methods.
    """

    title: str
    seeds: tuple[int, ...]
    base: Mapping[str, Any]
    arms: tuple[Arm, ...]


def read_experiment(path: str | Path) -> Experiment:
    """Read and check an experiment file.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: Naming file and key, if it is not TOML (JSON for a name that ends in ``.json``), or has an
            unknown key or a value of the wrong type.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such experiment file")
    try:
        text = file.read_text(encoding="utf-8")
        plain = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
        if not isinstance(plain, dict):
            raise ValueError(f"holds a {type(plain).__name__}; expected a table")
        return parse_experiment(plain, title=file.stem)
    except ValueError as error:  # what both parsers raise is one
        raise ValueError(f"{file}: {error}") from error


def parse_experiment(plain: Mapping[str, Any], title: str = "experiment") -> Experiment:
    """Check the tables of an experiment file.

    Raises:
        ValueError: Naming the key.
    """
    check_names(plain, ("title", "seeds", "sizes", "base", "arms"), "")
    seeds = plain.get("seeds")
    if not _distinct(seeds, int) or not seeds or min(seeds) < 0:
        raise ValueError(f"seeds is {seeds!r}; it must be a list of different whole numbers from 0 on")
    sizes = _sizes(plain.get("sizes", []), "sizes")
    base, arms = plain.get("base"), plain.get("arms")
    if not isinstance(base, Mapping) or "task" not in base:
        raise ValueError("there is no base table with a task: [base] sets what all runs share")
    if not isinstance(arms, Mapping) or not arms:
        raise ValueError("there are no arms: give each method a table, [arms.NAME]")
    _check_settings(base, "base.")
    given = plain.get("title", title)
    if not isinstance(given, str):
        raise ValueError(f"title is {given!r}; it must be text")
    return Experiment(
        title=given,
        seeds=tuple(seeds),
        base=base,
        arms=tuple(_arm(name, table, sizes) for name, table in arms.items()),
    )


def _arm(name: str, table: Any, sizes: tuple[Size, ...]) -> Arm:
    where = f"arms.{name}"
    if not isinstance(table, Mapping):
        raise ValueError(f"{where} is {table!r}; it must be a table")
    if not name or not all(sign.isalnum() or sign in "-_+." for sign in name) or name[0] == ".":
        raise ValueError(
            f"{where}: the name of an arm is also a folder's; use letters, digits, -, _, + and ."
        )
    settings = {key: value for key, value in table.items() if key not in ("size", "sizes")}
    _check_settings(settings, f"{where}.")
    size = table.get("size")
    if size is None:
        if "sizes" in table:
            raise ValueError(
                f"{where}.sizes is given, but {where}.size does not say which setting takes them"
            )
        return Arm(name=name, size=None, sizes=(), settings=settings)
    if not isinstance(size, str):
        raise ValueError(f"{where}.size is {size!r}; it must be the path of a setting")
    check_path(size, TrainConfig, f"{where}.size")
    own = _sizes(table["sizes"], f"{where}.sizes") if "sizes" in table else sizes
    if not own:
        raise ValueError(f"{where}.size is {size!r}, but there are no sizes; give a list, sizes = [...]")
    return Arm(name=name, size=size, sizes=own, settings=settings)


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    for name in _OF_THE_GRID:
        if name in settings:
            raise ValueError(f"{where}{name} is set by the grid of arms and seeds; take it out")
    check_overrides(settings, TrainConfig, where)


def _sizes(value: Any, where: str) -> tuple[Size, ...]:
    if not _distinct(value, int | float):
        raise ValueError(f"{where} is {value!r}; it must be a list of different numbers")
    return tuple(value)


def _distinct(value: Any, kind: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(isinstance(v, kind) and not isinstance(v, bool) for v in value) and len(set(value)) == len(
        value
    )
