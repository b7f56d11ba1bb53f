"""When to cut and how much to keep."""

import pytest
import torch

from compressm.compression import EnergyRank, FixedRank, FractionRank, Schedule, Spectrum, Target


def spectrum(values: list[float], states: int, initial: int | None = None) -> Spectrum:
    return Spectrum("layer", torch.tensor(values, dtype=torch.float64), states, initial or states)


def test_schedule_is_the_papers_by_default() -> None:
    assert Schedule(total_steps=4000).steps == (100, 200, 300, 400)
    assert Schedule(total_steps=200_000).steps == (5000, 10_000, 15_000, 20_000)


def test_schedule_window() -> None:
    assert Schedule(total_steps=50_000, start=0.02, stop=0.08, cuts=3).steps == (2000, 3000, 4000)
    assert Schedule(total_steps=7, stop=1.0, cuts=7).steps == (1, 2, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 10}, r"4 attempts in 10 steps would fall on steps \(0, 0, 1, 1\)"),
        ({"total_steps": 100, "start": 0.2, "stop": 0.1}, r"start=0.2, stop=0.1"),
        ({"total_steps": 100, "stop": 1.5}, r"stop=1.5"),
        ({"total_steps": 100, "cuts": 0}, r"cuts is 0"),
        ({"total_steps": 0}, r"0 steps"),
    ],
)
def test_impossible_schedules_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)  # type: ignore[arg-type]


def test_energy_keeps_the_fewest_values_with_enough_energy() -> None:
    layers = [spectrum([5, 3, 1, 1], 4), spectrum([1, 1, 1, 1], 4), spectrum([0, 0], 2)]
    assert [t.keep for t in EnergyRank(tolerance=0.2).targets(layers, 1, 4)] == [2, 4, 1]
    assert [t.keep for t in EnergyRank(tolerance=0.0).targets(layers[:2], 1, 4)] == [4, 4]
    assert [t.keep for t in EnergyRank(tolerance=0.999).targets(layers, 4, 4)] == [1, 1, 1]


def test_energy_cuts_only_below_the_threshold() -> None:
    rule = EnergyRank(tolerance=0.1)
    assert not rule.accepts(100, 95)
    assert rule.accepts(100, 94)


def test_fixed_rank_follows_the_geometric_path() -> None:
    rule, layer = FixedRank(8), spectrum([1.0] * 512, 256)
    assert [rule.targets([layer], j, 4)[0].order for j in (1, 2, 3, 4)] == [108, 45, 19, 8]
    # A layer that is already smaller than the path stays.
    assert rule.targets([spectrum([1.0] * 10, 10, initial=256)], 1, 4)[0].order == 10


def test_fraction_ends_at_its_share_of_the_initial_size() -> None:
    rule = FractionRank(0.25)
    assert [rule.targets([spectrum([1.0], 64)], j, 2)[0].order for j in (1, 2)] == [32, 16]
    assert FractionRank(0.001).targets([spectrum([1.0], 64)], 1, 1)[0].order == 1


@pytest.mark.parametrize("rank", [0, -3])
def test_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank is {rank}"):
        FixedRank(rank)


def test_rank_above_the_size_is_refused_by_layer() -> None:
    with pytest.raises(ValueError, match=r"rank is 20, but layer 'b' has only 10 states"):
        FixedRank(20).check({"a": 30, "b": 10})


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, 2.0, float("nan")])
def test_tolerance_outside_its_range_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        EnergyRank(tolerance=tolerance)


@pytest.mark.parametrize("fraction", [0.0, 1.1, float("nan")])
def test_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        FractionRank(fraction)


def test_a_target_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="either order or keep"):
        Target(order=1, keep=1)
    with pytest.raises(ValueError, match="either order or keep"):
        Target()
