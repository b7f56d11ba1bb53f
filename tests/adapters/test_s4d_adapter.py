"""S4D's channels: into the systems theory, back, and what training keeps."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from compressm.adapters import S4DAdapter, Weighting
from compressm.compression.optimizer_state import replace_value
from compressm.layers import S4D
from compressm.lti import DiagonalSystem, balance, modal_truncation
from compressm.lti.channels import ChannelReduction

ADAPTER = S4DAdapter()
KINDS = [("legs", "zoh"), ("lin", "bilinear"), ("inv", "zoh")]


def layer_of(kind: tuple[str, str], channels: int = 3, states: int = 6) -> S4D:
    torch.manual_seed(1)
    spectrum, discretization = kind
    layer = S4D(
        channels,
        states,
        spectrum=spectrum,
        discretization=discretization,
        dt_min=0.1,
        dt_max=0.5,  # type: ignore[arg-type]
    )
    return layer.double()


def write(layer: S4D, reduction: ChannelReduction) -> dict[str, Any]:
    updates = dict(ADAPTER.write_back(layer, reduction))
    for name, update in updates.items():
        replace_value(getattr(layer, name), update.value)
    return updates


def impulse_response(layer: S4D, length: int) -> Tensor:
    """Every channel's own, by running the layer: (length, H)."""
    u = torch.zeros(1, length, layer.input_dim, dtype=layer.C.dtype)
    u[:, 0] = 1.0
    with torch.no_grad():
        return layer(u)[0][0]


