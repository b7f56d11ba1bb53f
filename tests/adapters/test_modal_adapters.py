"""S5, rotation blocks and bidirectional layers: into the systems theory, back, and what training keeps."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressm.adapters import LRUAdapter, ParameterUpdate, RotationAdapter, S5Adapter, Weighting
from compressm.adapters.bidirectional import TwoWayReduction
from compressm.adapters.parameters import participation
from compressm.compression.optimizer_state import replace_value
from compressm.layers import LRU, S5, RotationSSM
from compressm.lti import Balancing, DiagonalSystem, Reduction, balance, modal_truncation
from compressm.lti.perturbation import singular_perturbation

FAST = {"r_min": 0.3, "r_max": 0.9}
CASES: dict[str, tuple[Callable[..., Any], Any]] = {
    "lru": (lambda h, n: LRU(h, n, **FAST), LRUAdapter()),
    "lru-bi": (lambda h, n: LRU(h, n, bidirectional=True, **FAST), LRUAdapter()),
    "s5": (lambda h, n: S5(h, n, dt_min=0.1, dt_max=0.5), S5Adapter()),
    "s5-bi": (lambda h, n: S5(h, n, dt_min=0.1, dt_max=0.5, bidirectional=True), S5Adapter()),
    "rotation": (lambda h, n: RotationSSM(h, n, **FAST), RotationAdapter()),
}
ONE_WAY = ["lru", "s5", "rotation"]
TWO_WAY = ["lru-bi", "s5-bi"]


def balanced(adapter: Any, layer: nn.Module, realization: str = "real") -> Balancing:
    if hasattr(adapter, "balance"):
        result: Balancing = adapter.balance(layer, realization, Weighting())
        return result
    return balance(adapter.system(layer), realization)  # type: ignore[arg-type]


def write(layer: nn.Module, updates: dict[str, ParameterUpdate]) -> None:
    for name, update in updates.items():
        replace_value(getattr(layer, name), update.value)


def impulse_response(layer: Any, length: int, at: int = 0) -> Tensor:
    """The layer's own, by running it: (length, H, H), for an impulse at step ``at``."""
    u = torch.zeros(layer.input_dim, length, layer.input_dim, dtype=layer.B.dtype)
    u[:, at] = torch.eye(layer.input_dim, dtype=layer.B.dtype)
    with torch.no_grad():
        response: Tensor = layer(u)[0].permute(1, 2, 0)
        return response


def gain(response: Tensor) -> float:
    """Largest gain over frequency of a response that has died out within its length."""
    spectrum = torch.fft.fft(response, n=8 * len(response), dim=0)
    return float(torch.linalg.matrix_norm(spectrum, ord=2).max())


def gradients(layer: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    u, weight = (
        torch.randn(3, 25, layer.input_dim, dtype=torch.float64, generator=generator) for _ in range(2)
    )
    layer.zero_grad()
    (layer(u)[0] * weight).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}


def s5_of(log_A: Tensor, B: Tensor, C: Tensor, dt: float = 0.05) -> S5:
    """An S5 with given dynamics and D = 0; written from the formulas, not with the adapter."""
    layer = S5(B.shape[1], len(log_A)).double()
    a = log_A / dt
    factor = (torch.exp(log_A) - 1) / a
    with torch.no_grad():
        layer.log_A_real.copy_(torch.log(-a.real))
        layer.A_imag.copy_(a.imag)
        layer.log_dt.fill_(math.log(dt))
        layer.B.copy_(torch.view_as_real(B / factor[:, None]).movedim(-1, 0))
        layer.C.copy_(torch.view_as_real(C / 2).movedim(-1, 0))
        layer.D.zero_()
    return layer


def rotation_of(log_A: Tensor, B: Tensor, C: Tensor) -> RotationSSM:
    layer = RotationSSM(B.shape[1], len(log_A)).double()
    with torch.no_grad():
        layer.rho_logit.copy_(torch.logit(torch.exp(log_A.real)))
        layer.theta.copy_(log_A.imag)
        layer.B.copy_(torch.cat((B.real, B.imag)))
        layer.C.copy_(torch.cat((C.real, -C.imag), dim=1))
        layer.D.zero_()
    return layer


