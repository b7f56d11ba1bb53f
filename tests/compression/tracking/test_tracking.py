"""Tracking against dense Hankel matrices, by hand-made crossings, across cuts and restarts."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from compressm.compression.tracking import HSVTracker
from compressm.compression.tracking.change import change_bound, hankel_distance
from compressm.compression.tracking.likeness import mode_likeness, signal_likeness
from compressm.compression.tracking.record import TrackRecord
from compressm.compression.tracking.subspace import Reference
from compressm.lti import Balancing, DiagonalSystem, Realization, balance

FORMS: tuple[Realization, ...] = ("real", "complex")
LENGTH = 250


def random_system(seed: int, N: int = 5, H: int = 2, P: int = 3, radius: float = 0.9) -> DiagonalSystem:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.complex128)

    size = 0.2 + (radius - 0.2) * torch.rand(N, generator=g, dtype=torch.float64)
    A = torch.polar(size, 3.0 * torch.rand(N, generator=g, dtype=torch.float64))
    return DiagonalSystem(A, normal(N, H), normal(P, N))


def moved(system: DiagonalSystem, seed: int, by: float) -> DiagonalSystem:
    other = random_system(seed, system.state_dim, system.input_dim, system.output_dim)
    return DiagonalSystem(
        (1 - by) * system.A + by * other.A, system.B + by * other.B, system.C + by * other.C
    )


def dense(system: DiagonalSystem, form: Realization) -> tuple[Tensor, Tensor]:
    """Observability and controllability matrices over a long horizon; their product is Hankel's."""
    A, B, C = torch.diag(system.A), system.B, system.C
    if form == "real":
        A = torch.cat([torch.cat([A.real, -A.imag], 1), torch.cat([A.imag, A.real], 1)])
        B, C = torch.cat([B.real, B.imag]), torch.cat([C.real, -C.imag], 1)
    rows, columns = [C], [B]
    for _ in range(LENGTH):
        rows.append(rows[-1] @ A)
        columns.append(A @ columns[-1])
    return torch.cat(rows), torch.cat(columns, 1)


@pytest.mark.parametrize("form", FORMS)
def test_distances_are_those_of_the_hankel_matrices(form: Realization) -> None:
    old = random_system(0)
    new = moved(old, 1, 0.1)
    (O1, C1), (O2, C2) = dense(old, form), dense(new, form)
    difference = O2 @ C2 - O1 @ C1
    exact = float(torch.linalg.matrix_norm(difference, 2))
    assert hankel_distance(old, new, form) == pytest.approx(exact, rel=1e-9)
    assert change_bound(balance(old, form), balance(new, form)) == pytest.approx(
        float(difference.norm()), rel=1e-9
    )


