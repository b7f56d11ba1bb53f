"""Long sequences: seconds per step of time and memory of one layer's recurrence, forward and backward.

    python benchmarks/lti_scan_long.py [--json FILE] [--form auto]

One sequence, N=256, H=P=64, float32. Each length runs in a process of its own, so that the peak of its
resident memory is its own; the table shows its rise during the operation. Time should grow with L and no
faster.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from compressm.scan import lti_scan
from compressm.scan.lti.calibration import example
from compressm.scan.lti.cost import Shape

LENGTHS = (2_048, 8_192, 32_768, 131_072)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--form", default="auto")
    parser.add_argument("--length", type=int, help="measure one length, print it as JSON")
    options = parser.parse_args()
    if options.length:
        print(json.dumps(measure(options.length, options.form)))
        return
    titles = ("L", "ms", "us per step", "peak memory, MB", "u, y, gradients, MB")
    print("".join(f"{title:>22}" for title in titles))
    rows = {}
    for length in LENGTHS:
        command = [sys.executable, __file__, "--length", str(length), "--form", options.form]
        found = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - this very file
        rows[length] = row = json.loads(found.stdout)
        signals = 4 * length * 64 * 4 / 1e6
        figures = (1e3 * row["seconds"], 1e6 * row["seconds"] / length, row["megabytes"], signals)
        print(f"{length:22}" + "".join(f"{figure:22.2f}" for figure in figures), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def measure(length: int, form: str) -> dict[str, float]:
    step(64, form)  # compilers and libraries load outside the count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = min(step(length, form) for _ in range(3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "megabytes": (peak - before) / 1024}


def step(length: int, form: str) -> float:
    operands = example(Shape(1, length, 64, 64, 256), requires_grad=True)
    start = time.perf_counter()
    y, _ = lti_scan(*operands, form=form)
    torch.autograd.grad(y.sum(), operands)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
