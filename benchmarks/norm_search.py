"""Does the search for the H-infinity norm miss peaks?  Compares it with an expensive, independent look.

python benchmarks/norm_search.py [--systems 30] [--seed 0]

Systems with 17 to 48 inputs and outputs, which the library searches without forming their transfer matrix:
poles from the families of ``random_systems_families.py``, channels of very unequal strength, and of each the
error of a reduction (balanced, weighted by data, modal), of a small change of all parameters, or the system
itself.  The other look is plain NumPy and SciPy: the whole transfer matrix on a dense frequency grid around
the angle of every eigenvalue, and bounded scalar minimisation around each of its highest points.

Prints how far the norm found lies below and above the other one, relative, and the processor time of both.
Exits with status 1 if it is lower by more than 1e-7, or higher by more than 1e-7.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from random_systems_families import Complex, Real, draw
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize_scalar

from compressm.lti import DiagonalSystem, balance, modal_truncation

POLES = ("disc", "ring", "large", "near_circle", "clustered", "repeated", "real_poles", "near_real")
ALLOWED = 1e-7
_MULTIPLES = np.concatenate([[0.0], np.geomspace(0.02, 1e4, 30)])  # grid points beside a pole, in its widths
_TOGETHER = 64  # frequencies at a time
_REFINED = 24


@dataclass(frozen=True)
class Outcome:
    """One comparison: ``below`` and ``above`` relative to the independent norm, times in seconds."""

    poles: str
    kind: str
    index: int
    below: float
    above: float
    search: float
    look: float


def wide_system(poles: str, rng: np.random.Generator) -> DiagonalSystem:
    """Poles of a family, drawn until there are enough, between many channels of unequal strength."""
    least, inputs, outputs = int(rng.integers(16, 65)), *(int(n) for n in rng.integers(17, 49, 2))
    log_A = np.empty(0, dtype=np.complex128)
    while len(log_A) < least:
        log_A = np.concatenate([log_A, draw(poles, int(rng.integers(1 << 30))).log_A])
    states = len(log_A)
    gamma = np.sqrt(-np.expm1(2.0 * log_A.real))[:, None]
    B = gamma * _normal(rng, states, inputs) * _strengths(rng, inputs) / math.sqrt(inputs)
    C = _strengths(rng, outputs)[:, None] * _normal(rng, outputs, states) / math.sqrt(states)
    D = 0.1 * rng.standard_normal((outputs, inputs))
    return DiagonalSystem(None, *map(torch.from_numpy, (B, C, D)), log_A=torch.from_numpy(log_A))


def _normal(rng: np.random.Generator, *shape: int) -> Complex:
    return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


def _strengths(rng: np.random.Generator, channels: int) -> Real:
    """Equal, or falling by up to four decades: the leading gain is then nearly alone, or one of many."""
    return np.asarray(10.0 ** (-rng.uniform(0.0, 4.0) * rng.permutation(channels) / channels))


def balanced(system: DiagonalSystem, rng: np.random.Generator) -> DiagonalSystem:
    """Error of balanced truncation."""
    balancing = balance(system)
    keep = int(rng.integers(1, max(2, balancing.rank)))
    return system - balancing.truncate(keep=keep).system


def weighted(system: DiagonalSystem, rng: np.random.Generator) -> DiagonalSystem:
    """Error of a truncation that knows only a few inputs: large, with sharp peaks at slow poles."""
    states = 2 * system.state_dim
    factor = torch.from_numpy(rng.standard_normal((states, states)) * 10.0 ** rng.uniform(-3.0, 0.0, states))
    balancing = balance(system, controllability=factor)
    return system - balancing.truncate(keep=int(rng.integers(1, max(2, balancing.rank)))).system


def modal(system: DiagonalSystem, rng: np.random.Generator) -> DiagonalSystem:
    """Error of modal truncation: the modes left out."""
    return system - modal_truncation(system, int(rng.integers(1, system.state_dim))).system


def changed(system: DiagonalSystem, rng: np.random.Generator) -> DiagonalSystem:
    """What a relative change of all parameters does: a difference of two that agree to many digits."""
    size = 10.0 ** rng.uniform(-7.0, -2.0)  # below, rounding itself is more than is allowed

    def near(matrix: torch.Tensor) -> torch.Tensor:
        return matrix * torch.from_numpy(1.0 + size * rng.standard_normal(matrix.shape))

    log_A = torch.complex(near(system.log_A.real), system.log_A.imag)
    return system - DiagonalSystem(None, near(system.B), near(system.C), system.D, log_A=log_A)


def whole(system: DiagonalSystem, _rng: np.random.Generator) -> DiagonalSystem:
    """The system itself."""
    return system


KINDS: dict[str, Callable[[DiagonalSystem, np.random.Generator], DiagonalSystem]] = {
    kind.__name__: kind for kind in (balanced, weighted, modal, changed, whole)
}


def transfer(system: DiagonalSystem, omega: Real) -> Complex:
    """``(F, P, H)``, written anew."""
    log_A, B, C = (matrix.numpy() for matrix in (system.log_A, system.B, system.C))
    shift = -1j * omega[:, None]
    plus, minus = -1.0 / np.expm1(log_A + shift), -1.0 / np.expm1(log_A.conj() + shift)
    both = (C * plus[:, None, :]) @ B + (C.conj() * minus[:, None, :]) @ B.conj()
    return np.asarray(0.5 * both + system.direct_matrix().numpy())


def gain(system: DiagonalSystem, omega: float) -> float:
    """The largest singular value at one frequency."""
    return float(np.linalg.svd(transfer(system, np.array([omega]))[0], compute_uv=False)[0])


def dense_grid(log_A: npt.NDArray[np.complexfloating]) -> Real:
    """The angle of every eigenvalue, many points beside it, and 1024 everywhere.

    Of points closer than a hundredth of the least width one is kept: around a maximum among points that
    rounding cannot tell apart there is nothing to refine.
    """
    widths = np.minimum(-log_A.real, 3.0)
    offsets = np.concatenate([-_MULTIPLES, _MULTIPLES])
    points = (log_A.imag[:, None] + widths[:, None] * offsets).ravel()
    points = np.abs(np.remainder(points + math.pi, 2.0 * math.pi) - math.pi)
    points = np.unique(np.concatenate([points, np.linspace(0.0, math.pi, 1025)]))
    kept = [0.0]
    for point in points[1:].tolist():
        if point - kept[-1] >= 0.01 * widths.min():
            kept.append(point)
    return np.array([*kept, math.pi])


def independent_norm(system: DiagonalSystem) -> float:
    """The largest gain on the dense grid and around its highest points.

    Where the Frobenius norm is below a gain that is attained elsewhere, so is the gain: of such a point no
    singular values are computed.
    """
    grid = dense_grid(system.log_A.numpy())
    parts = np.array_split(grid, -(-len(grid) // _TOGETHER))
    bounds = np.concatenate([np.linalg.norm(transfer(system, part), axis=(1, 2)) for part in parts])
    best = gain(system, float(grid[bounds.argmax()]))
    values = np.full(len(grid), -math.inf)
    for index in np.argsort(bounds)[::-1]:
        if bounds[index] < 0.9 * best:
            break
        values[index] = gain(system, float(grid[index]))
        best = max(best, values[index])
    padded = np.concatenate([[-math.inf], values, [-math.inf]])
    summits = np.flatnonzero((values >= padded[:-2]) & (values >= padded[2:]) & np.isfinite(values))
    for index in summits[np.argsort(values[summits])[::-1][:_REFINED]]:
        # As an offset from the point, which SciPy's tolerance is relative to: a peak may be 1e-7 wide.
        middle, low, high = (
            float(grid[i]) for i in (index, max(index - 1, 0), min(index + 1, len(grid) - 1))
        )
        found = minimize_scalar(
            lambda offset, middle=middle: -gain(system, middle + offset),
            bounds=(low - middle, high - middle),
            method="bounded",
            options={"xatol": 0.0},
        )
        best = max(best, -float(found.fun))
    return best


def compare(poles: str, kind: str, index: int, seed: int) -> Outcome:
    """Draw one system and look at it in both ways."""
    rng = np.random.default_rng([seed, index])
    system = KINDS[kind](wide_system(poles, rng), rng)
    began = time.process_time()
    found = system.hinf_norm()
    middle = time.process_time()
    other = independent_norm(system)
    ended = time.process_time()
    difference = (found - other) / other if other > 0.0 else found
    return Outcome(
        poles, kind, index, max(0.0, -difference), max(0.0, difference), middle - began, ended - middle
    )


def report(outcomes: list[Outcome], console: Console) -> bool:
    """Print the table; return whether every norm agreed."""
    headings = ("systems", "lower by", "higher by", "search, ms", "other look, ms")
    table = Table("", *headings, box=SIMPLE, title="worst relative difference, mean processor time")
    for name in (*POLES, *KINDS, "all"):
        chosen = [o for o in outcomes if name in (o.poles, o.kind, "all")]
        if chosen:
            table.add_row(
                name,
                str(len(chosen)),
                f"{max(o.below for o in chosen):.1e}",
                f"{max(o.above for o in chosen):.1e}",
                f"{1e3 * sum(o.search for o in chosen) / len(chosen):.0f}",
                f"{1e3 * sum(o.look for o in chosen) / len(chosen):.0f}",
            )
    console.print(table)
    wrong = [o for o in outcomes if max(o.below, o.above) > ALLOWED]
    for o in wrong:
        console.print(
            f"differs: compare({o.poles!r}, {o.kind!r}, {o.index}, seed): -{o.below:.1e} +{o.above:.1e}"
        )
    return not wrong


def main() -> int:
    """Compare so many systems, dealt to families of poles and kinds of systems in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", type=int, default=30, help="number of systems (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all of them (default: 0)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    kinds = list(KINDS)
    outcomes = [
        compare(POLES[index % len(POLES)], kinds[index % len(kinds)], index, given.seed)
        for index in range(given.systems)
    ]
    return 0 if report(outcomes, Console(width=110)) else 1


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    sys.exit(main())
