"""Whether flash-linear-attention's kernels are faster than this package's on this machine: measured, kept.

Each kind of call is measured once per machine, on random operands, and its seconds are kept in
``linear_attention.json`` in the cache folder (``COMPRESSM_CACHE_DIR``); delete the file to measure anew.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compressm.scan.runtime import cache_directory
from compressm.scan.ssd import stock
from compressm.scan.ssd.ops import linear_attention_op

MOST_STEPS = 2**15
"""Steps of all sequences that are measured at most: as many keep any card busy, and little of its memory."""

Scan = Callable[..., tuple[Tensor, Tensor]]
_known: dict[str, bool] = {}


class Case(NamedTuple):
    """What the times of both depend on; lengths are rounded up to a power of two."""

    batch: int
    L: int
    heads: int
    K: int
    V: int
    per_channel: bool
    training: bool

    @classmethod
    def of(cls, q: Tensor, v: Tensor, log_decay: Tensor, *, training: bool) -> "Case":
        """The case that a call with these operands belongs to."""
        (batch, L, heads, K), V = q.shape, v.shape[3]
        L = min(1 << (L - 1).bit_length(), MOST_STEPS)
        batch = min(1 << (batch - 1).bit_length(), MOST_STEPS // L)
        return cls(batch, L, heads, K, V, log_decay.ndim == 4, training)


def stock_is_faster(q: Tensor, v: Tensor, log_decay: Tensor, *, training: bool) -> bool:
    """Whether the stock kernels take less time for such operands; measured if it has not been before."""
    case = Case.of(q, v, log_decay, training=training)
    name = f"{device_name(q.device)} {' '.join(str(int(size)) for size in case)}"
    if name not in _known:
        table = load(file())
        if name not in table:
            if capturing(q.device):
                return False
            table[name] = measure(case, q.device)
            keep(table, file())
        _known[name] = table[name]["stock"] < table[name]["own"]
    return _known[name]


def measure(case: Case, device: torch.device) -> dict[str, float]:
    """Seconds of this package's kernels ("own") and of the stock ones, forward and, in training, backward."""
    operands = example(case, device)

    def own(*given: Tensor) -> tuple[Tensor, Tensor]:
        y, final, _ = linear_attention_op(*given, None, 1.0, case.training)
        return y, final

    def theirs(*given: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, log_decay = given
        return stock.stock_scan(q, k, v, log_decay, None, scale=1.0)

    def once(scan: Scan) -> Callable[[], object]:
        def run() -> None:
            y, _ = scan(*operands)
            if case.training:
                torch.autograd.grad(y.sum(), operands)

        return run

    with torch.set_grad_enabled(case.training), torch.autocast(device.type, enabled=False):
        return {"own": seconds(once(own)), "stock": seconds(once(theirs))}


def example(case: Case, device: torch.device) -> list[Tensor]:
    """Random q, k, v and logarithms of decays, always the same, without the caller's random numbers."""
    generator = torch.Generator(device).manual_seed(0)
    batch, L, heads, K, V, per_channel, training = case

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    decays = normal(batch, L, heads, K) if per_channel else normal(batch, L, heads)
    operands = [normal(batch, L, heads, K), normal(batch, L, heads, K), normal(batch, L, heads, V)]
    return [x.requires_grad_(training) for x in (*operands, torch.nn.functional.logsigmoid(decays + 3))]


def seconds(run: Callable[[], object], repeats: int = 10) -> float:
    """The shortest of several runs by the device's clock, after three that do not count."""
    event: Any = torch.cuda.Event
    times = []
    for attempt in range(repeats + 3):
        start, stop = event(enable_timing=True), event(enable_timing=True)
        start.record()
        run()
        stop.record()
        stop.synchronize()
        if attempt >= 3:
            times.append(start.elapsed_time(stop) / 1e3)
    return float(min(times))


def device_name(device: torch.device) -> str:
    """The card's name."""
    return torch.cuda.get_device_name(device)


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being recorded, in which nothing can be measured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def file() -> Path:
    """Where this machine's measurements are kept."""
    return cache_directory() / "linear_attention.json"


def load(path: Path) -> dict[str, dict[str, float]]:
    """Measurements from a file; none if there is no file.

    Raises:
        ValueError: the file does not hold measurements.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    try:
        found = json.loads(text)
        return {name: {key: float(row[key]) for key in ("own", "stock")} for name, row in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not hold measurements of kernels ({error}); delete it") from error


def keep(table: dict[str, dict[str, float]], path: Path) -> None:
    """Write measurements for later processes, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(table, indent=2), encoding="utf-8")
    part.replace(path)
