"""Selective layers in half precision, and their step in an exported program."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compressm.layers import (
    DeltaNet,
    GatedDeltaNet,
    GatedLinearAttention,
    Mamba,
    Mamba2,
    RetNet,
    StateSpaceLayer,
)

LAYERS: list[Callable[[int, int], StateSpaceLayer]] = [
    Mamba,
    Mamba2,
    GatedLinearAttention,
    RetNet,
    DeltaNet,
    GatedDeltaNet,
]


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_of_half_precision_keeps_its_recurrence_in_float32(
    kind: Callable[[int, int], StateSpaceLayer],
) -> None:
    """As checkpoints are: every parameter bfloat16, compared with float32 on the same rounded values."""
    torch.manual_seed(0)
    layer = kind(16, 6).bfloat16()
    exact = kind(16, 6)
    exact.load_state_dict(layer.state_dict())
    u = torch.randn(2, 40, 16).bfloat16()
    y, state = layer(u)
    expected, last = exact(u.float())
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert (y.float() - expected).norm() < 0.03 * expected.norm()
    assert (state - last).norm() < 0.03 * last.norm()
    first, half = layer(u[:, :39])
    one, end = layer.step(u[:, 39], half)
    assert one.dtype == torch.bfloat16
    assert (one - y[:, 39]).float().norm() < 0.03 * y[:, 39].float().norm()
    assert (end - state).norm() < 0.01 * state.norm()
    assert torch.isfinite(first).all()
    y.float().square().mean().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


class Step(nn.Module):
    def __init__(self, layer: StateSpaceLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, u_k: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer.step(u_k, state)


@pytest.mark.parametrize("kind", [Mamba, GatedDeltaNet])
def test_a_step_exports_without_operators_of_our_own(kind: Callable[[int, int], StateSpaceLayer]) -> None:
    torch.manual_seed(0)
    layer = kind(8, 3).eval()
    u = torch.randn(2, 5, 8)
    with torch.no_grad():
        _, state = layer(u[:, :4])
        program = torch.export.export(Step(layer), (u[:, 4], state))
        y, _ = program.module()(u[:, 4], state)
        assert torch.allclose(y, layer(u)[0][:, 4], atol=1e-5)
    assert not [node.target for node in program.graph.nodes if "compressm" in str(node.target)]