def test_rescaled_modes_are_the_same_map() -> None:
    old = random_system(2)
    scale = torch.tensor([1.0, 3.0, 0.1, 2.0, 7.0], dtype=torch.complex128)
    new = DiagonalSystem(old.A, old.B * scale[:, None], old.C / scale)
    assert change_bound(balance(old), balance(new)) < 1e-5 * float(old.hankel_singular_values()[0])
    alike = signal_likeness(balance(old), balance(new), 99)
    assert torch.allclose(alike, torch.eye(len(alike), dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_signal_likeness_is_that_of_the_singular_vectors(form: Realization) -> None:
    old = random_system(3)
    new = moved(old, 4, 0.2)
    (O1, C1), (O2, C2) = dense(old, form), dense(new, form)
    U1, _, V1 = torch.linalg.svd(O1 @ C1)
    U2, _, V2 = torch.linalg.svd(O2 @ C2)
    expected = (U1[:, :4].mH @ U2[:, :4]).abs() * (V1[:4] @ V2[:4].mH).abs()
    assert torch.allclose(signal_likeness(balance(old, form), balance(new, form), 4), expected, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_mode_likeness_is_that_of_old_states_under_todays_dynamics(form: Realization) -> None:
    old = random_system(5)
    new = moved(old, 6, 0.2)
    then, today = balance(old, form), balance(new, form)
    (future, past), (right, left) = dense(new, form), then.bases(4)
    U, _, Vh = torch.linalg.svd(future @ past)
    outputs, inputs = future @ right, left @ past
    outputs, inputs = outputs / outputs.norm(dim=0), inputs / inputs.norm(dim=1, keepdim=True)
    expected = (outputs.mH @ U[:, :4]).abs() * (inputs @ Vh[:4].mH).abs()
    assert torch.allclose(mode_likeness(then, today, 4), expected, atol=1e-8)


def test_a_slow_mode_that_shifts_is_the_same_by_its_mode_and_another_by_its_signal() -> None:
    one = torch.ones(1, 1, dtype=torch.complex128)
    old, new = (
        balance(
            DiagonalSystem(torch.polar(torch.tensor([0.999]), torch.tensor([angle])), one, one), "complex"
        )
        for angle in (1.0, 1.02)
    )
    assert mode_likeness(old, new, 1).item() == pytest.approx(1.0)
    assert signal_likeness(old, new, 1).item() < 0.02


@pytest.mark.parametrize("form", FORMS)
def test_what_a_subspace_keeps_is_a_nuclear_norm_between_its_signals(form: Realization) -> None:
    old = random_system(7)
    new = moved(old, 8, 0.3)
    then, today = balance(old, form), balance(new, form)
    reference = Reference.of(0, then.hankel_singular_values, 3, then)
    (future, past), (right, left) = dense(new, form), then.bases(3)
    U, V = torch.linalg.qr(future @ right)[0], torch.linalg.qr((left @ past).mH)[0]
    held = torch.linalg.svdvals(U.mH @ (future @ past) @ V).sum()
    values = today.hankel_singular_values
    shares = reference.kept(today)
    assert shares is not None
    assert shares[0] == pytest.approx(float(held / values.sum()), rel=1e-5)
    assert shares[1] == pytest.approx(float(values[:3].sum() / values.sum()))
    assert shares[0] < shares[1]
    unmoved = reference.kept(then)
    assert unmoved is not None
    assert unmoved[0] == pytest.approx(unmoved[1], rel=1e-6)


def two_modes(first: float, second: float) -> DiagonalSystem:
    """Two modes on inputs and outputs of their own, so that balanced states are modes."""
    gains = torch.diag(torch.tensor([first, second], dtype=torch.complex128))
    return DiagonalSystem(torch.tensor([0.5, -0.5 + 0.1j]), gains, torch.eye(2, dtype=torch.complex128))


def test_states_keep_their_numbers_when_their_values_cross() -> None:
    tracker = HSVTracker(realization="complex")
    records = [
        tracker.observe(step, {"a": two_modes(*gains)})[0]
        for step, gains in enumerate([(3.0, 1.0), (2.0, 1.5), (1.5, 2.0), (1.0, 3.0)])
    ]
    assert [record.tracks for record in records] == [(0, 1), (0, 1), (1, 0), (1, 0)]
    assert [record.crossings for record in records] == [None, 0, 1, 0]
    assert [record.rank_correlation for record in records] == [None, 1.0, -1.0, 1.0]
    assert [record.likeness for record in records[1:]] == pytest.approx([1.0, 1.0, 1.0])
    assert all(list(r.hankel_singular_values) == sorted(r.hankel_singular_values)[::-1] for r in records)


def test_a_state_that_is_not_found_again_gets_a_new_number() -> None:
    tracker = HSVTracker(realization="complex")
    tracker.observe(0, {"a": two_modes(3.0, 1.0)})
    other = DiagonalSystem(torch.tensor([0.5, 0.4]), two_modes(3.0, 1.0).B, torch.eye(2)[:, [0, 0]])
    (record,) = tracker.observe(1, {"a": other})
    assert record.tracks[0] == 0
    assert set(record.tracks) <= {0, 1, 2}


@pytest.mark.parametrize("form", FORMS)
def test_no_value_moves_farther_than_the_map(form: Realization) -> None:
    near, exact = HSVTracker(realization=form), HSVTracker(realization=form, exact=True)
    system = random_system(9)
    for step in range(6):
        (bound,), (norm,) = (tracker.observe(step, {"a": system}) for tracker in (near, exact))
        if step:
            assert 0 < (bound.moved or 0) <= (norm.distance or 0) <= (bound.distance or 0)
        system = moved(system, 20 + step, 0.05)


def test_bare_values_are_followed_by_rank_and_never_cross() -> None:
    tracker = HSVTracker(tolerance=0.2, window=1)
    values = [torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([8.0, 2.5, 2.0, 0.0])]
    first, second = (tracker.observe(step, {"a": v})[0] for step, v in enumerate(values))
    assert (first.tracks, second.tracks) == ((0, 1, 2, 3), (0, 1, 2, 3))
    assert (first.boundary, first.bottom) == (3, pytest.approx(0.1))
    assert second.moved == 4.0
    assert second.distance is second.kept is second.crossings is None
    assert (second.since, second.drift) == (0, pytest.approx(0.5 * (0.24 + 0.1 + 0.04 + 0.1)))
    assert second.stability == pytest.approx(1 - 0.24)
    # A cut leaves the leading ones.
    assert tracker.observe(2, {"a": values[1][:2]})[0].tracks == (0, 1)


def test_the_boundary_can_be_a_number_of_states() -> None:
    system = random_system(10)
    for form, boundary in zip(FORMS, (4, 2), strict=True):
        (record,) = HSVTracker(states=2, realization=form).observe(1, {"a": system})
        assert record.boundary == boundary


def test_settled_takes_a_window_at_one_size_and_a_subspace_that_still_holds() -> None:
    tracker = HSVTracker(window=3, tolerance=0.2)
    assert not tracker.settled()
    still, other = random_system(11), random_system(12)
    found = []
    for step in range(5):
        tracker.observe(step, {"a": still, "b": other})
        found.append(tracker.settled(0.99))
    assert found == [False, False, False, True, True]
    smaller = balance(other).truncate(order=2).system
    found = []
    for step in range(5, 10):
        tracker.observe(step, {"a": still, "b": smaller})
        found.append(tracker.settled(0.99))
    assert found == [False, False, False, True, True]
    tracker.observe(10, {"a": random_system(13), "b": smaller})
    assert not tracker.settled(0.99)
    assert tracker.settled(0.0)


def test_states_are_recognised_across_a_cut() -> None:
    system = random_system(14, N=8, radius=0.7)
    tracker = HSVTracker()
    (before,) = tracker.observe(1, {"a": system})
    (after,) = tracker.observe(2, {"a": balance(system).truncate(order=5).system})
    assert after.state_dim == 5
    assert after.tracks[:6] == before.tracks[:6]
    assert after.since is None


def test_balancings_with_other_gramians_are_followed_by_their_modes_and_have_no_distance() -> None:
    def weighted(system: DiagonalSystem) -> Balancing:
        size = 2 * system.state_dim
        return balance(system, controllability=torch.eye(size, dtype=torch.float64))

    tracker, system = HSVTracker(window=1), random_system(18)
    tracker.observe(0, {"a": weighted(system)})
    (record,) = tracker.observe(1, {"a": weighted(system)})
    assert (record.distance, record.crossings) == (None, 0)
    assert record.likeness == pytest.approx(1.0)
    assert record.stability == pytest.approx(1.0, rel=1e-5)
    # Across a cut their signals are not known: followed by rank.
    (record,) = tracker.observe(2, {"a": weighted(balance(system).truncate(order=2).system)})
    assert record.likeness is record.crossings is None
    assert record.tracks == (0, 1, 2, 3)


def test_balancings_of_another_kind_are_followed_by_their_values() -> None:
    class Channels:
        hankel_singular_values = torch.tensor([2.0, 1.0])

    tracker = HSVTracker(window=1)
    tracker.observe(0, {"a": Channels()})
    (record,) = tracker.observe(1, {"a": Channels()})
    assert (record.state_dim, record.tracks, record.stability) == (None, (0, 1), 1.0)


def test_a_layer_that_passes_nothing_is_still() -> None:
    silent = DiagonalSystem(torch.tensor([0.5, 0.1]), torch.zeros(2, 1), torch.ones(1, 2))
    tracker = HSVTracker(window=1)
    tracker.observe(0, {"a": silent})
    (record,) = tracker.observe(1, {"a": silent})
    assert (record.bottom, record.moved, record.stability) == (0.0, 0.0, 1.0)
    assert tracker.settled(1.0)


def test_a_restart_goes_on_as_if_nothing_had_happened() -> None:
    def walk(tracker: HSVTracker, steps: range) -> list[dict[str, Any]]:
        found = []
        for step in steps:
            drifted = moved(random_system(15), 16, 0.02 * step)
            # From the logarithm, as layers give it: to and fro would cost a last digit.
            system = DiagonalSystem(None, drifted.B, drifted.C, log_A=drifted.log_A)
            values = system.hankel_singular_values()
            weighted = balance(system, controllability=torch.eye(10, dtype=torch.float64))
            observed = {"a": system, "b": balance(system, "complex"), "c": values, "d": weighted}
            found += tracker.observe(step, observed)
        return [record.to_dict() for record in found]

    through, first, second = (HSVTracker(window=2) for _ in range(3))
    whole = walk(through, range(8))
    assert walk(first, range(4)) == whole[:16]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert walk(second, range(4, 8)) == whole[16:]
    assert second.records == through.records
    assert [TrackRecord.from_dict(record) for record in whole] == through.records


def test_errors_name_the_layer_and_leave_nothing_behind() -> None:
    tracker = HSVTracker()
    good = random_system(17)
    tracker.observe(3, {"a": good})
    with pytest.raises(ValueError, match=r"layer 'b': .*must be finite, got nan"):
        tracker.observe(4, {"a": good, "b": torch.tensor([1.0, float("nan")])})
    with pytest.raises(ValueError, match=r"layer 'b': .*descending"):
        tracker.observe(4, {"b": torch.tensor([1.0, 2.0])})
    with pytest.raises(ValueError, match="step 3 does not follow the check at 3"):
        tracker.observe(3, {"a": good})
    with pytest.raises(ValueError, match="no layer"):
        tracker.observe(4, {})
    assert len(tracker.records) == 1
    (record,) = tracker.observe(4, {"a": good})
    assert record.tracks == tracker.records[0].tracks
    with pytest.raises(ValueError, match="lacks balancings, references, tracks"):
        tracker.load_state_dict({"records": []})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": 1.0}, "tolerance is 1.0"),
        ({"states": 0}, "states is 0"),
        ({"window": 0}, "window is 0"),
        ({"followed": 0}, "followed is 0"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HSVTracker(**arguments)
