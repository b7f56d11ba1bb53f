"""The pointwise parts and the skip term on a CUDA device: right, and their time against PyTorch's.

    python benchmarks/gpu_pointwise.py [--json FILE] [--repeats R] [--seed S]

First outputs and all gradients are compared with those of PyTorch's operators in float64, on inputs and masks
that are fresh in every run (the seed is printed), and a whole block with its own self in float64; an error
above the tolerance ends the run with status 1, as does a machine without a CUDA device. Then each part is
timed by the device's clock, as our operators and as PyTorch's in eager mode, medians of several runs:
matrices (M, H) of a sCIFAR and of an sMNIST model. The floor is the time that a copy takes for the bytes that
cannot be avoided: operands and results once each. Where even the floor is far below 50 microseconds, the
starting of kernels is what takes the time.
"""

import contextlib
import copy
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from gpu_scan import run_on_card, seconds
from torch import Tensor

from compressm.layers import LRU
from compressm.layers.skip import add_skip
from compressm.models import Block
from compressm.models.pointwise import gate_dropout_residual, gelu_dropout
from compressm.models.pointwise_ops import glu_op
from compressm.scan.runtime import tiles

P = 0.1
CHECKS = [(5003, 3), (4099, 130), (8192, 512), (39200, 8), (70_001, 1)]
SHAPES = {"sCIFAR": (51200, 512), "sMNIST": (39200, 8)}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Relative, of whole tensors. bfloat16 keeps 8 bits.
TOLERANCE = {"float32": 1e-6, "bfloat16": 1e-2, "block": 2e-5}

Function = Callable[..., Tensor]


class Part(NamedTuple):
    """One part of a block: our operator, PyTorch's, shapes of the operands, and passes of the floor."""

    ours: Function
    eager: Function
    operands: tuple[str, ...]  # "narrow" (M, H), "wide" (M, 2 H), "row" (H,), "wide row" (2 H,)
    passes: tuple[int, int]  # over (M, H), forward and backward


def glu(x: Tensor, both: Tensor, bias: Tensor, p: float = P) -> Tensor:
    seed = torch.randint(-(2**63), 2**63 - 1, (1,), device=x.device)
    out: Tensor = glu_op(x, both, bias, seed, p)
    return out


def glu_of_pytorch(x: Tensor, both: Tensor, bias: Tensor, p: float = P) -> Tensor:
    a, b = (both + bias.to(both.dtype)).chunk(2, dim=-1)
    return x + F.dropout(a * torch.sigmoid(b), p)


def skip_of_pytorch(y: Tensor, u: Tensor, D: Tensor) -> Tensor:
    return torch.addcmul(y, u, D.to(y.dtype))


def gelu_of_pytorch(y: Tensor, p: float = P) -> Tensor:
    return F.dropout(F.gelu(y), p)


def gate_of_pytorch(x: Tensor, a: Tensor, b: Tensor, p: float = P) -> Tensor:
    return x + F.dropout(a * torch.sigmoid(b), p)


PARTS = {
    "gelu": Part(functools.partial(gelu_dropout, p=P), gelu_of_pytorch, ("narrow",), (2, 3)),
    "gate": Part(functools.partial(gate_dropout_residual, p=P), gate_of_pytorch, ("narrow",) * 3, (4, 5)),
    "glu": Part(glu, glu_of_pytorch, ("narrow", "wide", "wide row"), (4, 5)),
    "skip": Part(add_skip, skip_of_pytorch, ("narrow", "narrow", "row"), (3, 3)),
}


def main() -> None:
    tiles.WORTH_A_LAUNCH = 0  # also where PyTorch is quicker

    def check_with(seed: int) -> dict[str, dict[str, float]]:
        torch.manual_seed(seed)
        return check("cuda")

    run_on_card(__doc__ or "", "gpu_pointwise", "parts", check_with, report, measure_all)


def operands(part: Part, shape: tuple[int, int], device: str, dtype: torch.dtype) -> list[Tensor]:
    """Normal numbers; what is (M, H) or (M, 2 H) in the type that is asked for, parameters in float32."""
    M, H = shape
    sizes = {"narrow": (M, H), "wide": (M, 2 * H), "row": (H,), "wide row": (2 * H,)}
    made = [torch.randn(sizes[name], device=device) for name in part.operands]
    return [(x.to(dtype) if x.dim() == 2 else x).requires_grad_() for x in made]


def check(device: str) -> dict[str, dict[str, float]]:
    """Relative errors of each part's output and gradients, and failures of the masks (0 is right)."""
    result = {}
    for type_name, dtype in TYPES.items():
        for shape in CHECKS:
            for name, part in PARTS.items():
                row = compare(name, part, operands(part, shape, device, dtype))
                result[f"{type_name} {name} {shape}"] = row
    result["float32 masks"] = masks(device)
    result["float32 waiting for the device"] = waits(device)
    for channels in (8, 64):
        result[f"block {channels}"] = whole_block(channels, device)
    return result


def compare(name: str, part: Part, given: list[Tensor]) -> dict[str, float]:
    """Ours against PyTorch in float64, which is given the mask that ours drew."""
    state = torch.cuda.get_rng_state()
    found = part.ours(*given)
    weight = torch.randn(found.shape, device=found.device)
    grads = torch.autograd.grad(found, given, weight.to(found.dtype))
    wide = [x.detach().double().requires_grad_() for x in given]
    if name in ("gelu", "gate", "glu"):
        after = torch.cuda.get_rng_state()
        torch.cuda.set_rng_state(state)
        kept = drawn_mask(name, part, given)
        torch.cuda.set_rng_state(after)
        without = part.eager(*wide, p=0.0)
        residual = torch.zeros_like(without) if name == "gelu" else wide[0]
        wanted = residual + (without - residual) * kept
    else:
        wanted = part.eager(*wide)
    wanted_grads = torch.autograd.grad(wanted, wide, weight.to(found.dtype).double())
    row = {"out": relative(found, wanted)}
    return row | {
        f"gradient {i}": relative(a, b, found.numel() if a.dim() == 1 else 0)
        for i, (a, b) in enumerate(zip(grads, wanted_grads, strict=True))
    }


