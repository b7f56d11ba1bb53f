"""Speed of the selective recurrence, and of linear attention at several chunk sizes.

    python benchmarks/selective_scan.py [--json FILE] [--threads T] [--repeats R] [--cpu-time] [--linear]

Times are medians of interleaved runs, forward and backward of the operation in float32. Where mambapy is
installed, its parallel scan computes the same outputs and gradients in the same turns; those of the first
shape are compared. ``--cpu-time`` counts this thread's processor time instead of wall time: with
``--threads 1`` it hardly depends on what else the machine does. ``--linear`` measures linear attention
instead.
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from compressm.scan.selective import selective_scan
from compressm.scan.ssd import linear_attention_scan

Run = Callable[[], tuple[Tensor, ...]]

SHAPES = {f"B=4 L=512 d=256 N={N}": (4, 512, 256, N) for N in (128, 93, 16, 12)}
LINEAR = {
    f"B=4 L=512 heads=4 K={K} V={V} {kind}": (4, 512, 4, K, V, kind == "per channel")
    for K, V in ((16, 64), (64, 64), (128, 128))
    for kind in ("scalar", "per channel")
}
CHUNKS = (16, 32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall time")
    parser.add_argument("--linear", action="store_true", help="linear attention instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.thread_time if options.cpu_time else time.perf_counter
    rows = {}
    for name, runs in (linear_runs() if options.linear else selective_runs()).items():
        rows[name] = row = measure(runs, options.repeats, clock)
        fastest = min(row.values())
        cells = (f"{run} {1e3 * seconds:.1f} ({seconds / fastest:.2f})" for run, seconds in row.items())
        print(f"{name:42}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    print("milliseconds, forward and backward (in brackets: ratio to the fastest)")
    if options.json:
        result = {"threads": options.threads, "cpu_time": options.cpu_time, "seconds": rows}
        options.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


def measure(runs: dict[str, Run], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each run, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for attempt in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if attempt > 0:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def selective_runs() -> dict[str, dict[str, Run]]:
    """The operation, and mambapy's where it is installed, at each shape."""
    result: dict[str, dict[str, Run]] = {}
    for name, shape in SHAPES.items():
        operands = selective_operands(*shape)
        runs: dict[str, Run] = {"scan": backward_of(lambda *given: selective_scan(*given)[0], operands)}
        if importlib.util.find_spec("mambapy") is not None:
            runs["mambapy"] = backward_of(mambapy_scan, operands)
            if not result:
                for ours, theirs in zip(runs["scan"](), runs["mambapy"](), strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-2)
        result[name] = runs
    return result


def selective_operands(batch: int, L: int, d: int, N: int) -> list[Tensor]:
    """u, delta, A, B, C and D as in a Mamba layer at its start."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    delta = 0.001 * 100 ** torch.rand(batch, L, d, generator=generator)
    A = -torch.arange(1.0, N + 1).repeat(d, 1)
    operands = [normal(batch, L, d), delta, A, normal(batch, L, N), normal(batch, L, N), normal(d)]
    return [operand.requires_grad_() for operand in operands]


def mambapy_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The same by mambapy's parallel scan, which wants decays and inputs of every state at every step."""
    pscan = importlib.import_module("mambapy.pscan").pscan
    decays = torch.exp(delta[..., None] * A)
    states: Tensor = pscan(decays, (delta * u)[..., None] * B[:, :, None])
    return (states @ C[..., None]).squeeze(-1) + D * u


def linear_runs() -> dict[str, dict[str, Run]]:
    """Linear attention at each shape and chunk size."""
    result: dict[str, dict[str, Run]] = {}
    for name, shape in LINEAR.items():
        operands = linear_operands(*shape)
        result[name] = {f"chunk {size}": backward_of(chunked(size), operands) for size in CHUNKS}
    return result


def linear_operands(batch: int, L: int, heads: int, K: int, V: int, per_channel: bool) -> list[Tensor]:
    """q, k, v and logarithms of decays around 0.95."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, L, heads, width, generator=generator) for width in (K, K, V))
    shape = (batch, L, heads, K) if per_channel else (batch, L, heads)
    log_decay = -0.1 * torch.rand(shape, generator=generator)
    return [operand.requires_grad_() for operand in (q, k, v, log_decay)]


def chunked(size: int) -> Callable[..., Tensor]:
    return lambda *given: linear_attention_scan(*given, chunk_size=size)[0]


def backward_of(operation: Callable[..., Tensor], operands: list[Tensor]) -> Run:
    """A training step of the operation: outputs, then gradients of all operands."""

    def run() -> tuple[Tensor, ...]:
        y = operation(*operands)
        return torch.autograd.grad(y, operands, torch.ones_like(y))

    return run


if __name__ == "__main__":
    main()