def with_real_modes(name: str) -> Any:
    """Conjugate pairs, and real eigenvalues of either sign with real rows and columns."""
    torch.manual_seed(4)
    log_A = torch.tensor(
        [-0.1, -0.3 + math.pi * 1j, -0.5, -0.05 + 1j, -0.4 + 2j, -0.2 + 0.3j], dtype=torch.complex128
    )
    B, C = torch.randn(6, 2, dtype=torch.complex128), torch.randn(2, 6, dtype=torch.complex128)
    B[:3].imag.zero_()
    C[:, :3].imag.zero_()
    return (s5_of if name == "s5" else rotation_of)(log_A, B, C)


@pytest.mark.parametrize("name", ONE_WAY)
def test_the_system_is_the_layer(name: str) -> None:
    torch.manual_seed(0)
    make, adapter = CASES[name]
    layer = make(4, 12).double()
    assert adapter.state_dim(layer) == 12
    assert torch.allclose(adapter.system(layer).impulse_response(60), impulse_response(layer, 60), atol=1e-10)


@pytest.mark.parametrize("name", TWO_WAY)
def test_the_stacked_system_is_both_directions(name: str) -> None:
    torch.manual_seed(0)
    make, adapter = CASES[name]
    layer = make(3, 8).double()
    ahead, back = adapter.system(layer).impulse_response(40).tensor_split(2, dim=1)
    expected = torch.cat((back[1:].flip(0), ahead))
    expected[39] += back[0] + torch.diag(layer.D)
    assert torch.allclose(impulse_response(layer, 79, at=39), expected, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("realization", ["real", "complex"])
def test_without_loss_of_states_map_and_gradients_are_kept(name: str, realization: str) -> None:
    torch.manual_seed(1)
    make, adapter = CASES[name]
    layer = make(3, 6).double()
    map_before, before = impulse_response(layer, 60, at=20), gradients(layer)
    balancing = balanced(adapter, layer, realization)
    reduction = balancing.truncate(keep=balancing.rank)
    assert reduction.limited_by is None
    assert reduction.order == 6
    check_nothing_lost(layer, adapter.write_back(layer, reduction), map_before, before)


@pytest.mark.parametrize("name", ["s5", "rotation"])
def test_the_same_with_real_eigenvalues(name: str) -> None:
    layer, adapter = with_real_modes(name), CASES[name][1]
    map_before, before = impulse_response(layer, 60, at=20), gradients(layer)
    balancing = balanced(adapter, layer)
    reduction = balancing.truncate(keep=balancing.rank)
    assert int(reduction.real_modes.sum()) == 3
    assert reduction.order == 6
    check_nothing_lost(layer, adapter.write_back(layer, reduction), map_before, before)


def check_nothing_lost(layer: Any, updates: Any, map_before: Tensor, before: dict[str, Tensor]) -> None:
    moved = {name: u.first_moment(before[name]) for name, u in updates.items() if u.first_moment}
    write(layer, updates)
    difference = (impulse_response(layer, 60, at=20) - map_before).abs().max()
    assert difference <= 1e-10 * map_before.abs().max()
    after = gradients(layer)
    assert moved.keys() == {"B", "C"}
    for name, moment in moved.items():
        assert moment.shape == after[name].shape
        assert (moment - after[name]).abs().max() <= 1e-10 * after[name].abs().max(), name


@pytest.mark.parametrize("name", ["s5", "s5-bi", "rotation"])
def test_second_moments_move_by_squares_of_the_same_coefficients(name: str) -> None:
    """Every unit vector moves to a column of the coefficients; its square must move to their squares."""
    torch.manual_seed(2)
    make, adapter = CASES[name]
    layer = make(2, 4).double()
    updates = adapter.write_back(layer, balanced(adapter, layer).truncate(2))
    for key in ("B", "C"):
        update = updates[key]
        assert update.first_moment is not None
        assert update.second_moment is not None
        total = 0
        for index in range(getattr(layer, key).numel()):
            unit = torch.zeros_like(getattr(layer, key).detach()).flatten()
            unit[index] = 1.0
            unit = unit.view_as(getattr(layer, key))
            assert torch.allclose(update.second_moment(unit), update.first_moment(unit) ** 2, atol=1e-12)
            total += update.second_moment(unit).sum()
        assert total > 0


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("realization", ["real", "complex"])
def test_what_is_written_back_is_the_reduced_system_within_its_bound(name: str, realization: str) -> None:
    torch.manual_seed(3)
    make, adapter = CASES[name]
    layer = make(3, 14).double()
    reduction = balanced(adapter, layer, realization).truncate(order=5)
    length, at = (801, 400) if layer.bidirectional else (400, 0)
    before = impulse_response(layer, length, at)
    write(layer, adapter.write_back(layer, reduction))
    assert layer.state_dim == reduction.order <= 5
    after = impulse_response(layer, length, at)
    error = gain(after - before)
    assert error <= reduction.error * (1 + 1e-6)
    assert reduction.error <= reduction.error_bound
    if layer.bidirectional:
        assert error > 0.3 * reduction.error  # the sum of both directions' errors is no wild figure
        stacked = reduction.system.impulse_response(400)
        ahead, back = stacked.tensor_split(2, dim=1)
        assert torch.allclose(after[at + 1 : at + 400], ahead[1:], atol=1e-10)
        assert torch.allclose(after[at - 399 : at].flip(0), back[1:], atol=1e-10)
    else:
        assert error == pytest.approx(reduction.error, rel=1e-3)
        assert torch.allclose(after, reduction.system.impulse_response(length), atol=1e-10)


@pytest.mark.parametrize("name", ["s5", "rotation"])
def test_the_free_scale_balances_stored_B_against_stored_C(name: str) -> None:
    torch.manual_seed(5)
    make, adapter = CASES[name]
    layer = make(3, 12).double()
    write(layer, adapter.write_back(layer, balanced(adapter, layer).truncate(4)))
    B, C = layer.B.detach(), layer.C.detach()
    if name == "rotation":
        B, C = torch.stack(B.tensor_split(2)), torch.stack(C.tensor_split(2, dim=1))
    assert torch.allclose(B.square().sum((0, 2)), C.square().sum((0, 1)), rtol=1e-8)


@pytest.mark.parametrize("name", ["s5", "rotation"])
@pytest.mark.parametrize("magnitude", [0.0, 1e-300, 1e-30, 1e-9, 1 - 1e-6, -0.7, -1e-12, -(1 - 1e-6)])
def test_real_eigenvalues_of_every_size_and_sign(name: str, magnitude: float) -> None:
    torch.manual_seed(6)
    A = torch.tensor([0.9 * complex(math.cos(0.4), math.sin(0.4)), magnitude], dtype=torch.complex128)
    B, C = torch.randn(2, 2, dtype=torch.complex128), torch.randn(2, 2, dtype=torch.complex128)
    target = DiagonalSystem(A, B, C)
    keep_all = modal_truncation(target, order=2, kind="h2")
    make, adapter = CASES[name]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 5e-4)):
        layer = make(2, 2).to(dtype)
        write(layer, adapter.write_back(layer, keep_all))
        with torch.no_grad():
            layer.D.zero_()
        assert all(torch.isfinite(parameter).all() for parameter in layer.parameters())
        response = impulse_response(layer, 200).double()
        assert torch.allclose(response, target.impulse_response(200), atol=tolerance)
        layer(torch.randn(2, 9, 2, dtype=dtype))[0].square().sum().backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


