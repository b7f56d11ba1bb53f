"""Mamba from inputs to outputs, sequence by sequence, against the layer in float64 and against its parts."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressm.layers import Mamba, mamba_sequences
from compressm.layers.mamba_sizes import LOW_RANK
from compressm.models.pre_norm_block import PreNormBlock
from compressm.scan.runtime import gemm_addresses

BATCH, L = 6, 150  # more steps than are rounded at a time, and a short chunk at the end

# Ranks of the time step of both kinds; no bias; no window; more states than channels outside.
SHAPES: list[dict[str, Any]] = [
    {"input_dim": 32, "state_dim": 12, "dt_rank": LOW_RANK - 3},
    {"input_dim": 16, "state_dim": 2, "dt_rank": LOW_RANK + 1, "conv_bias": False},
    {"input_dim": 16, "state_dim": 19, "conv_kernel": 1},
    {"input_dim": 20, "expand": 8, "state_dim": 1, "dt_rank": 1},
]

pytestmark = pytest.mark.skipif(
    "gemm_bf16bf16f32_" not in (gemm_addresses() or {}), reason="PyTorch was built without MKL's products"
)


@pytest.fixture(autouse=True)
def every_product_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of bfloat16, which are emulated where the processor has none, are right if slow."""
    monkeypatch.setattr(mamba_sequences, "can_multiply", lambda _: True)


def lively(shape: dict[str, Any]) -> Mamba:
    torch.manual_seed(0)
    layer = Mamba(**shape, dt_min=0.05, dt_max=1.0)
    with torch.no_grad():
        layer.A_log.add_(0.3 * torch.randn_like(layer.A_log))
        layer.D.copy_(torch.randn_like(layer.D))
    return layer


def state_of(layer: Mamba) -> Tensor:
    size = sum(torch.Size(s).numel() for s in (layer.window_shape, layer.memory_shape))
    return torch.randn(BATCH, size)


def pulled(y: Tensor, last: Tensor, wanted: dict[str, Tensor], through: str = "both") -> dict[str, Tensor]:
    """Outputs, last state, and the gradients of a random weighting of "y", "state" or "both"."""
    generator = torch.Generator().manual_seed(1)
    weighted = {
        name: (value * torch.randn(value.shape, generator=generator).to(value.dtype)).sum()
        for name, value in (("y", y), ("state", last))
    }
    loss = weighted["y"] + weighted["state"] if through == "both" else weighted[through]
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
    return {"y": y, "last": last} | dict(zip(wanted, grads, strict=True))


def results(layer: nn.Module, u: Tensor, state: Tensor | None, through: str = "both") -> dict[str, Tensor]:
    leaves = {"u": u.clone().requires_grad_()}
    if state is not None:
        leaves["state"] = state.clone().requires_grad_()
    y, last = layer(leaves["u"], leaves.get("state"))
    return pulled(y, last, leaves | dict(layer.named_parameters()), through)


def largest_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[float, str]:
    return max(
        ((found[name].double() - value.double()).norm().item() / (value.double().norm().item() or 1.0), name)
        for name, value in wanted.items()
    )


def exact_copy(layer: Mamba, shape: dict[str, Any]) -> Mamba:
    exact = Mamba(**shape).double()
    exact.load_state_dict(layer.state_dict())
    return exact


