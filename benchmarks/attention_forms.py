"""Linear attention on a CPU, recurrent kernels against chunks of products: forward and backward, by shape.

python benchmarks/attention_forms.py [--threads 2] [--rounds 9] [--json FILE]

benchmarks/results/attention-forms.json was made, on two cores, with
python benchmarks/attention_forms.py --threads 2 --json benchmarks/results/attention-forms.json

Forms take turns round by round; times are medians in milliseconds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch

from compressm.bench.attention import attention_operands
from compressm.bench.cases import AttentionCase
from compressm.scan import linear_attention_scan
from compressm.training import keep_freed_memory

FORMS = ("chunked", "recurrent")
SHAPES = [  # batch, L, heads, K, V
    (16, 128, 4, 64, 16),
    (16, 128, 4, 16, 16),
    (16, 128, 2, 64, 64),
    (16, 128, 2, 16, 64),
    (4, 1024, 8, 64, 64),
    (8, 256, 4, 128, 64),
    (8, 256, 2, 128, 128),
    (4, 256, 2, 256, 256),
]


class Row(NamedTuple):
    """Medians of one shape, in milliseconds, by form."""

    shape: tuple[int, ...]
    per_channel: bool
    forward: dict[str, float]
    both: dict[str, float]


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    print("| batch, L, heads, K, V | decays | chunked, ms | recurrent, ms | times faster |")
    print("|---|---|---:|---:|---:|")
    rows = []
    for shape in SHAPES:
        for per_channel in (False, True):
            row = measure(shape, per_channel, given.rounds)
            rows.append(row._asdict())
            chunked, recurrent = (row.both[form] for form in FORMS)
            decays = "each key channel" if per_channel else "each head"
            print(
                f"| {', '.join(map(str, shape))} | {decays} | {chunked:.1f} | {recurrent:.1f} "
                f"| {chunked / recurrent:.2f} |",
                flush=True,
            )
    if given.json is not None:
        found = {"threads": given.threads, "rounds": given.rounds, "torch": torch.__version__, "rows": rows}
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(shape: tuple[int, int, int, int, int], per_channel: bool, rounds: int) -> Row:
    """Both forms on the same operands, the first round not counted."""
    batch, L, heads, K, V = shape
    case = AttentionCase(
        name="linear attention", batch=batch, L=L, heads=heads, K=K, V=V, per_channel=per_channel
    )
    operands = attention_operands(case, "cpu")
    forward: dict[str, list[float]] = {form: [] for form in FORMS}
    both: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(rounds + 1):
        for form in FORMS:
            began = time.perf_counter()
            y, _ = linear_attention_scan(*operands, form=form)
            forward[form].append(1e3 * (time.perf_counter() - began))
            torch.autograd.grad(y.sum(), operands)
            both[form].append(1e3 * (time.perf_counter() - began))
    medians = ({form: statistics.median(ms[1:]) for form, ms in times.items()} for times in (forward, both))
    return Row(shape, per_channel, *medians)


if __name__ == "__main__":
    main()