def drawn_mask(name: str, part: Part, given: list[Tensor]) -> Tensor:
    """What the part multiplies with under the generator's present state: gelu(32) is 32, sigmoid(32) 1."""
    wide = [torch.full_like(x, 32.0, dtype=torch.float32) for x in given]
    if name == "gelu":
        return part.ours(*wide).double() / 32
    wide[0].zero_()
    if name == "glu":
        wide[2].zero_()
    return part.ours(*wide).double() / 32


def relative(actual: Tensor, wanted: Tensor, summands: int = 0) -> float:
    """Relative error; that of sums over rows against what they add up, about ``sqrt(summands)``."""
    error: float = (actual.double() - wanted).norm().item()
    size: float = wanted.norm().item()
    return error / max(size, math.sqrt(summands))


def whole_block(channels: int, device: str) -> dict[str, float]:
    """A block without dropout, output, running statistics and all gradients, against itself in float64."""
    block = Block(LRU(channels, 20), channels).to(device)
    exact = copy.deepcopy(block).double()
    x = torch.randn(6, 301, channels, device=device) + 1
    weight, results = torch.randn_like(x), []
    for model, given in ((block, x), (exact, x.double())):
        given = given.detach().requires_grad_()
        y, _ = model(given, final_state=False)
        grads = torch.autograd.grad((y * weight).sum(), (given, *model.parameters()))
        results.append([y, model.norm.running_mean, model.norm.running_var, *grads])
    names = ["out", "mean", "var", "x", *(name for name, _ in block.named_parameters())]
    return {name: relative(a, b) for name, a, b in zip(names, *results, strict=True)}


def waits(device: str) -> dict[str, float]:
    """Parts that make the processor wait for the device: 0 where one does not."""
    result = {}
    for name, part in PARTS.items():
        given = operands(part, (8192, 64), device, torch.float32)
        weight = torch.randn_like(part.ours(*given))
        torch.cuda.set_sync_debug_mode("error")
        result[name] = 1.0
        with contextlib.suppress(RuntimeError):
            torch.autograd.grad(part.ours(*given), given, weight)
            result[name] = 0.0
        torch.cuda.set_sync_debug_mode("default")
    return result


def masks(device: str) -> dict[str, float]:
    """Rate, scale, and what repeats: 0 where it is as it should be."""
    ones = torch.full((1 << 12, 1 << 10), 32.0, device=device)
    torch.manual_seed(5)
    first, second = gelu_dropout(ones, P), gelu_dropout(ones, P)
    torch.manual_seed(5)
    again = gelu_dropout(ones, P)
    kept = (first > 0).double()
    centred = (kept - (1 - P)) / (P * (1 - P)) ** 0.5
    other = ((second > 0).double() - (1 - P)) / (P * (1 - P)) ** 0.5
    bound = 6 / ones.numel() ** 0.5
    means = {"rate": centred.mean(), "calls": (centred * other).mean()}
    for lag in (1, 2, 32, 1024):
        means[f"lag {lag}"] = (centred.flatten()[lag:] * centred.flatten()[:-lag]).mean()
    wrong = {name: float(abs(mean.item()) > bound) for name, mean in means.items()}
    scales = first[first > 0] / 32
    wrong["scale"] = (scales - 1 / (1 - P)).abs().max().item()
    return wrong | {"repeats": float(not torch.equal(first, again)), "new": float(torch.equal(first, second))}


def report(errors: dict[str, dict[str, float]], seed: int) -> list[str]:
    """Print the largest error of each check; the names of those above the tolerance, or not a number."""
    wrong = []
    for name, row in errors.items():
        worst = max(row, key=lambda key: float("inf") if row[key] != row[key] else row[key])
        if not row[worst] <= TOLERANCE[name.split()[0]]:
            wrong.append(f"{name} ({worst}: {row[worst]:.1e})")
        print(f"{name:48}{worst:>12} {row[worst]:.1e}")
    print(f"checked against float64 with seed {seed}: {len(wrong)} of {len(errors)} wrong", flush=True)
    return wrong


def measure_all(bandwidth: float, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of every part, forward and backward, by our operators, by PyTorch's, and of the floor."""
    rows = {}
    print(f"{'microseconds':40}{'ours':>9}{'PyTorch':>9}{'floor':>9}")
    for type_name, dtype in TYPES.items():
        for label, shape in SHAPES.items():
            for name, part in PARTS.items():
                given = operands(part, shape, "cuda", dtype)
                element = given[0].element_size()
                for index, direction in enumerate(("forward", "backward")):
                    row = {
                        form: seconds(passes(function, given, direction), repeats)
                        for form, function in (("ours", part.ours), ("pytorch", part.eager))
                    }
                    row["floor"] = part.passes[index] * shape[0] * shape[1] * element / bandwidth
                    key = f"{label} {type_name} {name} {direction}"
                    rows[key] = row
                    print(f"{key:40}" + "".join(f"{1e6 * value:9.1f}" for value in row.values()), flush=True)
    return rows


def passes(function: Function, given: list[Tensor], direction: str) -> Callable[[], Any]:
    """Forward keeps what the backward pass needs, as in training."""
    if direction == "forward":
        return lambda: function(*given)
    out = function(*given)
    weight = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, given, weight, retain_graph=True)


if __name__ == "__main__":
    main()