def by_sequences(y: Tensor) -> bool:
    """Whether the node is in the graph."""
    seen, waiting = set(), [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(before for before, _ in node.next_functions)
    return any("_Sequences" in node.name() for node in seen)


def block_of(layer: Mamba) -> PreNormBlock:
    block = PreNormBlock(layer, layer.input_dim, eps=1e-2)
    nn.init.uniform_(block.norm.weight, 0.5, 2.0)
    return block


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("through", ["y", "state", "both"])
def test_outputs_states_and_gradients_equal_those_in_float64(
    shape: dict[str, Any], given: bool, through: str
) -> None:
    layer = lively(shape)
    u, state = torch.randn(BATCH, L, layer.input_dim), state_of(layer) if given else None
    found = results(layer, u, state, through)
    assert by_sequences(found["y"])
    wanted = results(exact_copy(layer, shape), u.double(), None if state is None else state.double(), through)
    assert largest_error(found, wanted) < (5e-6, "")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", [False, True], ids=["from zero", "from a state"])
def test_a_block_with_norm_and_sum_equals_the_one_in_float64(shape: dict[str, Any], given: bool) -> None:
    layer = lively(shape)
    block = block_of(layer)
    u, state = torch.randn(BATCH, L, layer.input_dim), state_of(layer) if given else None
    found = results(block, u, state)
    assert by_sequences(found["y"])
    exact = block_of(exact_copy(layer, shape)).double()
    exact.load_state_dict(block.state_dict())
    wanted = results(exact, u.double(), None if state is None else state.double())
    assert largest_error(found, wanted) < (5e-6, "")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("half", ["autocast", "parameters", "block"])
def test_in_half_precision_it_rounds_as_its_parts_do(shape: dict[str, Any], half: str) -> None:
    """Against float64, and against the parts in turn: it may not be far the worse one."""
    layer = lively(shape)
    if half == "parameters":
        layer = layer.bfloat16()
    whole: nn.Module = block_of(layer) if half == "block" else layer
    u, state = torch.randn(BATCH, L, layer.input_dim).bfloat16(), state_of(layer)
    exact: nn.Module = exact_copy(layer, shape)
    if half == "block":
        exact = block_of(exact_copy(layer, shape)).double()
        exact.load_state_dict(whole.state_dict())
    wanted = results(exact, u.double(), state.double())
    inputs = u if half == "parameters" else u.float()
    with torch.autocast("cpu", torch.bfloat16, enabled=half != "parameters"):
        found = results(whole, inputs, state)
        assert by_sequences(found["y"])
        handles = [m.register_forward_hook(lambda *_: None) for m in (layer.x_proj, layer)]
        apart = results(whole, inputs, state)
        assert not by_sequences(apart["y"])
        for handle in handles:
            handle.remove()
    for name, value in apart.items():
        assert found[name].dtype == value.dtype, name
    error, name = largest_error(found, wanted)
    assert error < 0.03, name
    assert error < 2 * largest_error(apart, wanted)[0], name


@pytest.mark.parametrize("half", [False, True])
def test_without_gradients_rows_are_not_kept_and_outputs_are_the_same(half: bool) -> None:
    layer = lively(SHAPES[0])
    block, u, state = block_of(layer), torch.randn(BATCH, L, 32), state_of(layer)
    for module in (layer, block):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y, last = module(u, state)
            with torch.no_grad():
                found = module(u, state)
                short = module(u, state, final_state=False)
        assert all(torch.equal(a, b) for a, b in zip(found, (y, last), strict=True))
        assert torch.equal(short[0], y)
        assert short[1].numel() == 0


def test_a_loss_without_the_final_state_and_a_second_pass_over_the_graph() -> None:
    layer = lively(SHAPES[0])
    u = torch.randn(BATCH, L, 32)
    y, _ = layer(u, final_state=False)
    grads = [torch.autograd.grad(y.sum(), list(layer.parameters()), retain_graph=True) for _ in range(2)]
    assert by_sequences(y)
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("threads", [1, 3, 4, 6])
def test_threads_share_sequences_only_where_none_is_idle(threads: int) -> None:
    layer, u, before = lively(SHAPES[0]), torch.randn(BATCH, L, 32), torch.get_num_threads()
    wanted = results(exact_copy(layer, SHAPES[0]), u.double(), None)
    try:
        torch.set_num_threads(threads)
        found = results(layer, u, None)
    finally:
        torch.set_num_threads(before)
    assert by_sequences(found["y"]) == (threads != 4)
    assert largest_error(found, wanted) < (5e-6, "")


def test_inputs_and_weights_may_lie_anywhere() -> None:
    layer = lively(SHAPES[0])
    u = torch.randn(BATCH, 32, L).mT
    wanted = results(layer, u.contiguous(), None)
    layer.in_proj.weight = nn.Parameter(layer.in_proj.weight.detach().t().contiguous().t())
    found = results(layer, u, None)
    assert by_sequences(found["y"])
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("change", ["hook", "bias", "subclass", "size"])
def test_parts_are_called_where_somebody_has_changed_them(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = lively(SHAPES[0])
    called: list[int] = []
    if change == "hook":
        layer.out_proj.register_forward_hook(lambda *_: called.append(1))
    elif change == "bias":
        layer.in_proj.bias = nn.Parameter(torch.randn(layer.in_proj.weight.shape[0]))
    elif change == "subclass":
        layer.in_proj = type("Adapted", (nn.Linear,), {})(32, 128, bias=False)
    else:
        monkeypatch.setattr(mamba_sequences, "_LARGEST", 6143)
    u = torch.randn(BATCH, L, 32)
    found = results(layer, u, None)
    assert not by_sequences(found["y"])
    assert called == ([1] if change == "hook" else [])
    exact = Mamba(**SHAPES[0], bias=change == "bias").double()
    weights = dict(layer.state_dict())
    if change == "bias":
        weights["out_proj.bias"] = torch.zeros(32)
    exact.load_state_dict(weights)
    wanted = results(exact, u.double(), None)
    wanted.pop("out_proj.bias", None)
    assert largest_error(found, wanted) < (5e-6, "")


def test_a_hook_of_all_modules_sees_each() -> None:
    block, called = block_of(lively(SHAPES[0])), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(type(module)))
    block(torch.randn(BATCH, L, 32))
    handle.remove()
    assert Mamba in called
    assert called.count(nn.Linear) == 3


@pytest.mark.parametrize("change", ["hook on the layer", "hook on the norm", "dropout"])
def test_a_block_calls_what_somebody_watches(change: str) -> None:
    block = block_of(lively(SHAPES[0]))
    called: list[int] = []
    if change == "dropout":
        block.dropout = 0.5
    else:
        watched = block.mixer if change == "hook on the layer" else block.norm
        watched.register_forward_hook(lambda *_: called.append(1))
    u = torch.randn(BATCH, L, 32)
    y, _ = block(u)
    assert called == ([] if change == "dropout" else [1])
    if change == "dropout":
        assert not torch.allclose(y, block.eval()(u)[0])
        assert torch.equal(block(u)[0], block(u)[0])


def test_refusals_are_those_of_the_layer() -> None:
    block = block_of(lively(SHAPES[0]))
    with pytest.raises(ValueError, match=r"\(batch, L, 32\)"):
        block(torch.randn(BATCH, 32))
    with pytest.raises(ValueError, match="state"):
        block(torch.randn(BATCH, L, 32), torch.randn(BATCH, 5))