def gradients(layer: S4D) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    u, weight = (
        torch.randn(3, 25, layer.input_dim, dtype=torch.float64, generator=generator) for _ in range(2)
    )
    layer.zero_grad()
    (layer(u)[0] * weight).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_system_is_the_layer(kind: tuple[str, str]) -> None:
    layer = layer_of(kind)
    system = ADAPTER.system(layer)
    assert (system.state_dim, system.input_dim) == (18, 3)
    expected = torch.diag_embed(impulse_response(layer, 50))
    assert torch.allclose(system.impulse_response(50), expected, atol=1e-10)
    channels = [channel.impulse_response(50)[:, 0, 0] for channel in ADAPTER.channel_systems(layer)]
    direct = (torch.arange(50) == 0)[:, None] * layer.D.detach()
    assert torch.allclose(torch.stack(channels, 1) + direct, impulse_response(layer, 50), atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("realization", ["real", "complex"])
def test_without_loss_of_states_map_and_gradients_are_kept(kind: tuple[str, str], realization: str) -> None:
    layer = layer_of(kind)
    map_before, before = impulse_response(layer, 60), gradients(layer)
    steps = layer.log_dt.detach().clone()
    reduction = ADAPTER.balance(layer, realization, Weighting()).truncate(6)  # type: ignore[arg-type]
    assert reduction.note == ""
    updates = write(layer, reduction)
    assert updates.keys() == {"log_A_real", "A_imag", "log_dt", "C", "channel_states"}
    assert (impulse_response(layer, 60) - map_before).abs().max() <= 1e-10 * map_before.abs().max()
    after = gradients(layer)
    moved = updates["C"].first_moment(before["C"])
    assert (moved - after["C"]).abs().max() <= 1e-10 * after["C"].abs().max()
    assert torch.equal(layer.log_dt, steps)
    assert all(updates[name].first_moment is None for name in ("log_A_real", "A_imag", "log_dt"))


def test_the_same_with_real_eigenvalues() -> None:
    """Real eigenvalues, a negative one from a rotation by pi: each is one real state, not two."""
    torch.manual_seed(2)
    layer = S4D(2, 4, dt_min=1.0, dt_max=1.0).double()
    with torch.no_grad():
        layer.A_imag[0] = torch.tensor([0.0, math.pi, 0.0, 0.5])
        layer.log_A_real[0] = torch.tensor([0.1, -0.5, 1.5, -1.0])
        # C f is to be real where the eigenvalue is.
        factor = layer.discrete().factor()
        real = torch.view_as_real(torch.randn(4, dtype=torch.float64) / factor[0]).movedim(-1, 0)
        layer.C[:, 0, :3] = real[:, :3]
    map_before, before = impulse_response(layer, 60), gradients(layer)
    balancing = ADAPTER.balance(layer, "real", Weighting())
    reduction = ChannelReduction(tuple(c.truncate(keep=c.rank) for c in balancing.channels), "real")
    assert [int(c.real_modes.sum()) for c in reduction.channels] == [3, 0]
    updates = write(layer, reduction)
    assert torch.allclose(impulse_response(layer, 60), map_before, atol=1e-11)
    after = gradients(layer)
    moved = updates["C"].first_moment(before["C"])
    assert (moved - after["C"]).abs().max() <= 1e-10 * after["C"].abs().max()


def test_second_moments_move_by_squares_of_the_same_coefficients() -> None:
    layer = layer_of(("legs", "zoh"), channels=2, states=4)
    update = ADAPTER.write_back(layer, ADAPTER.balance(layer, "real", Weighting()).truncate(2))["C"]
    assert update.first_moment is not None
    assert update.second_moment is not None
    for index in range(layer.C.numel()):
        unit = torch.zeros(layer.C.numel(), dtype=torch.float64)
        unit[index] = 1.0
        unit = unit.view_as(layer.C)
        assert torch.allclose(update.second_moment(unit), update.first_moment(unit) ** 2, atol=1e-12)
        assert update.second_moment(unit).sum() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("realization", ["real", "complex"])
def test_what_is_written_back_is_the_reduced_system_within_its_bound(
    kind: tuple[str, str], realization: str
) -> None:
    layer = layer_of(kind, channels=4, states=12)
    length = 6000  # the bilinear transform brings fast rotations close to the unit circle
    before = impulse_response(layer, length)
    reduction = ADAPTER.balance(layer, realization, Weighting()).truncate(4)  # type: ignore[arg-type]
    write(layer, reduction)
    assert layer.state_dim == reduction.order <= 4
    after = impulse_response(layer, length)
    gains = torch.fft.fft(after - before, n=1 << 16, dim=0).abs().max(dim=0).values
    assert float(gains.max()) == pytest.approx(reduction.error, rel=1e-3)
    assert reduction.error <= reduction.error_bound
    direct = (torch.arange(length) == 0) * 1.0
    for h, channel in enumerate(reduction.channels):
        expected = channel.system.impulse_response(length)[:, 0, 0] + layer.D[h].detach() * direct
        assert torch.allclose(after[:, h], expected, atol=1e-10)
        assert float(gains[h]) <= channel.error * (1 + 1e-6)
    # And the smaller layer streams.
    u, state, outputs = torch.randn(2, 20, 4, dtype=torch.float64), None, []
    for k in range(20):
        y_k, state = layer.step(u[:, k], state)
        outputs.append(y_k)
    assert torch.allclose(torch.stack(outputs, 1), layer(u)[0], atol=1e-11)


def test_channels_of_their_own_size_are_padded_with_inert_modes() -> None:
    layer = layer_of(("legs", "zoh"), channels=4, states=10)
    with torch.no_grad():
        layer.C.mul_(torch.tensor([3.0, 1.0, 0.1, 1e-5])[:, None])
    before = impulse_response(layer, 400)
    adapter = S4DAdapter(per_channel=True)
    reduction = adapter.balance(layer, "real", Weighting()).truncate(keep=24)
    sizes = [channel.order for channel in reduction.channels]
    assert len(set(sizes)) > 2
    write(layer, reduction)
    assert layer.state_dim == max(sizes) == adapter.state_dim(layer)
    assert layer.channel_states.tolist() == sizes
    gains = torch.fft.fft(impulse_response(layer, 400) - before, n=1 << 16, dim=0).abs().max()
    assert float(gains) <= reduction.error * (1 + 1e-6)
    inert = torch.arange(layer.state_dim) >= layer.channel_states[:, None]
    after = gradients(layer)
    assert all((after[name][..., inert] == 0).all() for name in ("log_A_real", "A_imag", "C"))
    # Momentum and its like stay out of them as well, and a second cut sees the small sizes.
    moved = adapter.write_back(layer, reduction_of_itself(layer))["C"]
    assert moved.first_moment is not None
    assert torch.isfinite(moved.first_moment(torch.ones_like(layer.C))).all()
    again = adapter.balance(layer, "real", Weighting())
    assert [channel.rank <= 2 * size for channel, size in zip(again.channels, sizes, strict=True)] == [
        True
    ] * 4
    write(layer, again.truncate(2))
    assert layer.channel_states.tolist() == [min(2, size) for size in sizes]


def reduction_of_itself(layer: S4D) -> ChannelReduction:
    channels = ADAPTER.balance(layer, "real", Weighting()).channels
    return ChannelReduction(tuple(channel.truncate(keep=channel.rank) for channel in channels), "real")


def test_a_common_size_is_the_default() -> None:
    layer = layer_of(("legs", "zoh"), channels=4, states=10)
    with torch.no_grad():
        layer.C.mul_(torch.tensor([3.0, 1.0, 0.1, 0.01])[:, None])
    reduction = ADAPTER.balance(layer, "real", Weighting()).truncate(keep=24)
    assert len({channel.order for channel in reduction.channels}) == 1


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@pytest.mark.parametrize("magnitude", [0.0, 1e-300, 1e-9, 1 - 1e-6, -0.7, -(1 - 1e-6)])
def test_real_eigenvalues_of_every_size_and_sign(discretization: str, magnitude: float) -> None:
    torch.manual_seed(3)
    A = torch.tensor([0.9 * complex(math.cos(0.4), math.sin(0.4)), magnitude], dtype=torch.complex128)
    systems = [
        DiagonalSystem(
            A, torch.randn(2, 1, dtype=torch.complex128), torch.randn(1, 2, dtype=torch.complex128)
        )
        for _ in range(2)
    ]
    reduction = ChannelReduction(tuple(modal_truncation(system, 2) for system in systems), "complex")
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 5e-4)):
        layer = S4D(2, 2, discretization=discretization).to(dtype)  # type: ignore[arg-type]
        write(layer, reduction)
        with torch.no_grad():
            layer.D.zero_()
        expected = torch.cat([system.impulse_response(200)[:, 0] for system in systems], 1)
        assert torch.allclose(impulse_response(layer, 200).double(), expected, atol=tolerance)
        layer(torch.randn(2, 9, 2, dtype=dtype))[0].square().sum().backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


