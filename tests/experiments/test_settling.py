"""Measures of how early an order settles, against systems whose answer is known by hand."""

import math

import pytest
import torch

from compressm.compression.tracking import HSVTracker
from compressm.experiments.settling import Settling, mode_participation
from compressm.lti import Balancing, DiagonalSystem, Realization, balance

MODES = [0.9, 0.8, 0.7, 0.6]


def decoupled(gains: list[float]) -> DiagonalSystem:
    """Real modes with an input and an output each: every Hankel singular value belongs to one mode."""
    return DiagonalSystem(
        torch.tensor(MODES, dtype=torch.complex128),
        torch.eye(4, dtype=torch.complex128),
        torch.diag(torch.tensor(gains, dtype=torch.complex128)),
    )


def values(gains: list[float]) -> list[float]:
    """|c| / (1 - lambda^2), the Hankel singular value of one mode alone with b = 1."""
    return [gain / (1 - mode * mode) for gain, mode in zip(gains, MODES, strict=True)]


def judged(*runs: list[float], sizes: tuple[int, ...], states: int = 2) -> list[dict[str, object]]:
    """Checks of decoupled systems with these gains, one after another, in complex form."""
    tracker, settling = HSVTracker(realization="complex", states=states), Settling(sizes)
    for step, gains in enumerate(runs):
        balancing = balance(decoupled(gains), "complex")
        (record,) = tracker.observe(step, {"layer": balancing})
        settling.observe(record, balancing)
    return settling.against_end()


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_participation_of_decoupled_modes_is_their_own_value(realization: Realization) -> None:
    gains = [0.3, 2.0, 0.1, 1.0]
    found = mode_participation(balance(decoupled(gains), realization))
    assert found.tolist() == pytest.approx(values(gains), rel=1e-9)


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_participations_add_up_to_the_sum_of_values(realization: Realization) -> None:
    generator = torch.Generator().manual_seed(3)
    angles = torch.linspace(0.1, 3.0, 6, dtype=torch.float64)
    system = DiagonalSystem(
        torch.polar(torch.linspace(0.5, 0.95, 6, dtype=torch.float64), angles),
        torch.randn(6, 2, dtype=torch.complex128, generator=generator),
        torch.randn(2, 6, dtype=torch.complex128, generator=generator),
    )
    balancing = balance(system, realization)
    found = mode_participation(balancing)
    assert found.shape == (6,)
    assert bool((found > 0).all())
    assert float(found.sum()) == pytest.approx(float(balancing.hankel_singular_values.sum()), rel=1e-9)


def test_a_mode_that_overtakes_shows_in_all_measures() -> None:
    before, after = [4.0, 3.0, 0.5, 0.2], [0.4, 3.0, 0.5, 9.0]
    (entry,) = judged(before, after, sizes=(2,))
    final = values(after)
    # Order before: modes 0, 1, 2, 3. Order after: 3, 1, 0, 2 (14.1, 8.3, 2.1, 1.0).
    assert sorted(range(4), key=lambda mode: -final[mode]) == [3, 1, 0, 2]
    places = [2, 1, 3, 0]
    spearman = 1 - 6 * sum((new - old) ** 2 for old, new in enumerate(places)) / (4 * 15)
    assert entry["modes"] == pytest.approx(spearman)
    assert entry["tracks"] == pytest.approx(spearman)
    assert entry["shared"] == 4
    cut = entry["sizes"]["2"]  # type: ignore[index]
    held = (final[0] + final[1]) / sum(final)
    assert cut["kept"] == pytest.approx(held, rel=1e-6)
    assert cut["best"] == pytest.approx((final[3] + final[1]) / sum(final), rel=1e-9)
    assert cut["bottom_tracks"] == pytest.approx(1 - held, rel=1e-6)
    assert cut["bottom_modes"] == pytest.approx(1 - held, rel=1e-9)


def test_nothing_moved_is_settled_at_every_check() -> None:
    gains = [4.0, 3.0, 0.5, 0.2]
    entries = judged(gains, gains, gains, sizes=(1, 3))
    assert [entry["step"] for entry in entries] == [0, 1]
    for entry in entries:
        assert entry["tracks"] == entry["modes"] == 1.0
        for cut in entry["sizes"].values():  # type: ignore[attr-defined]
            assert cut["kept"] == pytest.approx(cut["best"], rel=1e-6)
            assert math.isclose(cut["bottom_modes"], 1 - cut["best"], abs_tol=1e-9)


def test_real_form_counts_a_pair_as_one_state() -> None:
    system = DiagonalSystem(
        torch.polar(torch.tensor([0.9, 0.5], dtype=torch.float64), torch.tensor([1.0, 2.0]).double()),
        torch.eye(2, dtype=torch.complex128),
        torch.diag(torch.tensor([3.0, 1.0], dtype=torch.complex128)),
    )
    tracker, settling = HSVTracker(states=1), Settling([1])
    balancing: Balancing = balance(system, "real")
    for step in (0, 1):
        settling.observe(tracker.observe(step, {"layer": balancing})[0], balancing)
    (entry,) = settling.against_end()
    sigma = balancing.hankel_singular_values
    assert entry["sizes"]["1"]["best"] == pytest.approx(float(sigma[:2].sum() / sigma.sum()), rel=1e-9)
    assert entry["sizes"]["1"]["kept"] == pytest.approx(entry["sizes"]["1"]["best"], rel=1e-6)


def test_what_cannot_be_judged_is_named() -> None:
    with pytest.raises(ValueError, match=r"sizes are \[0\]"):
        Settling([0])
    with pytest.raises(ValueError, match="two checks"):
        Settling([1]).against_end()
    settling, tracker = Settling([1]), HSVTracker()
    balancing = balance(decoupled([1.0, 1.0, 1.0, 1.0]), "real")
    settling.observe(tracker.observe(0, {"layer": balancing})[0], balancing)
    smaller = balancing.truncate(2)
    other = balance(smaller.system, "real")
    with pytest.raises(ValueError, match="'layer': 4 values at step 1, 8 before"):
        settling.observe(tracker.observe(1, {"layer": other})[0], other)
