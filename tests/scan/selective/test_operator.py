"""The recurrence is one operator to PyTorch's tools."""

from types import SimpleNamespace

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn

from compressm.scan.selective import selective_scan
from compressm.scan.selective.ops import selective_scan_backward_op, selective_scan_op

CHECKS = ("test_schema", "test_faketensor")


class Layer(nn.Module):
    def __init__(self, d: int, N: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.A_log = nn.Parameter(torch.randn(d, N, generator=generator))
        self.weights = nn.Parameter(torch.randn(d, 2 * N, generator=generator) / d)
        self.D = nn.Parameter(torch.ones(d))

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        B, C = (u @ self.weights).chunk(2, dim=-1)
        y, final = selective_scan(u, u, -self.A_log.exp(), B, C, self.D, u, delta_softplus=True)
        return y.tanh(), final


@pytest.mark.parametrize("optional", [(), ("D", "z", "delta_bias", "state")])
def test_the_operators_keep_their_contracts(oracle: SimpleNamespace, optional: tuple[str, ...]) -> None:
    given = oracle.operands(2, 35, 5, 3, torch.float32, given=optional)
    required = [given[name] for name in ("u", "delta", "A", "B", "C")]
    D, z, bias, state = (given.get(name) for name in ("D", "z", "delta_bias", "state"))
    for keep in (False, True):
        arguments = (*required, D, z, bias, state, True, keep)
        torch.library.opcheck(
            selective_scan_op, arguments, test_utils=(*CHECKS, "test_autograd_registration")
        )
    with torch.no_grad():
        y, final, plain, before = selective_scan_op(*required, D, z, bias, state, True, True)
    detached = [x.detach() for x in required]
    D, z, bias = (x if x is None else x.detach() for x in (D, z, bias))
    torch.library.opcheck(
        selective_scan_backward_op, (y, final, *detached, D, z, bias, plain, before, True), test_utils=CHECKS
    )


def test_one_graph_trains_at_every_length() -> None:
    layer, graphs = Layer(6, 3), torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=graphs, dynamic=True)
    for L in (9, 40, 70):
        u = torch.randn(2, L, 6, generator=torch.Generator().manual_seed(L))
        wanted = torch.autograd.grad(layer(u)[0].sum(), list(layer.parameters()))
        found = torch.autograd.grad(compiled(u)[0].sum(), list(layer.parameters()))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)
    assert graphs.frame_count == 1
    torch._dynamo.reset()


def test_exported_for_any_batch_and_length() -> None:
    layer, free = Layer(6, 3), torch.export.Dim.AUTO
    u = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        program = torch.export.export(layer, (u,), dynamic_shapes={"u": {0: free, 1: free}})
        for other in (u, torch.ones(5, 41, 6)):
            torch.testing.assert_close(program.module()(other), layer(other))
    assert "compressm.selective_scan" in str(program.graph)
