"""Rounding errors of the recurrence near the unit circle, and what rounding of nu and theta costs beside it.

python benchmarks/numerics.py [--length 16384] [--radius 0.9999] [--json FILE]
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from compressm.scan import lti_scan

NAMES = ("u", "lambda", "B", "C")


def main() -> None:
    """Print and save norm-wise relative errors of outputs and gradients, for each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--radius", type=float, default=0.9999)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    batch, N, H = 2, 64, 8

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    # Decay rates spread evenly on a logarithmic axis up to the given radius.
    rates = -torch.log(torch.tensor(given.radius, dtype=torch.float64)) * torch.logspace(
        0, 3, N, dtype=torch.float64
    )
    nu, theta = rates.log(), 6.28 * torch.rand(N, generator=generator, dtype=torch.float64)
    gamma = torch.sqrt(-torch.expm1(-2 * rates))
    u, B, C = normal(batch, given.length, H), gamma[:, None] * normal(2, N, H), normal(2, H, N)
    weight = normal(batch, given.length, H)
    lam = eigenvalues(nu.float(), theta.float())  # what a float32 layer computes
    report: dict[str, dict[str, float]] = {}
    single = [x.float() for x in (u, lam, B, C)]
    exact = run([x.double() for x in single], weight, "scan")
    for form in ("scan", "convolution"):
        report[form] = errors(run(single, weight.float(), form), exact)
    rounded = eigenvalues(nu.float().double(), theta.float().double())
    operands = [x.float().double() for x in (u, B, C)]
    true = run([operands[0], eigenvalues(nu, theta), *operands[1:]], weight, "scan")
    moved = run([operands[0], rounded, *operands[1:]], weight, "scan")
    report["nu and theta in float32"] = errors(moved, true)
    from_layer = run([operands[0], lam.double(), *operands[1:]], weight, "scan")
    report["lambda computed in float32"] = errors(from_layer, true)
    print(f"|lambda| up to {given.radius}, L={given.length}: norm-wise relative errors")
    print(f"{'':28s}" + "".join(f"{name:>11s}" for name in ("y", *NAMES)))
    for name, found in report.items():
        print(f"{name:28s}" + "".join(f"{value:11.1e}" for value in found.values()))
    if given.json is not None:
        plain = {"length": given.length, "radius": given.radius, "errors": report}
        given.json.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def eigenvalues(nu: Tensor, theta: Tensor) -> Tensor:
    """``exp(-exp(nu) + i theta)`` as a real pair, in the type of its operands."""
    magnitude = torch.exp(-torch.exp(nu))
    return torch.stack((magnitude * theta.cos(), magnitude * theta.sin()))


def run(operands: list[Tensor], weight: Tensor, form: str) -> list[Tensor]:
    """Outputs, and the gradients of all operands."""
    leaves = [x.clone().requires_grad_() for x in operands]
    y, _ = lti_scan(*leaves, form=form)
    return [y.detach(), *torch.autograd.grad(y, leaves, weight)]


def errors(found: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    """Norm-wise relative errors by name."""
    return {
        name: float((a.double() - b).norm() / b.norm())
        for name, a, b in zip(("y", *NAMES), found, expected, strict=True)
    }


if __name__ == "__main__":
    main()
