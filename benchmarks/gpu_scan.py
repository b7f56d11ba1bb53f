"""The kernels of a CUDA device: right against float64, and their speed against the card's own bandwidth.

    python benchmarks/gpu_scan.py [--json FILE] [--repeats R] [--seed S]

First outputs, final states and all gradients are compared with those of a step-by-step recurrence in float64,
on inputs that are fresh in every run (the seed is printed); an error above the tolerance ends the run with
status 1, as does a machine without a CUDA device. Then the card's bandwidth is measured by copying, and each
shape's forward and backward pass by the device's clock, medians of several runs. Bytes are counted twice:
"least" are operands and results once each, which nothing can avoid, "moved" adds the kernels' passes over
states. Both are given as shares of the bandwidth; where products or exponentials bound, neither nears 1.
Where kernels take bfloat16 around a recurrence in float32 they are checked, to that type's digits, and
measured with it, too. Linear attention ("ssd") is measured with our kernels at float32's digits and in TF32,
made of PyTorch's products ("chunked"), and, where it is installed, with flash-linear-attention; all on bytes
of our kernels.
"""

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gpu_attention as attention
import torch
from torch import Tensor

from compressm.scan import lti_scan, selective_scan
from compressm.scan.lti.cost import Shape, what_to_keep
from compressm.scan.short_convolution import short_convolution

TOLERANCE = {"lti": 2e-5, "selective": 5e-5, "convolution": 2e-5, "ssd": 2e-5, "bfloat16": 2e-2}
LTI_CHECKS = [
    Shape(3, 37, 5, 4, 12),
    Shape(1, 301, 1, 1, 93),
    Shape(2, 64, 64, 32, 130),
    Shape(4, 1, 3, 3, 5),
]
HALF_CHECKS = [Shape(2, 64, 64, 32, 130), Shape(3, 200, 96, 64, 12)]
SELECTIVE_CHECKS = [(2, 37, 70, 12), (1, 301, 33, 93), (3, 32, 64, 16), (2, 1, 5, 3)]
LTI = {
    "sMNIST, N=256": Shape(50, 784, 8, 8, 256),
    "sMNIST, N=28": Shape(50, 784, 8, 8, 28),
    "sCIFAR, N=384": Shape(50, 1024, 512, 512, 384),
    "sCIFAR, N=93": Shape(50, 1024, 512, 512, 93),
    "long, N=256": Shape(1, 262_144, 16, 16, 256),
}
SELECTIVE = {f"selective B=8 L=2048 d=2048 N={N}": (8, 2048, 2048, N) for N in (16, 128)}
CONVOLUTION_CHECKS = [(2, 37, 70, 4), (1, 301, 33, 2), (3, 2, 64, 5), (2, 1, 5, 2)]
CONVOLUTION = {"convolution B=8 L=2048 d=2048 K=4": (8, 2048, 2048, 4)}
SELECTIVE_NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "state")

Run = Callable[[], object]


class Passes(NamedTuple):
    """One operation's forward and backward pass, and the bytes of each."""

    forward: Run
    backward: Run
    least: tuple[int, int]
    moved: tuple[int, int]


def main() -> None:
    run_on_card(__doc__ or "", "gpu_scan", "passes", lambda seed: check("cuda", seed), report, measure_all)


