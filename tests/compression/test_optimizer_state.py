"""Moments in new coordinates: against gradients taken afresh, and the three treatments told apart."""

import pytest
import torch
from torch import Tensor

import compressm
from compressm.adapters import LRUAdapter
from compressm.compression.optimizer_state import plan_state, replace_value
from compressm.layers import LRU
from compressm.lti import balance

ADAPTER = LRUAdapter()


def loss_of(layer: LRU) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    u = torch.randn(3, 25, layer.input_dim, dtype=torch.float64, generator=generator)
    weight = torch.randn(3, 25, layer.input_dim, dtype=torch.float64, generator=generator)
    return (layer(u)[0] * weight).sum()


def gradients(layer: LRU) -> dict[str, Tensor]:
    layer.zero_grad()
    loss_of(layer).backward()
    return {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}


def with_real_modes() -> LRU:
    """Dynamics whose balanced real form has real eigenvalues beside conjugate pairs."""
    torch.manual_seed(4)
    layer = LRU(2, 7, r_min=0.3, r_max=0.9).double()
    with torch.no_grad():
        layer.theta[:3] = torch.tensor([0.0, torch.pi, 0.0])
        layer.B[1, :3] = 0.0
        layer.C[1, :, :3] = 0.0
    return layer


def complex_modes() -> LRU:
    torch.manual_seed(4)
    return LRU(3, 6, r_min=0.3, r_max=0.9).double()


@pytest.mark.parametrize("realization", ["real", "complex"])
@pytest.mark.parametrize("make", [complex_modes, with_real_modes])
def test_without_loss_of_states_a_moved_gradient_is_the_gradient(make: object, realization: str) -> None:
    """A first moment is a sum of gradients, so at r = n moving one must give the one taken afresh."""
    layer = make()  # type: ignore[operator]
    before = gradients(layer)
    balancing = balance(ADAPTER.system(layer), realization)  # type: ignore[arg-type]
    reduction = balancing.truncate(keep=balancing.rank)
    assert reduction.limited_by is None
    assert reduction.order == layer.state_dim
    updates = ADAPTER.write_back(layer, reduction)
    moved = {
        name: update.first_moment(before[name]) for name, update in updates.items() if update.first_moment
    }
    for name, update in updates.items():
        replace_value(getattr(layer, name), update.value)
    after = gradients(layer)
    assert moved.keys() == {"B", "C"}
    for name, moment in moved.items():
        scale = after[name].abs().max()
        assert (moment - after[name]).abs().max() <= 1e-10 * scale, name


def test_second_moments_move_by_squares_of_the_same_coefficients() -> None:
    """For independent gradient entries the variance of the moved entry is the moved variance."""
    layer = complex_modes()
    reduction = balance(ADAPTER.system(layer), "real").truncate(order=3)
    update = ADAPTER.write_back(layer, reduction)["B"]
    assert update.first_moment is not None
    assert update.second_moment is not None
    generator = torch.Generator().manual_seed(0)
    deviations = torch.rand(layer.B.shape, dtype=torch.float64, generator=generator)
    draws = torch.stack(
        [
            update.first_moment(
                deviations * torch.randn(layer.B.shape, dtype=torch.float64, generator=generator)
            )
            for _ in range(4000)
        ]
    )
    expected = update.second_moment(deviations**2)
    assert torch.allclose(draws.square().mean(0), expected, rtol=0.15)
    assert (expected > 0).all()


def prepared(
    optimizer_type: type[torch.optim.Optimizer], **settings: object
) -> tuple[LRU, torch.optim.Optimizer]:
    layer = complex_modes()
    optimizer = optimizer_type(layer.parameters(), lr=1e-3, **settings)  # type: ignore[call-arg]
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(layer).backward()
        optimizer.step()
    return layer, optimizer


def test_transport_keeps_the_step_of_moved_parameters_and_restarts_the_others() -> None:
    layer, optimizer = prepared(torch.optim.AdamW)
    reduction = balance(ADAPTER.system(layer), "complex").truncate(order=3)
    updates = ADAPTER.write_back(layer, reduction)
    moved = plan_state(optimizer, layer.B, updates["B"], "transport")
    assert moved["step"].item() == 3
    assert moved["exp_avg"].shape == (2, 3, 3)
    assert (moved["exp_avg_sq"] > 0).all()
    for name in ("nu", "theta", "gamma_log"):
        assert plan_state(optimizer, getattr(layer, name), updates[name], "transport") == {}
    assert plan_state(optimizer, layer.B, updates["B"], "reset") == {}
    sliced = plan_state(optimizer, layer.B, updates["B"], "slice")
    assert torch.equal(sliced["exp_avg"], optimizer.state[layer.B]["exp_avg"][:, :3])
    assert sliced["step"].item() == 3


def test_a_restarted_parameter_has_bias_correction_anew() -> None:
    """Adam's first step from scratch moves every entry by the learning rate, whatever the gradient."""
    layer, optimizer = prepared(torch.optim.Adam)
    compressor = compressm.Compressor(
        layer,
        optimizer,
        rank=compressm.FixedRank(3),
        schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
        reduction="balanced",
        realization="complex",  # reaches every size exactly
        optimizer_state="reset",
    )
    compressor.step()
    before = layer.nu.detach().clone()
    optimizer.zero_grad()
    loss_of(layer).backward()
    optimizer.step()
    assert torch.allclose((layer.nu - before).abs(), torch.full((3,), 1e-3, dtype=torch.float64), rtol=1e-3)
    assert optimizer.state[layer.D]["step"].item() == 4  # what the cut did not touch goes on


def test_an_optimiser_without_a_rule_is_refused_before_anything_changes() -> None:
    layer, optimizer = prepared(torch.optim.Adamax)
    compressor = compressm.Compressor(
        layer,
        optimizer,
        rank=compressm.FixedRank(3),
        schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
        reduction="balanced",
    )
    with pytest.raises(ValueError, match=r"Adamax keeps 'exp_inf' .* optimizer_state='reset'"):
        compressor.step()
    assert layer.state_dim == 6
    compressm.Compressor(
        layer,
        optimizer,
        rank=compressm.FixedRank(3),
        schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
        reduction="balanced",
        realization="complex",  # reaches every size exactly
        optimizer_state="reset",
    ).step()
    assert layer.state_dim == 3
    loss_of(layer).backward()
    optimizer.step()


def test_a_living_graph_does_not_hold_a_parameter_to_its_old_shape() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 3))
    alive = (parameter**2).sum()
    alive.backward()
    replace_value(parameter, torch.ones(2, 3))
    (parameter**2).sum().backward()
    assert parameter.grad.shape == (2, 3)
    assert alive.item() == 12.0
