"""Choices against the best that could have been chosen: forms of the recurrence, sizes of chunks."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compressm.bench.attention import attention_operands
from compressm.bench.cases import AttentionCase, LtiCase
from compressm.bench.comparison import FLOOR, Method
from compressm.bench.contender import Settings
from compressm.bench.lti import OurLti, shape_of
from compressm.bench.selective import forward_backward
from compressm.bench.timing import Step, interleave
from compressm.bench.work import products_alone, work
from compressm.scan import delta_rule_scan, linear_attention_scan
from compressm.scan.delta_rule import CHUNK
from compressm.scan.lti.cost import choose_form
from compressm.scan.ssd import default_chunk_size, kernels_are_faster

FORMS = ("scan", "convolution")
LARGEST_KERNEL = 1 << 23
"""Entries of a convolution's kernel, ``H P L``, beyond which only the scan is measured."""

FORM_GRID = [
    LtiCase(name=name, batch=batch, L=L, H=H, N=N)
    for name, batch, L, H, N in (
        ("sMNIST", 50, 784, 8, 256),
        ("sMNIST", 50, 784, 8, 28),
        ("two blocks' one", 32, 784, 64, 128),
        ("sCIFAR", 4, 1024, 512, 384),
        ("sCIFAR", 4, 1024, 512, 93),
        ("one long sequence", 1, 16_384, 64, 128),
        ("many short ones", 256, 64, 32, 64),
        *(
            ("grid", batch, L, H, N)
            for batch, L in ((1, 2048), (4, 600), (24, 1000))
            for H in (2, 6, 12, 24, 48)
            for N in (16, 64, 200)
        ),
    )
]
SIZES = ((16, 64), (64, 16), (64, 64), (128, 128), (256, 256))
CHUNK_GRID = [
    AttentionCase(name="linear attention", batch=4, L=512, heads=4, K=K, V=V, per_channel=per_channel)
    for K, V in SIZES
    for per_channel in (False, True)
]
RULE_GRID = [AttentionCase(name="delta rule", batch=4, L=512, heads=4, K=K, V=V) for K, V in SIZES]
CHUNKS = (16, 32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Alternatives at one shape, the one that the library picks, and what that costs.

    Attributes:
        shape: In words.
        seconds: Of each alternative, forward and backward, median over the rounds; and of the matrix products
            alone where there are any.
        picked: The alternative that the library takes.
    """

    shape: str
    seconds: dict[str, float]
    picked: str

    @property
    def over_best(self) -> float:
        """Time of the picked alternative over the best one's."""
        return self.seconds[self.picked] / min(t for name, t in self.seconds.items() if name != FLOOR)


def form_choice(
    case: LtiCase, settings: Settings, method: Method, tick: Callable[[], None] | None = None
) -> Choice:
    """Every form at a shape, and the cost model's choice."""
    steps: dict[str, Step] = {FLOOR: products_alone(work(case), settings.device)}
    for form in FORMS:
        if form == "scan" or case.H * case.H * case.L <= LARGEST_KERNEL:
            steps[form] = OurLti(settings).step(replace(case, form=form))
    picked = choose_form(shape_of(case), training=True, threads=settings.threads, device=settings.device)
    words = f"{case.name}: batch {case.batch}, L={case.L}, H={case.H}, N={case.N}"
    return _measured(words, steps, picked, settings, method, tick)


def chunk_choice(
    case: AttentionCase, settings: Settings, method: Method, tick: Callable[[], None] | None = None
) -> Choice:
    """Linear attention at several chunk sizes and, on a CPU, by its kernels; and what is taken by itself."""
    operands = attention_operands(case, settings.device)
    q, _, v, log_decay = operands
    default = default_chunk_size(case.K, per_channel=case.per_channel)
    chosen = settings.device == "cpu" and kernels_are_faster(q, v, log_decay)
    words = f"{_words(case)}, decay {'per channel' if case.per_channel else 'per head'}"
    steps = _forms(linear_attention_scan, operands, settings)
    return _measured(words, steps, "recurrent" if chosen else str(default), settings, method, tick)


def rule_choice(
    case: AttentionCase, settings: Settings, method: Method, tick: Callable[[], None] | None = None
) -> Choice:
    """The delta rule with unit keys at several chunk sizes and, on a CPU, by kernels; and what is taken."""
    q, k, v, log_decay = attention_operands(case, settings.device)
    beta = torch.sigmoid(q.detach()[..., 0]).requires_grad_()
    steps = _forms(partial(delta_rule_scan, unit=True), [q, k, v, beta, log_decay], settings)
    picked = "recurrent" if settings.device == "cpu" else str(CHUNK)
    return _measured(f"delta rule, {_words(case)}", steps, picked, settings, method, tick)


def _words(case: AttentionCase) -> str:
    return f"batch {case.batch}, L={case.L}, {case.heads} heads, K={case.K}, V={case.V}"


def _forms(scan: Callable[..., Any], operands: list[Tensor], settings: Settings) -> dict[str, Step]:
    """Steps at every chunk size and, on a CPU, of the kernels."""
    options: dict[str, dict[str, Any]] = {str(size): {"chunk_size": size} for size in CHUNKS}
    if settings.device == "cpu":
        options["recurrent"] = {"form": "recurrent"}
    return {
        name: forward_backward(lambda *given, option=option: scan(*given, **option)[0], operands)
        for name, option in options.items()
    }


def _measured(
    words: str,
    steps: dict[str, Step],
    picked: str,
    settings: Settings,
    method: Method,
    tick: Callable[[], None] | None,
) -> Choice:
    seconds = interleave(
        steps, method.rounds, device=settings.device, clock=method.clock, least_seconds=0.02, tick=tick
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return Choice(shape=words, seconds=medians, picked=picked)
