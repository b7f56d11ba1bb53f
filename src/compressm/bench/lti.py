"""The linear time-invariant recurrence alone, in any of its forms."""

import torch
from torch import Tensor

from compressm.bench.cases import LtiCase
from compressm.bench.contender import Arrays, Contender, as_arrays
from compressm.bench.selective import forward_backward
from compressm.bench.timing import Step
from compressm.scan import lti_scan
from compressm.scan.lti.calibration import example
from compressm.scan.lti.cost import Shape


def shape_of(case: LtiCase) -> Shape:
    """The sizes as the cost model takes them."""
    return Shape(case.batch, case.L, case.H, case.H, case.N)


class OurLti(Contender[LtiCase]):
    """:func:`compressm.scan.lti_scan` in the form that the case names, as layers in training call it."""

    name = "compressm"

    def step(self, case: LtiCase) -> Step:
        """Outputs and gradients of u, lambda, B and C."""
        device = self.settings.device
        operands = [x.to(device).requires_grad_() for x in example(shape_of(case))]
        weight = torch.ones(case.batch, case.L, case.H, device=device)

        def run() -> None:
            y, _ = lti_scan(*operands, form=case.form, final=False)
            torch.autograd.grad(y, operands, weight)

        return run

    def outputs(self, case: LtiCase) -> Arrays:
        """Outputs and gradients of u, lambda, B and C."""
        operands = [x.to(self.settings.device).requires_grad_() for x in example(shape_of(case))]

        def operation(*given: Tensor) -> Tensor:
            return lti_scan(*given, form=case.form)[0]

        return as_arrays(["y", "u", "lam", "B", "C"], forward_backward(operation, operands)())
