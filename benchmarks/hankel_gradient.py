"""What Hankel-norm regularisation costs per step: the closed-form gradient against the published form.

Run ``python benchmarks/hankel_gradient.py``.  Both forms compute the sum of the Hankel singular values of one
LRU layer and its gradient with respect to all parameters; the naive one differentiates the eigenvalues of
``P Q`` by autograd, as it was published.  The figures are processor time on one thread, the least of a number
of repetitions, and include everything between parameters and gradients.  The last column compares the
gradients.  Try ``--ring 0 0.9 --channels 1`` as well: a layer with many tiny Hankel singular values,
which is what regularisation makes.  There the closed form gets cheaper with the numerical rank, and the naive
gradient keeps about five digits.
"""

from __future__ import annotations

import argparse
import time

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from compressm.layers import LRU
from compressm.lti import Realization
from compressm.rivals import HankelRegularizer

REALIZATIONS: tuple[Realization, ...] = ("real", "complex")


def gradient(layer: LRU, regularizer: HankelRegularizer) -> Tensor:
    """All gradients of the term in one vector."""
    parameters = [parameter for name, parameter in layer.named_parameters() if name != "D"]
    found = torch.autograd.grad(regularizer(layer), parameters)
    return torch.cat([part.flatten() for part in found])


def processor_seconds(layer: LRU, regularizer: HankelRegularizer, repetitions: int) -> float:
    """The least processor time of a value and its gradient, after one run that is not counted."""
    gradient(layer, regularizer)
    best = float("inf")
    for _ in range(repetitions):
        began = time.process_time()
        gradient(layer, regularizer)
        best = min(best, time.process_time() - began)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--states", type=int, nargs="+", default=[64, 256], help="state dimensions N")
    parser.add_argument("--channels", type=int, default=8, help="channels H")
    parser.add_argument(
        "--ring",
        type=float,
        nargs=2,
        default=[0.9, 0.999],
        help="least and largest modulus of the eigenvalues",
    )
    parser.add_argument("--repetitions", type=int, default=5, help="runs of each form")
    parser.add_argument("--seed", type=int, default=0, help="of the layer's initialisation")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(box=SIMPLE)
    for title in ("N", "form", "closed form, ms", "naive, ms", "ratio", "difference of gradients"):
        table.add_column(title, justify="left" if title == "form" else "right")
    for states in arguments.states:
        torch.manual_seed(arguments.seed)
        least, largest = arguments.ring
        layer = LRU(arguments.channels, states, r_min=least, r_max=largest).double()
        for form in REALIZATIONS:
            closed = HankelRegularizer(1.0, realization=form, refresh=1)
            naive = HankelRegularizer(1.0, realization=form, naive=True)
            seconds = [processor_seconds(layer, each, arguments.repetitions) for each in (closed, naive)]
            exact, other = gradient(layer, closed), gradient(layer, naive)
            difference = float((other - exact).norm() / exact.norm())
            table.add_row(
                str(states),
                form,
                *(f"{1e3 * each:.1f}" for each in seconds),
                f"{seconds[1] / seconds[0]:.1f}",
                f"{difference:.1e}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
