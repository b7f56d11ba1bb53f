"""What Hankel regularisation adds to a training step: by a bound that is seldom made anew, exact, and naive.

python benchmarks/hankel_step.py [--rounds 15] [--naive-rounds 3] [--states 256] [--steps 300] [--json FILE]

benchmarks/results/hankel-step.json was made with
python benchmarks/hankel_step.py --json benchmarks/results/hankel-step.json

Sequential MNIST's shape: one LRU block of 8 channels, 50 sequences of 784 samples; forward, cross entropy,
the term, backward, AdamW.  Twice: at the initialisation, and after training with the term (weight 1e-3) on
noisy sines whose frequency is the class, where most Hankel singular values are tiny.  Processor time on one
thread.  All kinds of step take turns in one process, and a ratio is the median over the rounds of the ratio
to the plain steps right before and after.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressm.adapters import find_layers
from compressm.lti import Realization
from compressm.models import SequenceClassifier
from compressm.rivals import HankelRegularizer, differentiable_hankel_values
from compressm.rivals.layer_systems import layer_systems

CLASSES, CHANNELS, BATCH, LENGTH = 10, 8, 50, 784
REFRESH = (1, 2, 4, 8, 16)
FORMS: tuple[Realization, ...] = ("complex", "real")
SMALL = 1e-4


class Measured(NamedTuple):
    """Medians over the rounds.

    Attributes:
        milliseconds: Of a step, in processor time.
        ratio: To a plain step.
    """

    milliseconds: float
    ratio: float


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--naive-rounds", type=int, default=3, help="rounds that have the naive steps too")
    parser.add_argument("--states", type=int, default=256)
    parser.add_argument("--steps", type=int, default=300, help="of training before the second measurement")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SequenceClassifier(1, CLASSES, num_layers=1, model_dim=CHANNELS, state_dim=given.states)
    found = {"initialisation": at(model, given)}
    train(model, given.steps)
    found[f"after {given.steps} steps"] = at(model, given)
    if given.json is not None:
        shape = {"layers": 1, "N": given.states, "H": CHANNELS, "L": LENGTH, "batch": BATCH}
        method = {"threads": 1, "clock": "process_time", "rounds": given.rounds}
        method |= {"naive_rounds": given.naive_rounds, "ratio": "median of the ratios within rounds"}
        text = json.dumps({"torch": torch.__version__, **shape, **method, "found": found}, indent=1)
        given.json.write_text(text + "\n", encoding="utf-8")


def at(model: SequenceClassifier, given: argparse.Namespace) -> dict[str, object]:
    """All that is measured on a model, which is not changed."""
    values = spectrum(model)
    small = int((values < SMALL * values[0]).sum())
    measured = measure(model, given.rounds, given.naive_rounds)
    late = {form: lateness(model, form) for form in FORMS}
    print(
        f"\n{small} of {len(values)} Hankel singular values are below {SMALL:g} of the largest (complex form)"
    )
    for form, found in late.items():
        print(
            f"{form}, seven steps after it was made: the bound is {found['above']:.1%} above the norm, its "
            f"gradient {found['gradient']:.0%} off; the norm's own has moved by {found['moved']:.0%}"
        )
    print("\n| step | ms | of a plain step |\n|---|---:|---:|")
    for name, (milliseconds, ratio) in measured.items():
        print(f"| {name} | {milliseconds:.1f} | {ratio:.2f} |")
    steps = {name: row._asdict() for name, row in measured.items()}
    return {"small_values": small, "seven_steps_on": late, "steps": steps}


def measure(model: SequenceClassifier, rounds: int, naive_rounds: int) -> dict[str, Measured]:
    """Every kind of step on a copy of the model, in turns."""
    plain = make_step(model, None)
    steps = {}
    for form in FORMS:
        for refresh in REFRESH:
            regularizer = HankelRegularizer(realization=form, refresh=refresh)
            steps[name_of(form, refresh)] = make_step(model, regularizer, refresh)
    for form in FORMS:
        steps[f"naive, {form}"] = make_step(model, HankelRegularizer(realization=form, naive=True))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    plains = [plain() for _ in range(3)][2:]
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            if "naive" in name and round_ > naive_rounds:
                continue
            seconds = step()
            plains.append(plain())
            if round_ > 0:  # the first one warms up
                taken[name].append((seconds, seconds / (0.5 * sum(plains[-2:]))))
    found = {"plain": Measured(1e3 * statistics.median(plains), 1.0)}
    for name, pairs in taken.items():
        milliseconds = 1e3 * statistics.median(seconds for seconds, _ in pairs)
        found[name] = Measured(milliseconds, statistics.median(ratio for _, ratio in pairs))
    return found


def name_of(form: Realization, refresh: int) -> str:
    """What a kind of fast step is called in the table."""
    return f"{form}, bound anew every {refresh} steps" if refresh > 1 else f"{form}, bound anew at every step"


def make_step(
    model: SequenceClassifier, regularizer: HankelRegularizer | None, count: int = 1
) -> Callable[[], float]:
    """Does ``count`` training steps on a copy of the model; returns the processor time of one."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    inputs, targets = batch(torch.Generator().manual_seed(1))

    def run() -> float:
        began = time.process_time()
        for _ in range(count):
            update(model, optimizer, regularizer, inputs, targets)
        return (time.process_time() - began) / count

    return run