@pytest.mark.parametrize("name", ["s5", "rotation"])
def test_nearly_defective_dynamics_stay_usable_in_single_precision(name: str) -> None:
    """Two almost equal eigenvalues with huge opposite residues: a Jordan block in all but name."""
    log_A = torch.log(torch.tensor([0.9, 0.9 - 1e-7, 0.5], dtype=torch.complex128))
    system = DiagonalSystem(
        None, torch.tensor([[1.0], [1.0], [1e-3]]), torch.tensor([[1e5, -1e5, 1e-3]]).double(), log_A=log_A
    )
    reduction = balance(system, "real").truncate(order=2)
    layer = CASES[name][0](1, 3)
    write(layer, CASES[name][1].write_back(layer, reduction))
    with torch.no_grad():
        layer.D.zero_()
    expected = system.impulse_response(300)
    assert reduction.error_bound is not None
    difference = (impulse_response(layer, 300).double() - expected).abs().max()
    assert difference <= reduction.error_bound + 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", CASES)
def test_a_silent_layer_becomes_one_silent_state(name: str) -> None:
    make, adapter = CASES[name]
    layer = make(2, 6)
    with torch.no_grad():
        layer.B.zero_()
    reduction = balanced(adapter, layer).truncate(order=3)
    u = torch.randn(1, 10, 2)
    before = layer(u)[0]
    write(layer, adapter.write_back(layer, reduction))
    assert layer.state_dim == 1
    assert torch.equal(layer(u)[0], before)


