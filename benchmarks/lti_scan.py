"""Speed of the LTI recurrence: every form, the floor, and what the cost model picks.

    python benchmarks/lti_scan.py [--json FILE] [--threads T] [--repeats R] [--grid] [--cpu-time]

Times are medians of interleaved runs, forward and backward of the operation in float32. The floor is the six
matrix products that a projecting form cannot avoid (into and out of the states, and twice that backward), by
``torch.mm`` on the same threads. ``--grid`` adds a grid of shapes on both sides of where one form overtakes
the other. ``--cpu-time`` counts processor time instead of wall time: with ``--threads 1`` it hardly depends
on what else the machine does.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from compressm.scan import lti_scan
from compressm.scan.lti.calibration import example
from compressm.scan.lti.cost import Shape, choose_form

NAMED = {
    "sMNIST, N=256": Shape(50, 784, 8, 8, 256),
    "sMNIST, N=28": Shape(50, 784, 8, 8, 28),
    "two blocks' one, N=128": Shape(32, 784, 64, 64, 128),
    "sCIFAR, N=384": Shape(4, 1024, 512, 512, 384),
    "sCIFAR, N=93": Shape(4, 1024, 512, 512, 93),
    "one long sequence": Shape(1, 16_384, 64, 64, 128),
    "many short ones": Shape(256, 64, 32, 32, 64),
}
GRID = {
    f"{batch}x{L} H={H} N={N}": Shape(batch, L, H, H, N)
    for batch, L in ((1, 2048), (4, 600), (24, 1000))
    for H in (2, 6, 12, 24, 48)
    for N in (16, 64, 200)
}
FORMS = ("scan", "convolution")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--grid", action="store_true", help="add the grid of shapes")
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    print(
        f"{'shape':28}{'floor':>9}"
        + "".join(f"{form:>13}" for form in FORMS)
        + f"{'auto':>13}{'auto/best':>10}"
    )
    rows = {}
    for name, shape in (NAMED | (GRID if options.grid else {})).items():
        rows[name] = row = measure(shape, options.repeats, clock)
        picked = choose_form(shape, training=True, threads=options.threads)
        row["auto_over_best"] = row[picked] / min(row[form] for form in FORMS if form in row)
        cells = [f"{1e3 * row[form]:.2f}" if form in row else "-" for form in ("floor", *FORMS)]
        cells += [picked, f"{row['auto_over_best']:.2f}"]
        print(f"{name:28}" + "".join(f"{cell:>13}" for cell in cells), flush=True)
    worst = max(rows, key=lambda name: rows[name]["auto_over_best"])
    print(f"milliseconds; worst choice: {rows[worst]['auto_over_best']:.2f} of the best ({worst})")
    if options.json:
        result = {"threads": options.threads, "cpu_time": options.cpu_time, "seconds": rows}
        options.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


def measure(shape: Shape, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of the floor and of each form, in turns."""
    runs: dict[str, Callable[[], object]] = {"floor": floor(shape), "scan": training_step(shape, "scan")}
    if shape.H * shape.P * shape.L <= 1 << 23:  # beyond that, a kernel of hundreds of megabytes
        runs["convolution"] = training_step(shape, "convolution")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for attempt in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if attempt > 0:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def training_step(shape: Shape, form: str) -> Callable[[], object]:
    operands = example(shape, requires_grad=True)
    weight = torch.ones(shape.batch, shape.L, shape.P)

    def run() -> object:
        y, _ = lti_scan(*operands, form=form)
        return torch.autograd.grad(y, operands, weight)

    return run


def floor(shape: Shape) -> Callable[[], object]:
    """The six products: u and x forward; their two gradients each, backward. Buffers are made once."""
    rows, states = shape.batch * shape.L, 2 * shape.N
    u, x, y = torch.randn(rows, shape.H), torch.randn(rows, states), torch.randn(rows, shape.P)
    B, C = torch.randn(states, shape.H), torch.randn(states, shape.P)
    like_u, like_x, like_y = torch.empty_like(u), torch.empty_like(x), torch.empty_like(y)
    like_B, like_C = torch.empty_like(B), torch.empty_like(C)

    def run() -> object:
        torch.mm(u, B.T, out=like_x)
        torch.mm(x, C, out=like_y)
        torch.mm(y, C.T, out=like_x)
        torch.mm(x.T, y, out=like_C)
        torch.mm(x.T, u, out=like_B)
        return torch.mm(x, B, out=like_u)

    return run


if __name__ == "__main__":
    main()
