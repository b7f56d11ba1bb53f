"""Memory of a Mamba language model's training step: by the model's own loss, and by way of logits.

python benchmarks/loss_memory.py [--batches 4 16 64] [--threads 2] [--json FILE]

benchmarks/results/loss-memory.json was made, with two threads, with --json of that name. Each figure is the
rise of the peak resident size of a fresh process over what it had after one step of two short sequences, in
one step of a batch: loss and backward, of a model of 4 layers, 128 channels and 16 states, on 1024 tokens a
sequence.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from compressm.bench.machine import processor
from compressm.models import LanguageModel
from compressm.training import keep_freed_memory

VOCABULARY, LENGTH = 256, 1024
WAYS = ("loss", "logits")


def main() -> None:
    """Measure each batch and way in a process of its own, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 16, 64])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", nargs=2, metavar=("WAY", "BATCH"), help="measure in this process")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.alone is not None:
        print(rise(given.alone[0], int(given.alone[1])))
        return
    print(
        f"{given.threads} threads, {processor()}\n\n| batch | {' | '.join(f'{way}, MiB' for way in WAYS)} |"
    )
    print("|---:|---:|---:|")
    found: dict[str, dict[int, int]] = {way: {} for way in WAYS}
    for batch in given.batches:
        for way in WAYS:
            command = [sys.executable, __file__, "--threads", str(given.threads), "--alone", way, str(batch)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this very file
            found[way][batch] = int(done.stdout)
        print(f"| {batch} | {' | '.join(f'{found[way][batch] / 2**20:.0f}' for way in WAYS)} |", flush=True)
    if given.json is not None:
        made = {
            "threads": given.threads,
            "torch": torch.__version__,
            "processor": processor(),
            "bytes": found,
        }
        given.json.write_text(json.dumps(made, indent=1) + "\n")


def rise(way: str, batch: int) -> int:
    """Bytes by which a step of ``batch`` sequences lifts this process's peak."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = LanguageModel(VOCABULARY, num_layers=4, model_dim=128, state_dim=16)

    def step(batch: int, length: int) -> None:
        tokens = torch.randint(VOCABULARY, (batch, length + 1))
        if way == "loss":
            loss = model.loss(tokens[:, :-1], tokens[:, 1:]).mean
        else:
            logits = model(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()

    step(2, 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(batch, LENGTH)
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return rise * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