def update(
    model: SequenceClassifier,
    optimizer: torch.optim.Optimizer,
    regularizer: HankelRegularizer | None,
    inputs: Tensor,
    targets: Tensor,
) -> None:
    """A training step."""
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(inputs), targets)
    if regularizer is not None:
        loss = loss + regularizer(model)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def train(model: SequenceClassifier, steps: int) -> None:
    """Learn the toy task with the term in the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, fused=True)
    regularizer = HankelRegularizer(1e-3, realization="complex")
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        update(model, optimizer, regularizer, *batch(generator))


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy sines of a random phase, ``(batch, L, 1)``, and their frequencies, ``(batch,)``."""
    targets = torch.randint(CLASSES, (BATCH,), generator=generator)
    turns = 3.0 * (targets[:, None] + 1) * torch.arange(LENGTH) / LENGTH
    phases = torch.rand(BATCH, 1, generator=generator)
    noise = torch.randn(BATCH, LENGTH, generator=generator)
    return (torch.sin(2.0 * torch.pi * (turns + phases)) + 0.5 * noise)[..., None], targets


def the_layer(model: SequenceClassifier) -> nn.Module:
    """The model's only state-space layer."""
    return find_layers(model)[0].module


def spectrum(model: SequenceClassifier) -> Tensor:
    """Hankel singular values of the layer's complex form."""
    (system,) = layer_systems(the_layer(model))
    return differentiable_hankel_values(*system, "complex").detach()


def lateness(model: SequenceClassifier, form: Realization) -> dict[str, float]:
    """How far the bound is from the norm before it is made anew, seven steps after, of the default.

    By how much it is above, of the norm; how far its gradient is from the norm's, over all of the layer's
    parameters; and how far the norm's own gradient has moved in those steps.
    """
    model = copy.deepcopy(model)
    bound, exact = (HankelRegularizer(1e-3, realization=form, refresh=each) for each in (8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, fused=True)
    generator = torch.Generator().manual_seed(2)
    before = gradient(model, exact)[1]
    for _ in range(bound.refresh - 1):
        update(model, optimizer, bound, *batch(generator))
    (above, late), (norm, now) = gradient(model, bound), gradient(model, exact)
    return {
        "above": above / norm - 1.0,
        "gradient": float((late - now).norm() / now.norm()),
        "moved": float((before - now).norm() / now.norm()),
    }


def gradient(model: SequenceClassifier, regularizer: HankelRegularizer) -> tuple[float, Tensor]:
    """The term, and its gradient by all parameters of the layer in one vector."""
    parameters = [parameter for name, parameter in the_layer(model).named_parameters() if name != "D"]
    term = regularizer(model)
    return term.item(), torch.cat([part.flatten() for part in torch.autograd.grad(term, parameters)])


if __name__ == "__main__":
    main()