@pytest.mark.parametrize("name", ["s5", "rotation"])
def test_a_full_feedthrough_is_refused(name: str) -> None:
    torch.manual_seed(7)
    make, adapter = CASES[name]
    layer = make(3, 8)
    with pytest.raises(ValueError, match="is a vector"):
        adapter.write_back(layer, singular_perturbation(adapter.system(layer), 4, "real"))


def test_a_cut_of_s5_keeps_the_time_scales_of_modes_that_survive() -> None:
    """With two clusters of very different steps, every new mode has the step of its own cluster."""
    torch.manual_seed(8)
    layer = S5(2, 8).double()
    with torch.no_grad():
        layer.log_dt[:4], layer.log_dt[4:] = math.log(1e-3), math.log(0.5)
        layer.A_imag[4:] = torch.tensor([0.5, 1.0, 2.0, 3.0])
    adapter = S5Adapter()
    balancing = balanced(adapter, layer)
    full = adapter.write_back(layer, balancing.truncate(keep=balancing.rank))
    assert torch.allclose(full["log_dt"].value.sort().values, layer.log_dt.sort().values, atol=1e-5)
    assert torch.allclose(full["log_A_real"].value, torch.tensor(0.5).double().log(), atol=1e-5)
    cut = adapter.write_back(layer, balancing.truncate(4))["log_dt"].value
    assert (cut >= math.log(1e-3) - 1e-9).all()
    assert (cut <= math.log(0.5) + 1e-9).all()


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_participation_of_an_unchanged_mode_is_one(realization: str) -> None:
    torch.manual_seed(9)
    layer = LRU(2, 5, **FAST)
    balancing = balance(LRUAdapter().system(layer), realization)  # type: ignore[arg-type]
    shares = participation(balancing.truncate(keep=balancing.rank))
    assert torch.allclose(shares.max(dim=0).values, torch.ones(5, dtype=torch.float64), atol=1e-8)
    assert shares.argmax(dim=0).sort().values.tolist() == list(range(5))
    assert torch.allclose(participation(balancing.truncate(2)).sum(0), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("name", TWO_WAY)
def test_a_rescaled_two_way_reduction_keeps_its_error_figures(name: str) -> None:
    torch.manual_seed(10)
    make, adapter = CASES[name]
    layer = make(2, 8).double()
    reduction = balanced(adapter, layer).truncate(3)
    assert isinstance(reduction, TwoWayReduction)
    stacked = balance(adapter.system(layer), "real").truncate(3)
    assert reduction.error_bound == pytest.approx(2 * stacked.error_bound)
    scaled = reduction.rescaled(torch.full((reduction.order,), 3.0))
    assert isinstance(scaled, TwoWayReduction)
    assert scaled.error == pytest.approx(reduction.error, rel=1e-9)


@pytest.mark.parametrize("kind", ["states", "gradients", "covariance"])
def test_two_way_weightings_see_both_directions(kind: str) -> None:
    """Signals turned round and outputs swapped are the same layer run the other way: the same values."""
    torch.manual_seed(11)
    layer = LRU(2, 6, bidirectional=True, **FAST).double()
    adapter = LRUAdapter()
    u, g = torch.randn(3, 40, 2).cumsum(1), torch.randn(3, 40, 2) * torch.linspace(0, 1, 40)[:, None]
    balancing = adapter.balance(layer, "real", Weighting(kind, [u], [g]))  # type: ignore[arg-type]
    assert balancing.truncate(3).error_bound is None
    with torch.no_grad():
        layer.C.copy_(layer.C.roll(2, dims=1))
    turned = adapter.balance(layer, "real", Weighting(kind, [u.flip(1)], [g.flip(1)]))  # type: ignore[arg-type]
    values = balancing.hankel_singular_values
    assert torch.allclose(values, turned.hankel_singular_values, atol=1e-5 * float(values[0]))


def test_reductions_of_one_way_layers_are_plain() -> None:
    layer = S5(2, 4)
    reduction = S5Adapter().balance(layer, "real", Weighting()).truncate(2)
    assert type(reduction) is Reduction