def test_silent_channels_keep_one_state_that_can_learn() -> None:
    layer = layer_of(("legs", "zoh"))
    with torch.no_grad():
        layer.C[:, 1] = 0.0
    before = impulse_response(layer, 50)
    reduction = ADAPTER.balance(layer, "real", Weighting()).truncate(6)
    assert "1 of 3 channels; the first is channel 1" in reduction.note
    updates = write(layer, reduction)
    assert layer.channel_states.tolist() == [6, 1, 6]
    assert torch.allclose(impulse_response(layer, 50), before, atol=1e-11)
    assert torch.isfinite(updates["C"].first_moment(torch.ones_like(layer.C))).all()
    assert (gradients(layer)["C"][:, 1, 0] != 0).any()


@pytest.mark.parametrize("kind", ["states", "gradients", "covariance"])
@pytest.mark.parametrize("realization", ["real", "complex"])
def test_weightings_go_channel_by_channel(kind: str, realization: str) -> None:
    torch.manual_seed(6)
    layer = layer_of(("legs", "zoh"), channels=5)
    inputs = [torch.randn(4, 60, 5).cumsum(1), torch.randn(2, 30, 5, dtype=torch.float64)]
    gradients = [torch.randn(4, 60, 5) * torch.arange(5)]  # nothing depends on the first channel's output
    weighting = Weighting(kind, inputs, gradients)  # type: ignore[arg-type]
    weighted = ADAPTER.balance(layer, realization, weighting)  # type: ignore[arg-type]
    for h, system in enumerate(ADAPTER.channel_systems(layer)):
        alone = weighting.channel(h).balance(system, realization)  # type: ignore[arg-type]
        expected = alone.hankel_singular_values
        actual = weighted.channels[h].hankel_singular_values
        assert torch.allclose(actual, expected, atol=1e-6 * float(expected[0])), h
        if h == 0 and kind != "states":
            assert weighted.channels[h].rank == 0
            continue
        # Directions too, not only values: the same truncation comes out.
        response, wanted = (b.truncate(2).system.impulse_response(30) for b in (weighted.channels[h], alone))
        assert torch.allclose(response, wanted, atol=1e-4 * float(wanted.abs().max()))
    assert weighted.truncate(3).error_bound is None


def test_of_many_recorded_sequences_some_are_enough() -> None:
    torch.manual_seed(7)
    layer = layer_of(("legs", "zoh"), channels=2)
    u = torch.randn(60, 1000, 2).cumsum(1) / 10
    some = ADAPTER.balance(layer, "real", Weighting("states", [u]))
    third = ADAPTER.balance(layer, "real", Weighting("states", [u[::3]]))
    for a, b in zip(some.channels, third.channels, strict=True):
        assert torch.equal(a.hankel_singular_values, b.hankel_singular_values)


def test_weightings_refuse_missing_and_broken_signals() -> None:
    layer = layer_of(("legs", "zoh"))
    with pytest.raises(ValueError, match="'states' needs recorded inputs"):
        ADAPTER.balance(layer, "real", Weighting("states"))
    u = torch.randn(2, 10, 3)
    with pytest.raises(ValueError, match="'gradients' needs recorded gradients"):
        ADAPTER.balance(layer, "real", Weighting("gradients", [u]))
    u[0, 3, 1] = math.nan
    with pytest.raises(ValueError, match="recorded inputs hold values that are not finite"):
        ADAPTER.balance(layer, "real", Weighting("covariance", [u]))


def test_what_cannot_be_written_back_is_refused() -> None:
    layer = layer_of(("legs", "zoh"))
    with pytest.raises(TypeError, match="takes a ChannelReduction, not a Reduction"):
        ADAPTER.write_back(layer, balance(ADAPTER.system(layer), "real").truncate(4))  # type: ignore[arg-type]
    with torch.no_grad():
        layer.log_A_real[2, 1] = -800.0
    with pytest.raises(ValueError, match=r"channel 2: .*unstable"):
        ADAPTER.balance(layer, "real", Weighting())
