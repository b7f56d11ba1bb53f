"""Does the error bound hold?  Truncates thousands of random systems and measures the error independently.

Run ``python benchmarks/random_systems.py --systems 10000 --seed 0``.  Each system, from one of the families
in ``random_systems_families.py``, is reduced at a random size in both realizations.  The error is measured in
plain NumPy on a frequency grid refined at its maxima.  Exits with status 1 if a reduced system is unstable,
an error is above ``bound * (1 + 1e-6) + 1e-9 * sigma_1``, or the library's own error norm is below the
measured one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from random_systems_families import FAMILIES, Matrices, draw, frequency_error
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from compressm.lti import DiagonalSystem, Realization, Reduction, balance

REALIZATIONS: tuple[Realization, ...] = ("real", "complex")


@dataclass(frozen=True)
class Outcome:
    """What one reduction did."""

    family: str
    seed: int
    stable: bool
    bounded: bool
    norm_reaches: bool
    ratio: float
    limited_by: str


def reductions(family: str, seed: int) -> list[Outcome]:
    """Draw a system and reduce it once in each realization."""
    matrices = draw(family, seed)
    system = DiagonalSystem(
        None,
        *map(torch.from_numpy, (matrices.B, matrices.C, matrices.D)),
        log_A=torch.from_numpy(matrices.log_A),
    )
    rng = np.random.default_rng([seed, 1])
    return [_judge(family, seed, matrices, _reduce(system, form, rng)) for form in REALIZATIONS]


def _reduce(system: DiagonalSystem, realization: Realization, rng: np.random.Generator) -> Reduction:
    """By number of states or by number of Hankel singular values, with equal chance."""
    balancing = balance(system, realization)
    if rng.random() < 0.5:
        return balancing.truncate(order=int(rng.integers(1, system.state_dim + 1)))
    return balancing.truncate(keep=int(rng.integers(1, len(balancing.hankel_singular_values) + 1)))


def _judge(family: str, seed: int, matrices: Matrices, reduction: Reduction) -> Outcome:
    reduced = reduction.system
    arrays = (reduced.log_A, reduced.B, reduced.C, reduced.direct_matrix())
    error = frequency_error(matrices, Matrices(*(tensor.numpy() for tensor in arrays)))
    floor = 1e-9 * float(reduction.hankel_singular_values[0])
    bound = reduction.error_bound if reduction.error_bound is not None else float("nan")
    allowed = bound * (1.0 + 1e-6) + floor
    return Outcome(
        family=family,
        seed=seed,
        stable=bool((reduced.A.abs() < 1.0).all()),
        bounded=error <= allowed,
        norm_reaches=reduction.error >= error * (1.0 - 1e-6) - floor,
        ratio=error / allowed if allowed > 0.0 else 0.0,
        limited_by=reduction.limited_by or "",
    )


def _work(task: tuple[str, int]) -> list[Outcome]:
    return reductions(*task)


def _one_thread() -> None:
    torch.set_num_threads(1)


def run(systems: int, seed: int, processes: int) -> list[Outcome]:
    """Judge ``systems`` systems, dealt to the families in turn, with a progress display."""
    names = list(FAMILIES)
    tasks = [(names[i % len(names)], seed + i // len(names)) for i in range(systems)]
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # inherited by the workers: many small problems, one thread each
    context = multiprocessing.get_context("spawn")
    outcomes: list[Outcome] = []
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with context.Pool(processes, initializer=_one_thread) as pool, Progress(*columns) as progress:
        bar = progress.add_task("systems", total=systems)
        for result in pool.imap_unordered(_work, tasks, chunksize=8):
            outcomes.extend(result)
            progress.advance(bar)
    return outcomes


def report(outcomes: list[Outcome], systems: int, seconds: float, console: Console) -> bool:
    """Print the table; return whether everything held."""
    headings = (
        "systems",
        "reductions",
        "stable",
        "bounded",
        "norm",
        "worst",
        "rank",
        "conditioning",
        "stability",
    )
    table = Table("family", *headings, box=SIMPLE, title="error / (bound (1 + 1e-6) + 1e-9 sigma_1)")
    for family in (*FAMILIES, "all"):
        chosen = [o for o in outcomes if family in (o.family, "all")]
        if not chosen:
            continue
        limits = [o.limited_by for o in chosen]
        table.add_row(
            family,
            str(len({(o.family, o.seed) for o in chosen})),
            str(len(chosen)),
            str(sum(o.stable for o in chosen)),
            str(sum(o.bounded for o in chosen)),
            str(sum(o.norm_reaches for o in chosen)),
            f"{max(o.ratio for o in chosen):.3f}",
            *(str(limits.count(reason)) for reason in ("rank", "conditioning", "stability")),
        )
    console.print(table)
    failed = {(o.family, o.seed) for o in outcomes if not (o.stable and o.bounded and o.norm_reaches)}
    console.print(
        f"{systems - len(failed)} of {systems} systems stable and within the bound, {seconds:.0f} s"
    )
    for family, seed in sorted(failed)[:20]:
        console.print(f"violated: draw({family!r}, {seed})")
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", type=int, default=10_000, help="number of systems (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="first seed of every family (default: 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="worker processes")
    arguments = parser.parse_args()
    started = time.perf_counter()
    outcomes = run(arguments.systems, arguments.seed, arguments.processes)
    held = report(outcomes, arguments.systems, time.perf_counter() - started, Console(width=120))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
