"""Many single-input single-output systems at once, against the general algorithm one by one."""

import contextlib
import math

import pytest
import torch
from torch import Tensor

from compressm.lti import DiagonalSystem, ReductionWarning, balance, balanced_truncation
from compressm.lti.channels import ChannelBalancing, ChannelReduction
from compressm.lti.siso import balance_channels


def bank(
    channels: int, states: int, *, slowness: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    log_A = torch.complex(-slowness * rand(channels, states), 3 * rand(channels, states))
    B, C = (torch.view_as_complex(rand(channels, states, 2) - 0.5) for _ in range(2))
    return log_A, B, C


def one(log_A: Tensor, B: Tensor, C: Tensor, h: int) -> DiagonalSystem:
    return DiagonalSystem(None, B[h, :, None], C[h, None], log_A=log_A[h])


@pytest.mark.parametrize("realization", ["real", "complex"])
@pytest.mark.parametrize("slowness", [1.0, 1e-4])
def test_the_batch_is_the_general_algorithm(realization: str, slowness: float) -> None:
    log_A, B, C = bank(6, 7, slowness=slowness)
    log_A[0, 1], log_A[0, 2] = complex(-0.1, 0.0), complex(-0.3, math.pi)  # real, of either sign
    log_A[1, 0] = complex(-200.0, 1.0)  # zero in all but name
    log_A[2, 3] = log_A[2, 4]  # equal
    B[3, 2] = C[3, 2] = 0.0  # not there
    log_A[4, 5] = log_A[4, 6] + 1e-9  # nearly equal
    balancings = balance_channels(log_A, B, C, realization)  # type: ignore[arg-type]
    for h, balancing in enumerate(balancings):
        system = one(log_A, B, C, h)
        reference = balance(system, realization)  # type: ignore[arg-type]
        largest = reference.hankel_singular_values[0]
        assert balancing.rank == reference.rank
        assert torch.allclose(
            balancing.hankel_singular_values, reference.hankel_singular_values, atol=1e-13 * float(largest)
        )
        reduction, expected = balancing.truncate(3), reference.truncate(3)
        assert reduction.order == expected.order
        assert torch.allclose(
            reduction.system.impulse_response(40),
            expected.system.impulse_response(40),
            atol=1e-9 * float(largest),
        )


def test_small_values_keep_their_digits() -> None:
    """Rows of very different size: values far below eps sigma_1 of a Gramian's square root."""
    log_A, B, C = bank(1, 6)
    scale = 10.0 ** -torch.arange(0.0, 12.0, 2.0, dtype=torch.float64)
    values = balance_channels(log_A, B * scale, C / scale)[0].hankel_singular_values
    assert torch.allclose(values, balance_channels(log_A, B, C)[0].hankel_singular_values, rtol=1e-9)


def test_large_banks_are_done_in_parts() -> None:
    log_A, B, C = bank(40, 130)
    balancings = balance_channels(log_A, B, C)
    assert len(balancings) == 40
    last = balance(one(log_A, B, C, 39), "real").hankel_singular_values
    assert torch.allclose(balancings[39].hankel_singular_values, last, atol=1e-12 * float(last[0]))


def test_the_layers_values_are_those_of_one_large_system() -> None:
    log_A, B, C = bank(3, 4)
    together = ChannelBalancing(balance_channels(log_A, B, C))
    system = DiagonalSystem(
        None, torch.block_diag(*B[:, :, None]), torch.block_diag(*C[:, None, :]), log_A=log_A.flatten()
    )
    assert torch.allclose(together.hankel_singular_values, system.hankel_singular_values(), atol=1e-12)
    assert together.realization == "real"


def test_a_common_order() -> None:
    log_A, B, C = bank(5, 8)
    B[2, 1:] = 0.0  # a channel of one state
    reduction = ChannelBalancing(balance_channels(log_A, B, C)).truncate(3)
    assert [channel.order for channel in reduction.channels] == [3, 3, 1, 3, 3]
    assert reduction.order == 3
    assert "1 of 5 channels; the first is channel 2" in reduction.note
    singles = []
    for h in range(5):
        with pytest.warns(ReductionWarning) if h == 2 else contextlib.nullcontext():
            singles.append(balanced_truncation(one(log_A, B, C, h), 3))
    assert reduction.error == pytest.approx(max(single.error for single in singles), rel=1e-9)
    assert reduction.error_bound == pytest.approx(max(single.error_bound for single in singles), rel=1e-9)
    assert reduction.error <= reduction.error_bound
    assert reduction.kept == sum(single.kept for single in singles)


@pytest.mark.parametrize("keep", [6, 20, 40])
def test_keeping_values_together_keeps_their_share(keep: int) -> None:
    log_A, B, C = bank(6, 8)
    C *= torch.logspace(0, -2, 6, dtype=torch.float64)[:, None]
    balancings = balance_channels(log_A, B, C)
    values = torch.stack([b.hankel_singular_values for b in balancings])
    wanted = values.flatten().sort(descending=True).values[:keep].sum()
    common = next(m for m in range(1, 17) if float(values[:, :m].sum()) >= wanted * (1 - 1e-12))
    largest = max(balancing.truncate(keep=common).order for balancing in balancings)
    reduction = ChannelBalancing(balancings).truncate(keep=keep)
    assert [channel.order for channel in reduction.channels] == [largest] * 6
    assert all(channel.kept >= common for channel in reduction.channels)


def test_per_channel_shares_follow_the_values() -> None:
    log_A, B, C = bank(4, 8)
    C *= torch.tensor([1.0, 0.3, 0.1, 1e-6], dtype=torch.float64)[:, None]
    balancings = balance_channels(log_A, B, C)
    reduction = ChannelBalancing(balancings, per_channel=True).truncate(keep=12)
    values = torch.stack([b.hankel_singular_values for b in balancings])
    threshold = values.flatten().sort(descending=True).values[11]
    expected = [max(1, int((row >= threshold).sum())) for row in values]
    assert [channel.kept for channel in reduction.channels] == expected
    assert expected[0] > expected[1] > expected[3] == 1
    assert reduction.order == max(channel.order for channel in reduction.channels)


def test_no_bound_where_one_channel_has_none() -> None:
    log_A, B, C = bank(2, 4)
    plain = balance_channels(log_A, B, C)
    weighted = balance(one(log_A, B, C, 1), "real", controllability=torch.eye(8, dtype=torch.float64))
    assert ChannelBalancing((plain[0], weighted)).truncate(2).error_bound is None
    assert ChannelBalancing(plain).truncate(2).error_bound is not None


def test_the_worst_channel_is_found_among_many() -> None:
    log_A, B, C = bank(30, 5, slowness=0.05, seed=3)
    reduction = ChannelBalancing(balance_channels(log_A, B, C)).truncate(2)
    assert isinstance(reduction, ChannelReduction)
    assert reduction.error == pytest.approx(max(c.error for c in reduction.channels), rel=1e-6)


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_factors_from_elsewhere(realization: str) -> None:
    log_A, B, C = bank(3, 4)
    size, dtype = (8, torch.float64) if realization == "real" else (4, torch.complex128)
    generator = torch.Generator().manual_seed(1)
    narrow = torch.randn(3, size, 3, dtype=dtype, generator=generator)
    wide = torch.randn(3, size, 11, dtype=dtype, generator=generator)
    batch = balance_channels(log_A, B, C, realization, controllability=narrow, observability=wide)  # type: ignore[arg-type]
    for h, balancing in enumerate(batch):
        single = balance(
            one(log_A, B, C, h),
            realization,
            controllability=narrow[h],
            observability=wide[h],  # type: ignore[arg-type]
        )
        assert torch.allclose(balancing.hankel_singular_values, single.hankel_singular_values, atol=1e-12)
        assert balancing.rank == single.rank == 3
        assert not balancing.guaranteed


def test_bad_requests_are_refused() -> None:
    log_A, B, C = bank(3, 4)
    with pytest.raises(
        ValueError, match=r"controllability factors must have shape \(3, 8, m\), got \(3, 4, 4\)"
    ):
        balance_channels(log_A, B, C, controllability=torch.zeros(3, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"must all be \(H, N\), got \(3, 4\), \(3, 3\), \(3, 4\)"):
        balance_channels(log_A, B[:, :3], C)
    with pytest.raises(ValueError, match="'both'"):
        balance_channels(log_A, B, C, "both")  # type: ignore[arg-type]
    unstable = log_A.clone()
    unstable[1, 2] = complex(0.1, 1.0)
    with pytest.raises(ValueError, match="channel 1: DiagonalSystem: unstable"):
        balance_channels(unstable, B, C)
    balancing = ChannelBalancing(balance_channels(log_A, B, C))
    with pytest.raises(TypeError, match="exactly one"):
        balancing.truncate()
    with pytest.raises(ValueError, match=r"order must be in 1\.\.4"):
        balancing.truncate(5)
    with pytest.raises(ValueError, match=r"keep must be in 1\.\.24"):
        balancing.truncate(keep=25)
