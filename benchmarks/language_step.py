"""A training step of small language models at falling state sizes: what a cut is worth in time.

python benchmarks/language_step.py [--rounds 7] [--threads 1] [--bf16] [--device cuda] [--json FILE]
    [--figure FILE]

benchmarks/results/language-step.json and language-step.png were made, on two cores, with
python benchmarks/language_step.py --threads 2 --rounds 15 --bf16 \\
    --json benchmarks/results/language-step.json --figure benchmarks/results/language-step.png
language-step-mamba.json with --threads 2 --mixers mamba mamba-logits mamba-apart --rounds 40 --bf16, and
language-step-mamba-1.json with --threads 1. Models are called by their own loss, as training does:
mamba-logits makes logits and takes their cross entropy instead; mamba-apart is what that is where somebody
watches the parts: the norm, the projections and what is between them one after the other, each for the whole
batch.

Two layers, 64 channels, 16 sequences of 128 tokens, unless told otherwise (a GPU waits for its launches at
this size: try --layers 4 --dim 512 --length 1024 there); loss, backward, AdamW, as training runs them, which
keep the memory of the step before. Layers, their sizes, and precisions take turns round by
round, so that their ratio holds on a machine whose speed drifts, and each goes once unmeasured before, so
that caches are as they are in training. --bf16 measures steps under autocast, too.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from compressm.bench.machine import processor
from compressm.layers import Mamba
from compressm.models import LanguageModel
from compressm.training import keep_freed_memory
from compressm.training.device import Precision, autocast

VOCABULARY = 67
HALF = " bf16"  # behind the name of a layer under autocast
LOGITS = "mamba-logits"  # logits, then their cross entropy
APART = "mamba-apart"  # of norm, projections and inner part one after the other
SIZES = {
    "mamba": (128, 64, 32, 16, 12, 8, 4),
    "mamba2": (128, 64, 32, 16),
    "gla": (64, 32, 16),
    "retnet": (64, 32, 16),
    "deltanet": (64, 32, 16),
    "gated-deltanet": (64, 32, 16),
    LOGITS: (128, 12),
    APART: (128, 12),
}


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name, default in (("layers", 2), ("dim", 64), ("batch", 16), ("length", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument(
        "--mixers",
        nargs="+",
        default=[name for name in SIZES if name not in (LOGITS, APART)],
        choices=list(SIZES),
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    medians = measure(given)
    where = (
        torch.cuda.get_device_name() if given.device == "cuda" else f"{given.threads} threads, {processor()}"
    )
    print(f"{where}, median of {given.rounds} rounds\n")
    print("| layer | states | step, ms | times faster |\n|---|---:|---:|---:|")
    for name, seconds in medians.items():
        largest = max(seconds)
        for size, median in seconds.items():
            print(f"| {name} | {size} | {1e3 * median:.1f} | {seconds[largest] / median:.2f} |")
    if given.json is not None:
        found = {
            "threads": given.threads,
            "rounds": given.rounds,
            "torch": torch.__version__,
            "device": where,
        }
        shape = {"layers": given.layers, "model_dim": given.dim, "batch": given.batch, "L": given.length}
        given.json.write_text(json.dumps({**found, **shape, "seconds": medians}, indent=1) + "\n")
    if given.figure is not None:
        draw(medians).savefig(given.figure, dpi=150, bbox_inches="tight")


def measure(given: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Median seconds of a step at each size, by the layer's name and precision."""
    precisions: list[Precision] = ["float32", "bf16"] if given.bf16 else ["float32"]
    steps = {
        (mixer + (HALF if precision == "bf16" else ""), size): make_step(mixer, size, given, precision)
        for mixer in given.mixers
        for precision in precisions
        for size in SIZES[mixer]
    }
    for step in steps.values():
        step()
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    for _ in range(given.rounds):
        for key, step in steps.items():
            step()  # as in training, where the step before was of the same model
            began = time.perf_counter()
            step()
            seconds[key].append(time.perf_counter() - began)
    medians: dict[str, dict[int, float]] = {}
    for (name, size), times in seconds.items():
        medians.setdefault(name, {})[size] = statistics.median(times)
    return medians


def make_step(
    mixer: str, size: int, given: argparse.Namespace, precision: Precision = "float32"
) -> Callable[[], None]:
    """A training step, ready to run, that ends when the device has done it."""
    torch.manual_seed(0)
    model = LanguageModel(
        VOCABULARY,
        num_layers=given.layers,
        model_dim=given.dim,
        state_dim=size,
        mixer="mamba" if mixer in (LOGITS, APART) else mixer,
    ).to(given.device)
    if mixer == APART:  # what is watched is called by itself
        for module in model.modules():
            if isinstance(module, Mamba):
                module.out_proj.register_forward_hook(lambda *_: None)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(VOCABULARY, (given.batch, given.length + 1), device=given.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device(given.device), precision):
            if mixer in (LOGITS, APART):
                logits = model(tokens[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            else:
                loss = model.loss(tokens[:, :-1], tokens[:, 1:]).mean
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if given.device == "cuda":
            torch.cuda.synchronize()

    return step


def draw(medians: dict[str, dict[int, float]]) -> Figure:
    """Step time against states."""
    figure = Figure(figsize=(5.4, 3.6))
    axes = figure.add_subplot()
    tones = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#999999")
    colours = dict(zip(SIZES, tones, strict=True))
    for name, seconds in medians.items():
        half = name.endswith(HALF)
        axes.plot(
            list(seconds), [1e3 * s for s in seconds.values()], "o:" if half else "o-",
            color=colours[name.removesuffix(HALF)], mfc="white" if half else None, label=name,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([4, 8, 16, 32, 64, 128], ["4", "8", "16", "32", "64", "128"])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("states of a layer (key channels of a head)")
    axes.set_ylabel("training step, ms")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


if __name__ == "__main__":
    main()
