"""The tables that `compressm reproduce` makes: an experiment at three budgets, each a file of this package.

Beside what an experiment file holds, a table's file says what it is about, which figures to draw, what the
paper published (`[[published]]`), and what each budget changes (`[budgets.quick]`): seeds, sizes, settings of
the base and of arms, and with `only` the arms to run.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, get_args

from compressm.experiments.overrides import check_names, merged
from compressm.experiments.settings import Experiment, parse_experiment

BudgetName = Literal["quick", "small", "paper"]
FigureName = Literal["accuracy", "time", "training", "speed", "tracks", "spectra"]
BUDGETS: tuple[BudgetName, ...] = get_args(BudgetName)

_EXPERIMENT = ("title", "sizes", "base", "arms")
_OWN = ("about", "source", "data", "figures", "published", "budgets")
_BUDGET = ("minutes", "seeds", "sizes", "base", "arms", "only")
_PUBLISHED = ("arm", "states", "tolerance", "value")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A score of the paper.

    Attributes:
        arm: The arm of ours that repeats it.
        states: Final states of a layer, a mean where the tolerance sets them.
        value: Accuracy in percent.
        tolerance: The tolerance that gave these states, if one did.
    """

    arm: str
    states: float
    value: float
    tolerance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """One table.

    Attributes:
        name: What the user types.
        title: What it shows.
        about: The same in a line.
        source: Where it stands in the paper, or "ours".
        data: What to put into the data folder first; empty if nothing.
        figures: Figures to draw.
        published: Scores of the paper.
        plain: The experiment's tables, before a budget.
        budgets: What each budget changes.
    """

    name: str
    title: str
    about: str
    source: str
    data: str
    figures: tuple[FigureName, ...]
    published: tuple[Published, ...]
    plain: Mapping[str, Any]
    budgets: Mapping[str, Mapping[str, Any]]

    def minutes(self, budget: BudgetName) -> float:
        """Estimated minutes on two cores, two runs at once, on a quiet machine."""
        return float(self.budgets[budget]["minutes"])

    def experiment(
        self, budget: BudgetName, *, seeds: Sequence[int] | None = None, steps: int | None = None
    ) -> Experiment:
        """The experiment at a budget.

        Args:
            budget: Which.
            seeds: Seeds in place of the budget's.
            steps: Optimiser steps of every run in place of the budget's, where that is fewer: to see the
                whole path. Steps between log lines and checks shrink along.

        Raises:
            ValueError: If the settings do not go together.
        """
        changes = self.budgets[budget]
        plain = merged(
            self.plain, {key: changes[key] for key in ("seeds", "sizes", "base") if key in changes}
        )
        only = changes.get("only", list(plain["arms"]))
        check_names(only, plain["arms"], f"budgets.{budget}.only: ")
        check_names(changes.get("arms", {}), plain["arms"], f"budgets.{budget}.arms.")
        arms = merged(plain["arms"], changes.get("arms", {}))
        plain["arms"] = {name: arm for name, arm in arms.items() if name in only}
        if seeds is not None:
            plain["seeds"] = list(seeds)
        if steps is not None:
            plain["base"] = _shortened(plain["base"], steps)
            plain["arms"] = {name: _shortened(arm, steps) for name, arm in plain["arms"].items()}
        return parse_experiment(plain, title=self.name)


def reproduction_names() -> tuple[str, ...]:
    """Names of all tables."""
    files = resources.files("compressm.experiments").joinpath("tables").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def read_reproduction(name: str) -> Reproduction:
    """Read and check the file of a table.

    Raises:
        ValueError: If there is no such table, or its file is wrong: naming the key.
    """
    if name not in reproduction_names():
        raise ValueError(f"there is no table {name!r}; choose one of {', '.join(reproduction_names())}")
    file = resources.files("compressm.experiments").joinpath("tables", f"{name}.toml")
    return parse_reproduction(name, tomllib.loads(file.read_text(encoding="utf-8")))


def parse_reproduction(name: str, plain: Mapping[str, Any]) -> Reproduction:
    """Check the tables of a file.

    Raises:
        ValueError: Naming the key.
    """
    check_names(plain, (*_EXPERIMENT, *_OWN), "")
    check_names(BUDGETS, plain.get("budgets", {}), f"{name}: a budget is missing: ")
    for budget, changes in plain["budgets"].items():
        check_names(changes, _BUDGET, f"budgets.{budget}.")
        check_names(("minutes", "seeds"), changes, f"{name}, budgets.{budget}: a key is missing: ")
    check_names(plain.get("figures", ()), get_args(FigureName), "figures: ")
    for row in plain.get("published", ()):
        check_names(row, _PUBLISHED, "published.")
        check_names((row["arm"],), plain["arms"], "published.arm = ")
    return Reproduction(
        name=name,
        title=plain["title"],
        about=plain["about"],
        source=plain["source"],
        data=plain.get("data", ""),
        figures=tuple(plain.get("figures", ())),
        published=tuple(Published(**row) for row in plain.get("published", ())),
        plain={key: plain[key] for key in _EXPERIMENT if key in plain},
        budgets=plain["budgets"],
    )


def _shortened(settings: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Settings with at most that many steps; lines of metrics and checks come as often as before."""
    before = settings.get("steps")
    if before is None or before <= steps:
        return dict(settings)
    short = dict(settings, steps=steps)
    for key in ("log_every", "validate_every", "checkpoint_every"):
        if key in settings:
            short[key] = max(1, settings[key] * steps // before)
    compression = settings.get("compression", {})
    if "track_every" in compression:
        every = max(1, compression["track_every"] * steps // before)
        short["compression"] = {**compression, "track_every": every}
    return short
