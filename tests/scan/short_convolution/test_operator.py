"""The convolution is one operator to PyTorch's tools."""

from types import SimpleNamespace

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn

from compressm.layers import Mamba
from compressm.scan.short_convolution import short_convolution
from compressm.scan.short_convolution.ops import short_convolution_backward_op, short_convolution_op

CHECKS = ("test_schema", "test_faketensor")


class Layer(nn.Module):
    def __init__(self, channels: int, K: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(channels, 1, K, generator=generator))
        self.bias = nn.Parameter(torch.randn(channels, generator=generator))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, window = short_convolution(x, self.weight, self.bias, silu=True)
        return y.tanh(), window


@pytest.mark.parametrize("given", [(), ("bias", "window")])
@pytest.mark.parametrize("K", [1, 4])
def test_the_operators_keep_their_contracts(oracle: SimpleNamespace, K: int, given: tuple[str, ...]) -> None:
    made = oracle.operands(2, 35, 5, K, given=given)
    operands = [made.get(name) for name in ("x", "weight", "bias", "window")]
    torch.library.opcheck(
        short_convolution_op, (*operands, True), test_utils=(*CHECKS, "test_autograd_registration")
    )
    detached = [x if x is None else x.detach() for x in operands]
    y, final = short_convolution_op(*detached, True)
    for grad_final in (final, None):
        torch.library.opcheck(
            short_convolution_backward_op, (y, grad_final, *detached, True), test_utils=CHECKS
        )


def test_one_graph_trains_at_every_length() -> None:
    layer, graphs = Layer(6, 4), torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=graphs, dynamic=True)
    for L in (9, 40, 70):
        x = torch.randn(2, L, 6, generator=torch.Generator().manual_seed(L))
        wanted = torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters()))
        found = torch.autograd.grad(compiled(x)[0].sum(), list(layer.parameters()))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)
    assert graphs.frame_count == 1
    torch._dynamo.reset()


def test_a_step_is_exported_in_plain_operations() -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Mamba(5, 4)

        def forward(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer.step(u, state)

    step, free = Step(), torch.export.Dim.AUTO
    states = 10 * (3 + 4)
    given = torch.ones(2, 5), torch.ones(2, states)
    with torch.no_grad():
        program = torch.export.export(step, given, dynamic_shapes={"u": {0: free}, "state": {0: free}})
        for other in (given, (torch.randn(7, 5), torch.randn(7, states))):
            torch.testing.assert_close(program.module()(*other), step(*other))
    assert "compressm" not in str(program.graph)
