"""The recurrence is one operator to PyTorch's tools."""

from types import SimpleNamespace

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn

from compressm.scan import lti_scan
from compressm.scan.lti.ops import lti_scan_op


class Layer(nn.Module):
    def __init__(self, given: dict[str, Tensor], form: str) -> None:
        super().__init__()
        self.form = form
        for name in ("lam", "B", "C"):
            self.register_parameter(name, nn.Parameter(given[name].detach().clone()))

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        y, final = lti_scan(2 * u, self.lam, self.B, self.C, form=self.form)
        return y.tanh(), final


@pytest.mark.parametrize("form", ["convolution", "scan"])
@pytest.mark.parametrize("with_state", [True, False])
def test_the_operator_keeps_its_contract(oracle: SimpleNamespace, form: str, with_state: bool) -> None:
    for shape, keep in (((2, 5, 3, 3, 2), "states"), ((1, 1, 3, 3, 2), "checkpoints")):
        given = oracle.operands(*shape, torch.float64, state=with_state)
        state, D = given.get("state"), torch.randn(3, dtype=torch.float64).requires_grad_()
        torch.library.opcheck(
            lti_scan_op,
            (given["u"], given["lam"], given["B"], given["C"], D, state, form, keep, False, False, True),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@pytest.mark.parametrize("form", ["auto", "convolution", "scan"])
def test_compiled_whole_without_a_break(oracle: SimpleNamespace, form: str) -> None:
    given = oracle.operands(2, 9, 3, 3, 4, torch.float64)
    layer = Layer(given, form)
    u = given["u"].detach()
    wanted = torch.autograd.grad(layer(u)[0].sum(), list(layer.parameters()))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(u)[0].sum(), list(layer.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    torch._dynamo.reset()


@pytest.mark.parametrize("form", ["auto", "convolution", "scan"])
def test_one_graph_trains_at_every_length(oracle: SimpleNamespace, form: str) -> None:
    given = oracle.operands(2, 9, 3, 3, 4, torch.float64)
    layer, graphs = Layer(given, form), torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=graphs, dynamic=True)
    for length in (9, 14, 30):
        u = torch.randn(2, length, 3, dtype=torch.float64)
        wanted = torch.autograd.grad(layer(u)[0].sum(), list(layer.parameters()))
        found = torch.autograd.grad(compiled(u)[0].sum(), list(layer.parameters()))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)
    assert graphs.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("form", ["auto", "convolution", "scan"])
def test_exported_for_any_batch_and_length(oracle: SimpleNamespace, form: str) -> None:
    given = oracle.operands(2, 9, 3, 3, 4, torch.float64)
    layer, u = Layer(given, form), given["u"].detach()
    free = torch.export.Dim.AUTO
    with torch.no_grad():
        program = torch.export.export(layer, (u,), dynamic_shapes={"u": {0: free, 1: free}})
        for other in (u, torch.ones(5, 21, 3, dtype=torch.float64)):
            torch.testing.assert_close(program.module()(other), layer(other))
    assert "compressm.lti_scan" in str(program.graph)
