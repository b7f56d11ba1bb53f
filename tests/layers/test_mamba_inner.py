"""Mamba's inner part as one node of autograd, against the layer in float64 and against its parts."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compressm.layers import Mamba
from compressm.layers.mamba_sequences import LayerOperands

# Channels below, between and at whole vectors; ranks of the time step above one; no window; no bias.
SHAPES: list[dict[str, Any]] = [
    {"input_dim": 5, "state_dim": 3},
    {"input_dim": 20, "state_dim": 2, "dt_rank": 3, "bias": True},
    {"input_dim": 32, "state_dim": 12, "dt_rank": 5, "conv_bias": False},
    {"input_dim": 16, "state_dim": 1, "conv_kernel": 1},
    {"input_dim": 33, "state_dim": 2, "dt_rank": 9},
]


@pytest.fixture(autouse=True)
def only_the_inner_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences do not go through the whole layer by themselves."""
    monkeypatch.setattr(LayerOperands, "served", property(lambda _: False))


def lively(shape: dict[str, Any]) -> Mamba:
    torch.manual_seed(0)
    layer = Mamba(**shape, dt_min=0.05, dt_max=1.0)
    with torch.no_grad():
        layer.A_log.add_(0.3 * torch.randn_like(layer.A_log))
        layer.D.copy_(torch.randn_like(layer.D))
    return layer


def in_float64(layer: Mamba, shape: dict[str, Any]) -> Mamba:
    exact = Mamba(**shape).double()
    exact.load_state_dict(layer.state_dict())
    return exact


def results(layer: Mamba, u: Tensor, state: Tensor | None, through: str) -> dict[str, Tensor]:
    """Outputs, last state, and the gradients of a random weighting of "y", "state" or "both"."""
    leaves = {"u": u.clone().requires_grad_()}
    if state is not None:
        leaves["state"] = state.clone().requires_grad_()
    y, last = layer(leaves["u"], leaves.get("state"))
    generator = torch.Generator().manual_seed(1)
    weighted = {
        name: (value * torch.randn(value.shape, generator=generator).to(value.dtype)).sum()
        for name, value in (("y", y), ("state", last))
    }
    loss = weighted["y"] + weighted["state"] if through == "both" else weighted[through]
    wanted = leaves | dict(layer.named_parameters())
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
    return {"y": y, "last": last} | dict(zip(wanted, grads, strict=True))


def largest_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[float, str]:
    errors = [
        ((found[name].double() - value.double()).norm().item() / (value.double().norm().item() or 1.0), name)
        for name, value in wanted.items()
    ]
    return max(errors)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("through", ["y", "state", "both"])
def test_outputs_states_and_gradients_equal_those_in_float64(
    shape: dict[str, Any], given: bool, through: str
) -> None:
    layer = lively(shape)
    u = torch.randn(2, 37, layer.input_dim)
    size = sum(torch.Size(s).numel() for s in (layer.window_shape, layer.memory_shape))
    state = torch.randn(2, size) if given else None
    found = results(layer, u, state, through)
    exact = in_float64(layer, shape)
    wanted = results(exact, u.double(), None if state is None else state.double(), through)
    assert largest_error(found, wanted) < (5e-6, "")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("half", ["autocast", "parameters"])
def test_in_half_precision_it_rounds_as_its_parts_do(shape: dict[str, Any], given: bool, half: str) -> None:
    """Against float64, and against the parts in turn: neither may be far the better one."""
    layer = lively(shape)
    if half == "parameters":
        layer = layer.bfloat16()
    u = torch.randn(2, 37, layer.input_dim).bfloat16()
    size = sum(torch.Size(s).numel() for s in (layer.window_shape, layer.memory_shape))
    state = torch.randn(2, size) if given else None
    exact = in_float64(layer, shape)
    wanted = results(exact, u.double(), None if state is None else state.double(), "both")
    inputs = u.float() if half == "autocast" else u

    with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
        assert any("_Inner" in name for name in node_names(layer(inputs)[0]))
        found = results(layer, inputs, state, "both")
        handle = layer.x_proj.register_forward_hook(lambda *_: None)
        assert not any("_Inner" in name for name in node_names(layer(inputs)[0]))
        apart = results(layer, inputs, state, "both")
        handle.remove()
    for name, value in apart.items():
        assert found[name].dtype == value.dtype, name
    error, name = largest_error(found, wanted)
    assert error < 0.03, name
    assert error < 2 * largest_error(apart, wanted)[0], name


def test_autocast_leaves_float32_inputs_to_the_parts() -> None:
    """Whoever puts a float32 projection in front wants the rest rounded none the less."""

    class Precise(torch.nn.Linear):
        def forward(self, u: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return super().forward(u.float())

    layer = lively(SHAPES[0])
    precise = Precise(5, layer.in_proj.weight.shape[0], bias=False)
    precise.load_state_dict(layer.in_proj.state_dict())
    layer.in_proj = precise
    u = torch.randn(2, 9, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(u)
    assert not any("_Inner" in name for name in node_names(y))
    assert y.dtype == torch.bfloat16


def node_names(y: Tensor) -> set[str]:
    """Names of all nodes of a graph."""
    seen, waiting = set(), [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(before for before, _ in node.next_functions)
    return {node.name() for node in seen}


def test_it_is_one_node_and_its_parts_where_somebody_wants_them_called() -> None:
    layer = lively(SHAPES[0])
    u = torch.randn(2, 9, 5)
    together = results(layer, u, None, "both")
    assert any("_Inner" in name for name in node_names(layer(u)[0]))
    called: list[Tensor] = []
    handle = layer.x_proj.register_forward_hook(lambda *given: called.append(given[-1]))
    apart = results(layer, u, None, "both")
    handle.remove()
    assert len(called) == 1
    assert largest_error(apart, together) < (2e-6, "")
    with torch.no_grad():
        assert torch.equal(layer(u)[0], together["y"])


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_operators() -> None:
    layer = lively(SHAPES[0])
    with Watch() as watch:
        layer(torch.randn(2, 9, 5))
    assert "compressm.selective_scan.default" in watch.seen
    assert "compressm.short_convolution.default" in watch.seen


def test_frozen_parameters_and_second_gradients() -> None:
    layer = lively(SHAPES[0])
    layer.A_log.requires_grad_(False)
    u = torch.randn(2, 9, 5, requires_grad=True)
    y, _ = layer(u)
    (grad,) = torch.autograd.grad(y.sum(), u, create_graph=True)
    assert torch.isfinite(grad).all()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()  # type: ignore[no-untyped-call]


def test_parameters_that_do_not_fit_are_refused() -> None:
    layer = lively(SHAPES[0])
    layer.x_proj.weight = torch.nn.Parameter(layer.x_proj.weight[:-1].detach())
    with pytest.raises(RuntimeError, match="split"):
        layer(torch.randn(2, 9, 5))