def run_on_card(
    description: str,
    name: str,
    key: str,
    check: Callable[[int], dict[str, dict[str, float]]],
    report: Callable[[dict[str, dict[str, float]], int], list[str]],
    measure: Callable[[float, int], dict[str, Any]],
) -> None:
    """Check with a seed and report; measure if nothing is wrong; write both; exit with 1 if something is."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the checks' inputs; fresh by default")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"{name}: this machine has no CUDA device, and there is nothing to measure without one")
    seed = torch.seed() if options.seed is None else options.seed
    errors = check(seed)
    wrong = report(errors, seed)
    bandwidth = copy_bandwidth(options.repeats)
    print(f"{torch.cuda.get_device_name()}: copies move {bandwidth / 1e12:.2f} TB/s, read and written")
    rows = {} if wrong else measure(bandwidth, options.repeats)
    if options.json:
        result = {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "seed": seed,
            "errors": errors,
            "bandwidth": bandwidth,
            key: rows,
        }
        options.json.write_text(json.dumps(result, indent=2), encoding="utf-8")
    if wrong:
        sys.exit(f"{name}: wrong beyond the tolerance: {', '.join(wrong)}")


def check(device: str, seed: int) -> dict[str, dict[str, float]]:
    """Relative errors of outputs, final state and every gradient, for each shape that is checked."""
    generator = torch.Generator(device).manual_seed(seed)
    result = {}
    for shape in LTI_CHECKS:
        for reverse in (False, True):
            given = lti_operands(shape, device, generator, state=True)
            run = lti_runs(reverse=reverse)
            result[f"lti {tuple(shape)}{' reverse' if reverse else ''}"] = compare(run, given, generator)
    for shape in HALF_CHECKS:
        given = lti_operands(shape, device, generator, state=True)
        result[f"bfloat16 lti {tuple(shape)}"] = compare(lti_runs(half=True), given, generator)
    for sizes in SELECTIVE_CHECKS:
        for softplus in (False, True):
            given = selective_operands(*sizes, device, generator, state=True)
            run = selective_runs(softplus)
            result[f"selective {sizes}{' softplus' if softplus else ''}"] = compare(run, given, generator)
            rounded = rows_rounded(given)
            result[f"bfloat16 selective {sizes}{' softplus' if softplus else ''}"] = compare(
                run, rounded, generator
            )
    for sizes in CONVOLUTION_CHECKS:
        given = convolution_operands(*sizes, device, generator, window=True)
        result[f"convolution {sizes}"] = compare(convolution_run, given, generator)
    for case in attention.CHECKS:
        for name, strength in attention.STRENGTHS.items():
            given = attention.attention_operands(case, device, generator, state=True, strength=strength)
            result[f"ssd {tuple(case)} {name}"] = compare(attention.attention_run("scan"), given, generator)
    return result


def lti_runs(*, reverse: bool = False, half: bool = False) -> Callable[..., tuple[Tensor, Tensor]]:
    """The operation in a form; but for the reference, with ``half`` in bfloat16 around the recurrence."""

    def run(form: str, *given: Tensor) -> tuple[Tensor, Tensor]:
        arguments: dict[str, Any] = dict(zip(("u", "lam", "B", "C", "state"), given, strict=False))
        with torch.autocast("cuda", torch.bfloat16, enabled=half and form != "reference"):
            return lti_scan(**arguments, form=form, reverse=reverse)

    return run


def selective_runs(softplus: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(form: str, *given: Tensor) -> tuple[Tensor, Tensor]:
        arguments: dict[str, Any] = dict(zip(SELECTIVE_NAMES, given, strict=False))
        return selective_scan(**arguments, delta_softplus=softplus, form=form)

    return run


def compare(
    run: Callable[..., tuple[Tensor, Tensor]], given: list[Tensor], generator: torch.Generator
) -> dict[str, float]:
    """Errors of the form "scan" in float32 against the form "reference" in float64."""
    wide = [value.detach().double().requires_grad_() for value in given]
    found, wanted = list(run("scan", *given)), list(run("reference", *wide))
    weights = [torch.randn(x.shape, generator=generator, device=x.device) for x in found]
    found += torch.autograd.grad(found, given, [w.to(x.dtype) for w, x in zip(weights, found, strict=True)])
    wanted += torch.autograd.grad(wanted, wide, [weight.double() for weight in weights])
    names = ["y", "final", *(f"gradient {i}" for i in range(len(given)))]
    return {
        name: ((a.double() - b).norm() / b.norm()).item()
        for name, a, b in zip(names, found, wanted, strict=True)
    }


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


def copy_bandwidth(repeats: int) -> float:
    """Bytes per second, read and written, of copying a gigabyte."""
    source = torch.zeros(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), repeats)


def seconds(run: Run, repeats: int) -> float:
    """Median seconds of a run by the device's clock, after three that do not count."""
    times: list[float] = []
    event: Any = torch.cuda.Event
    for attempt in range(repeats + 3):
        start, stop = event(enable_timing=True), event(enable_timing=True)
        start.record()
        run()
        stop.record()
        stop.synchronize()
        if attempt >= 3:
            times.append(start.elapsed_time(stop) / 1e3)
    return statistics.median(times)


