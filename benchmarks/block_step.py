"""A classifier's training step on a CPU: blocks fused or part by part, with padded sequences and without.

python benchmarks/block_step.py [--threads 2] [--rounds 9] [--dropout 0.1] [--json FILE]

benchmarks/results/block-step.json was made with --json of that name. A step is forward and backward of
:class:`compressm.models.SequenceClassifier`; alternatives run in turns in one process, medians. "Padded"
batches have lengths between half of L and L. "Gathered" is the norm of a padded batch as it is in plain
PyTorch: what is data is taken out, normalised and put in again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from compressm.bench.machine import processor
from compressm.models import SequenceClassifier, block, norm
from compressm.training import keep_freed_memory

SHAPES = (  # batch, L, H, N, layers
    (4, 1024, 512, 384, 6),
    (4, 1024, 512, 93, 6),
    (16, 1024, 128, 64, 4),
    (32, 784, 64, 128, 2),
)
WAYS = ("fused", "parts", "fused, padded", "parts, padded", "parts, gathered")


def main() -> None:
    """Measure every shape, print a line for each, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    print(f"{given.threads} threads, {processor()}; milliseconds of a step, dropout {given.dropout}\n")
    print(f"| batch | L | H | N | layers | {' | '.join(WAYS)} |\n|{'---:|' * (5 + len(WAYS))}", flush=True)
    found = []
    for shape in SHAPES:
        times = measure(shape, given.dropout, given.rounds)
        cells = [*map(str, shape), *(f"{1e3 * times[way]:.1f}" for way in WAYS)]
        print(f"| {' | '.join(cells)} |", flush=True)
        found.append({"batch, L, H, N, layers": shape, "seconds": times})
    if given.json is not None:
        made = {
            "threads": given.threads,
            "rounds": given.rounds,
            "dropout": given.dropout,
            "torch": torch.__version__,
            "processor": processor(),
            "steps": found,
        }
        given.json.write_text(json.dumps(made, indent=1) + "\n")


def measure(shape: tuple[int, ...], dropout: float, rounds: int) -> dict[str, float]:
    """Median seconds of a step each way."""
    batch, L, H, N, layers = shape
    torch.manual_seed(0)
    model = SequenceClassifier(3, 10, num_layers=layers, model_dim=H, state_dim=N, dropout=dropout)
    inputs, targets = torch.randn(batch, L, 3), torch.randint(10, (batch,))
    lengths = torch.randint(L // 2, L + 1, (batch,))

    def step(way: str) -> None:
        model.zero_grad(set_to_none=True)
        logits = model(inputs, None if way in ("fused", "parts") else lengths)
        F.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]

    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(1 + rounds):  # the first loads kernels
        for way in WAYS:
            with set_to(way):
                step(way)
                began = time.perf_counter()
                step(way)
                if number:
                    seconds[way].append(time.perf_counter() - began)
    return {way: statistics.median(taken) for way, taken in seconds.items()}


@contextmanager
def set_to(way: str) -> Iterator[None]:
    """Let blocks run in this way."""
    replaced: list[tuple[Any, str, Callable[..., bool]]] = []
    if way.startswith("parts"):
        replaced.append((block, "serves", lambda *_: False))
    if way.endswith("gathered"):
        replaced.append((norm, "takes", lambda *_: False))
    before = [getattr(module, name) for module, name, _ in replaced]
    for module, name, function in replaced:
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name, _), function in zip(replaced, before, strict=True):
            setattr(module, name, function)


if __name__ == "__main__":
    main()
