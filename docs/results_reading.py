"""Comparisons as the results page reads them: scores by arm and size, title and command."""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressm.experiments.outcome import record_run
from compressm.experiments.reproduction import read_reproduction, reproduction_names
from compressm.experiments.results import Record, Results
from compressm.report import Run
from compressm.report.groups import deviation
from compressm.report.metric import Metric, metric_of
from compressm.report.numbers import fixed

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Scores:
    """Test scores of one arm at one size, by seed."""

    by_seed: dict[int, float]

    @property
    def values(self) -> tuple[float, ...]:
        """In the order of the seeds."""
        return tuple(self.by_seed.values())

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return math.fsum(self.values) / len(self.values)

    def shared(self, other: "Scores") -> tuple["Scores", "Scores"]:
        """Both on the seeds that both have, or as they are if there is none."""
        seeds = [seed for seed in self.by_seed if seed in other.by_seed]
        if not seeds:
            return self, other
        first, second = ({seed: one.by_seed[seed] for seed in seeds} for one in (self, other))
        return Scores(first), Scores(second)

    def told(self, metric: Metric) -> str:
        """``86.87 ± 1.99``."""
        spread = deviation(self.values)
        return fixed(self.mean, metric.decimals) + (
            "" if spread is None else f" ± {fixed(spread, metric.decimals)}"
        )


@dataclass(frozen=True)
class Comparison:
    """One results.jsonl of the comparison runner; ``table`` names what `compressm reproduce` made."""

    name: str
    title: str
    command: str
    table: str | None
    records: tuple[Record, ...]
    figures: tuple[Path, ...]
    measure: Metric | None = None

    def measures(self) -> list["Comparison"]:
        """Itself, and where the runs have errors of free runs, once more by those."""
        if all(run.test_rollout is None for run in self.runs):
            return [self]
        return [self, replace(self, title=f"{self.title} (free runs)", measure=Metric("rollout"))]

    @property
    def runs(self) -> list[Run]:
        """As the report reads them."""
        return [record_run(record) for record in self.records]

    @property
    def metric(self) -> Metric:
        """What they are compared by."""
        return metric_of(self.runs) if self.measure is None else self.measure

    def families(self) -> list[str]:
        """What stands before `default` in names of arms: "", or "s5-" and "s4d-"."""
        arms = dict.fromkeys(record["arm"] for record in self.records)
        return [arm.removesuffix("default") for arm in arms if arm == "default" or arm.endswith("-default")]

    def sizes(self, arm: str) -> list[float]:
        """Sizes at which an arm was run."""
        return sorted({r["size"] for r in self.records if r["arm"] == arm and r["size"] is not None})

    def scores(self, arm: str, size: float | None) -> Scores | None:
        """Of an arm at a size; None if it was not run there."""
        of_arm = sorted(
            (r for r in self.records if (r["arm"], r["size"]) == (arm, size)), key=lambda r: r["seed"]
        )
        values = {record["seed"]: self.metric.of(record_run(record).test) for record in of_arm}
        known = {seed: value for seed, value in values.items() if value is not None}
        return Scores(known) if known else None

    def beside_default(self, others: "Sequence[Comparison]") -> "Comparison":
        """With the default of another comparison that shares task, model and training, if it has none."""
        if self.families():
            return self
        for other in others:
            if "" in other.families() and _shared(other.records[0]) == _shared(self.records[0]):
                lent = [record for record in other.records if record["arm"] == "default"]
                return replace(self, records=(*self.records, *lent))
        return self


def by_every_measure(comparisons: "Sequence[Comparison]") -> list[Comparison]:
    """Each as often as there are figures to compare its runs by."""
    return [view for comparison in comparisons for view in comparison.measures()]


def read_comparison(folder: Path) -> Comparison | None:
    """The comparison in a folder, None if its results are of another kind."""
    file = folder / "results.jsonl"
    if not file.is_file():
        return None
    try:
        records = tuple(Results(file).done().values())
    except ValueError:  # lines of a script of its own, which have no fingerprint
        return None
    if not records:
        return None
    title, command, table = origin(folder.name)
    return Comparison(folder.name, title, command, table, records, tuple(sorted(folder.glob("*.png"))))


def origin(name: str) -> tuple[str, str, str | None]:
    """Title and command of a comparison, of its experiment file or the table it reproduces, and the table."""
    file = ROOT / "experiments" / f"{name}.toml"
    if file.is_file():
        text = file.read_text(encoding="utf-8")
        commands = [line[2:] for line in text.splitlines() if line.startswith("# compressm ")]
        return tomllib.loads(text)["title"], commands[0] if commands else "", None
    table, _, budget = name.rpartition("-") if name.endswith("-quick") else (name, "", "small")
    if table in reproduction_names():
        command = (
            f"compressm reproduce {table} --budget {budget} --data-dir DATA --out experiments/results/{name}"
        )
        suffix = f", budget {budget}" if budget != "small" else ""
        return read_reproduction(table).title + suffix, command, table
    return name, "", None


def _shared(record: Record) -> dict[str, Any]:
    """What two comparisons must agree in for their arms to be compared."""
    config = record["config"]
    model = {key: config["model"][key] for key in ("num_layers", "model_dim", "mixer")}
    return {**{key: config[key] for key in ("task", "steps", "batch_size", "optimizer")}, "model": model}
