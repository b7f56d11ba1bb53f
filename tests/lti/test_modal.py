from __future__ import annotations

import pytest
import torch

from compressm.lti import DiagonalSystem, modal_scores, modal_truncation

KINDS = ("h2", "hinf", "magnitude")


def test_scores_are_norms_of_the_single_modes(random_system) -> None:
    system = random_system(5, 3, 2)
    omega = torch.linspace(-torch.pi, torch.pi, 20001, dtype=torch.float64)
    for i in range(5):
        b, c, pole = system.B[i].norm(), system.C[:, i].norm(), complex(system.A[i])
        energy = float(((c * b * (abs(pole) ** torch.arange(2000))) ** 2).sum())
        assert float(modal_scores(system)[i]) == pytest.approx(energy)
        gain = float((c * b / (1 - pole * torch.exp(-1j * omega)).abs()).max())
        assert float(modal_scores(system, "hinf")[i]) == pytest.approx(gain**2, rel=1e-5)
        assert float(modal_scores(system, "magnitude")[i]) == pytest.approx(abs(pole))


def test_scores_near_the_circle_keep_their_digits() -> None:
    log_A = torch.tensor([-1e-18 + 1j], dtype=torch.complex128)
    system = DiagonalSystem(None, torch.ones(1, 1), torch.ones(1, 1), log_A=log_A)
    assert float(modal_scores(system, "h2")[0]) == pytest.approx(0.5e18)
    assert float(modal_scores(system, "hinf")[0]) == pytest.approx(1e36)


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_selects_the_best(random_system, kind: str) -> None:
    system = random_system(7, 2, 2)
    scores = modal_scores(system, kind)
    reduction = modal_truncation(system, 3, kind)
    indices = sorted(torch.argsort(scores, descending=True)[:3].tolist())
    for name, old, new in (
        ("A", system.A[indices], reduction.system.A),
        ("B", system.B[indices], reduction.system.B),
        ("C", system.C[:, indices], reduction.system.C),
    ):
        assert torch.equal(old, new), name
    assert (reduction.error_bound, reduction.kept, reduction.order) == (None, 3, 3)
    assert torch.equal(reduction.left @ system.B, reduction.system.B)
    assert torch.equal(system.C @ reduction.right, reduction.system.C)
    assert torch.equal(reduction.left @ reduction.right, torch.eye(3, dtype=torch.complex128))
    rest = [i for i in range(7) if i not in indices]
    dropped = DiagonalSystem(system.A[rest], system.B[rest], system.C[:, rest])
    assert reduction.error == pytest.approx(dropped.hinf_norm(), rel=1e-9)


def test_equal_scores_keep_the_earlier_states() -> None:
    system = DiagonalSystem(torch.full((4,), 0.5), torch.ones(4, 1), torch.ones(1, 4) * torch.arange(1, 5))
    assert modal_truncation(system, 2, "magnitude").system.C.real.tolist() == [[1.0, 2.0]]


def test_errors(random_system) -> None:
    with pytest.raises(ValueError, match="kind must be 'h2', 'hinf' or 'magnitude', got 'size'"):
        modal_scores(random_system(2, 1, 1), "size")
    with pytest.raises(ValueError, match=r"order must be in 1..2"):
        modal_truncation(random_system(2, 1, 1), 3)