def measure_all(bandwidth: float, repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds and shares of the bandwidth of every pass."""
    generator, rows = torch.Generator("cuda").manual_seed(0), {}
    print(f"{'':44}{'milliseconds':>14}{'least':>9}{'moved':>9}   shares of the bandwidth")
    made: dict[str, Callable[[], Passes]] = {}
    for half, suffix in ((False, ""), (True, ", bfloat16")):
        for name, shape in LTI.items():
            if half and shape.H < 64:  # stays in float32
                continue
            made[name + suffix] = functools.partial(lti_passes, shape, generator, half=half)
            alone = functools.partial(recurrence_passes, shape, generator, half=half)
            made[f"{name}, recurrence{suffix}"] = alone
    for half, suffix in ((False, ""), (True, ", bfloat16")):
        for name, sizes in SELECTIVE.items():
            made[name + suffix] = functools.partial(selective_passes, sizes, generator, half=half)
        for name, sizes in CONVOLUTION.items():
            made[name + suffix] = functools.partial(convolution_passes, sizes, generator, half=half)
    for name, case in attention.SHAPES.items():
        for variant in attention.variants(case):
            made[f"{name} {variant}"] = functools.partial(attention_passes, case, variant, generator)
    for name, make in made.items():
        passes = make()
        for index, (label, run) in enumerate((("forward", passes.forward), ("backward", passes.backward))):
            taken = seconds(run, repeats)
            least, moved = (count[index] / taken / bandwidth for count in (passes.least, passes.moved))
            row = {"seconds": taken, "least_bytes": passes.least[index], "moved_bytes": passes.moved[index]}
            rows[f"{name} {label}"] = row | {"least_share": least, "moved_share": moved}
            print(f"{name + ' ' + label:44}{1e3 * taken:14.3f}{least:9.3f}{moved:9.3f}", flush=True)
    return rows


def lti_passes(shape: Shape, generator: torch.Generator, *, half: bool) -> Passes:
    """Forward keeps what the backward pass needs, as in training. Inputs are in the products' type."""
    batch, L, H, P, N = shape
    run, given = lti_runs(half=half), lti_operands(shape, "cuda", generator, state=False)
    if half:
        given[0] = given[0].detach().bfloat16().requires_grad_()
    y, _ = run("scan", *given)
    weight = torch.randn_like(y)
    size = y.element_size()
    rows, states = batch * L, 2 * size * batch * L * N
    least = (size * rows * (H + P), size * rows * (2 * H + P))
    # Passes over states: see compressm.scan.lti.triton; one more each where time is cut into chunks.
    chunked = cut_into_chunks(batch, L, N)
    anew = 0 if what_to_keep(shape) == "states" else 3 + chunked
    moved = (least[0] + (4 + chunked) * states, least[1] + (7 + chunked + anew) * states)
    return Passes(
        lambda: run("scan", *given),
        lambda: torch.autograd.grad(y, given, weight, retain_graph=True),
        least,
        moved,
    )


def recurrence_passes(shape: Shape, generator: torch.Generator, *, half: bool) -> Passes:
    """The kernels between the products: states are read and written, and backward read once more."""
    from compressm.scan.lti import triton

    batch, L, _, _, N = shape
    _, lam, _, _, initial = (x.detach() for x in lti_operands(shape, "cuda", generator, state=True))
    lam = 0.5 * lam  # the kernels work in place, so that every run meets the results of the one before
    x, w = (normals("cuda", generator)(batch, L, 2, N) for _ in range(2))
    x, w = (x.bfloat16(), w.bfloat16()) if half else (x, w)
    states, chunked = x.nbytes, cut_into_chunks(batch, L, N)
    return Passes(
        lambda: triton.advance(x, lam, initial, reverse=False),
        lambda: triton.adjoint(w, x, lam, initial, initial, reverse=False),
        (2 * states, 3 * states),
        ((2 + chunked) * states, (3 + chunked) * states),
    )


def cut_into_chunks(batch: int, L: int, N: int) -> int:
    """1 if the kernels cut time into chunks for this shape, else 0."""
    from compressm.scan.lti.triton import Plan, programs_wanted

    return int(Plan.of(batch, L, N, programs_wanted(torch.device("cuda"))).chunks > 1)


def selective_passes(sizes: tuple[int, int, int, int], generator: torch.Generator, *, half: bool) -> Passes:
    from compressm.scan.selective.triton import Cut, parts_and_groups

    (batch, L, d, N), run = sizes, selective_runs(softplus=True)
    given = selective_operands(*sizes, "cuda", generator, state=False)
    given = rows_rounded(given) if half else given
    y, _ = run("scan", *given)
    weight = torch.randn_like(y)
    tiles, size = batch * L * d, y.element_size()
    shared = 2 * size * batch * L * N
    least = (4 * size * tiles + shared, 7 * size * tiles + 2 * shared)
    # See compressm.scan.selective.triton; where time is cut, all segments but one are read twice.
    _, groups = parts_and_groups(d, N)
    again = [1 - 1 / cut.segments for cut in (Cut.forward(given[0]), Cut.backward(given[0], groups))]
    moved = (
        int((4 * size + N / 8 + 2 * size * again[0]) * tiles) + shared,
        int((8 * size + 3 * N / 8 + 3 * size * again[1]) * tiles) + 2 * shared,
    )
    return Passes(
        lambda: run("scan", *given),
        lambda: torch.autograd.grad(y, given, weight, retain_graph=True),
        least,
        moved,
    )


def convolution_run(form: str, *given: Tensor) -> tuple[Tensor, Tensor]:
    x, weight, bias, *window = given
    form = "kernel" if form == "scan" else form
    return short_convolution(x, weight, bias, window[0] if window else None, silu=True, form=form)


def convolution_passes(sizes: tuple[int, int, int, int], generator: torch.Generator, *, half: bool) -> Passes:
    """Inputs are half of longer rows, as in front of Mamba's recurrence."""
    batch, L, channels, K = sizes
    x, weight, bias = convolution_operands(batch, L, 2 * channels, K, "cuda", generator, window=False)
    # Under autocast operands may differ in type, as they do in a layer.
    x = x.detach().to(torch.bfloat16 if half else x.dtype).chunk(2, dim=2)[0].requires_grad_()
    given = [x, *(v.detach()[:channels].requires_grad_() for v in (weight, bias))]

    def run() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            return convolution_run("scan", *given)[0]

    y = run()
    upstream, moved = torch.randn_like(y), y.nbytes
    return Passes(
        run,
        lambda: torch.autograd.grad(y, given, upstream, retain_graph=True),
        (2 * moved, 3 * moved),
        (2 * moved, 3 * moved),
    )


def convolution_operands(
    batch: int, L: int, channels: int, K: int, device: str, generator: torch.Generator, *, window: bool
) -> list[Tensor]:
    """x, filters, bias, and the window before x."""
    normal = normals(device, generator)
    operands = [normal(batch, L, channels), normal(channels, 1, K), normal(channels)]
    operands += [normal(batch, channels, K - 1)] if window else []
    return [x.requires_grad_() for x in operands]


def attention_passes(case: attention.Attention, variant: str, generator: torch.Generator) -> Passes:
    run = attention.attention_run(variant)
    given = attention.attention_operands(case, "cuda", generator, state=False)
    y, _ = run("", *given)
    weight = torch.randn_like(y)
    return Passes(
        lambda: run("", *given),
        lambda: torch.autograd.grad(y, given, weight, retain_graph=True),
        *attention.attention_bytes(given),
    )


def lti_operands(shape: Shape, device: str, generator: torch.Generator, *, state: bool) -> list[Tensor]:
    """u, lambda (on the ring of 0.9 to 0.9999), B, C and the initial state."""
    batch, L, H, P, N = shape
    normal = normals(device, generator)
    radius, phase = torch.rand(2, N, generator=generator, device=device)
    radius, phase = 0.9 + 0.0999 * radius, 6.28 * phase
    lam = torch.stack((radius * phase.cos(), radius * phase.sin()))
    operands = [normal(batch, L, H), lam, normal(2, N, H) / H**0.5, normal(2, P, N) / N**0.5]
    return [x.requires_grad_() for x in (*operands, *([normal(batch, 2, N)] if state else []))]


def selective_operands(
    batch: int, L: int, d: int, N: int, device: str, generator: torch.Generator, *, state: bool
) -> list[Tensor]:
    """u, delta, A, B, C, D, z, bias and the initial state, as in a Mamba layer at its start."""
    normal = normals(device, generator)
    delta = 0.001 * 100 ** torch.rand(batch, L, d, generator=generator, device=device)
    A = -torch.arange(1.0, N + 1, device=device).repeat(d, 1)
    operands = [normal(batch, L, d), delta, A, normal(batch, L, N), normal(batch, L, N), normal(d)]
    operands += [normal(batch, L, d), 0.01 * normal(d).abs()]
    return [x.requires_grad_() for x in (*operands, *([normal(batch, d, N)] if state else []))]


def rows_rounded(given: list[Tensor]) -> list[Tensor]:
    """Operands of the selective recurrence with what has a row for each step in bfloat16."""
    rows = ("u", "delta", "B", "C", "z")
    return [
        x.detach().bfloat16().requires_grad_() if name in rows else x
        for name, x in zip(SELECTIVE_NAMES, given, strict=False)
    ]


def normals(device: str, generator: torch.Generator) -> Callable[..., Tensor]:
    return lambda *size: torch.randn(*size, generator=generator, device=device)


if __name__ == "__main__":
    main()
