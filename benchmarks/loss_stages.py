"""How long each stage of a Mamba language model's loss and gradients takes.

python benchmarks/loss_stages.py [--states 12] [--threads 1] [--bf16] [--rounds 60]

Two layers, 64 channels, 16 sequences of 128 tokens. The program is cut off behind each of its stages in turn,
round by round; a stage takes what it adds to the median. What is not the program (Python, autograd, gathering
gradients) is told by benchmarks/language_step.py, whose steps hold it.
"""

import argparse
import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from compressm.bench.machine import processor
from compressm.models import LanguageModel
from compressm.scan.runtime.program import Program
from compressm.training import keep_freed_memory

Call = tuple[Program, Mapping[str, Tensor | None], int, int]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--states", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--bf16", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    model = LanguageModel(67, num_layers=2, model_dim=64, state_dim=given.states)
    tokens = torch.randint(67, (16, 129))
    program, operands, items, workers = _call_of(model, tokens, half=given.bf16)
    count = len(program.stages)
    seconds: list[list[float]] = [[] for _ in range(count + 1)]
    for _ in range(given.rounds):
        for stages, taken in enumerate(seconds):
            began = time.perf_counter()
            program.run(operands, items, workers, stages=stages)
            taken.append(time.perf_counter() - began)
    medians = [1e3 * statistics.median(taken) for taken in seconds]
    kinds: dict[str, float] = {}
    print(f"{given.threads} threads, {processor()}, {given.states} states, median of {given.rounds} rounds\n")
    print("| stage | kernel | ms |\n|---:|---|---:|")
    for stage, name in enumerate(stage.removeprefix("compressm.") for stage in program.stages):
        added = medians[stage + 1] - medians[stage]
        kinds[name] = kinds.get(name, 0.0) + added
        print(f"| {stage + 1} | {name} | {added:.3f} |")
    print("\n| kernel | ms |\n|---|---:|")
    for name, added in sorted(kinds.items(), key=lambda kind: -kind[1]):
        print(f"| {name} | {added:.2f} |")
    print(f"| all, with starting | {medians[-1]:.2f} |")


def _call_of(model: LanguageModel, tokens: Tensor, *, half: bool) -> Call:
    """The program that a loss runs, and what it runs it on."""
    calls: list[Call] = []
    run = Program.run

    def remember(self: Program, operands: Mapping[str, Tensor | None], items: int, workers: int) -> Tensor:
        calls.append((self, operands, items, workers))
        return run(self, operands, items, workers)

    Program.run = remember  # type: ignore[method-assign, assignment]
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            model.loss(tokens[:, :-1], tokens[:, 1:])
    finally:
        Program.run = run  # type: ignore[method-assign]
    if not calls:
        raise SystemExit("no program serves this model here: see README.md, Speed")
    return calls[0]


if __name__ == "__main__":
    main()
