"""Seconds of a cut: all layers of a model balanced, truncated and written back, with optimiser state.

python benchmarks/cut.py [--layers 6] [--states 384] [--channels 512] [--keep 93] [--batches 1] [--json FILE]

"balanced" knows the system alone, "states" the inputs of so many forward passes of 4 sequences, of which
training remembers up to 4. Wall-clock time, and processor time of all threads, which others on the machine
disturb less.
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import compressm
from compressm.models import SequenceClassifier


def main() -> None:
    """Time attempts of each reduction, and print and save medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (
        ("layers", 6),
        ("states", 384),
        ("channels", 512),
        ("keep", 93),
        ("batches", 1),
        ("repeats", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, object] = {**vars(given), "json": None, "threads": torch.get_num_threads()}
    for reduction in ("balanced", "states"):
        runs = [attempt(given, reduction) for _ in range(given.repeats)]
        seconds, processor = ([run[which] for run in runs] for which in (0, 1))
        found[reduction] = {
            "seconds": seconds,
            "median": statistics.median(seconds),
            "processor_seconds": processor,
        }
        print(
            f"{reduction}: {given.layers} layers, {given.states} -> {given.keep} states, H={given.channels}: "
            f"{statistics.median(seconds):.2f} s (of {', '.join(f'{run:.2f}' for run in seconds)}), "
            f"{torch.get_num_threads()} threads, {min(processor):.2f} s of processor time at least"
        )
    found["peak_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process, training step included: {found['peak_MiB']:.0f} MiB")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def attempt(given: argparse.Namespace, reduction: str) -> tuple[float, float]:
    """Seconds, by the clock and of the processor, of one cut of a fresh model after one training step."""
    torch.manual_seed(0)
    model = SequenceClassifier(
        3, 10, num_layers=given.layers, model_dim=given.channels, state_dim=given.states
    )
    optimizer = torch.optim.AdamW(compressm.parameter_groups(model, lr=1e-3))
    compressor = compressm.Compressor(
        model,
        optimizer,
        rank=compressm.FixedRank(given.keep),
        schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
        reduction=reduction,
    )
    with torch.no_grad():
        for _ in range(given.batches - 1):
            model(torch.randn(4, given.length, 3))
    F.cross_entropy(model(torch.randn(4, given.length, 3)), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    began = time.perf_counter(), time.process_time()
    cut = compressor.step()
    ended = time.perf_counter(), time.process_time()
    if cut is None or not cut.changed:
        raise RuntimeError("the schedule made no cut; this is a defect of the benchmark")
    return ended[0] - began[0], ended[1] - began[1]


if __name__ == "__main__":
    main()
