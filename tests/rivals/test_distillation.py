"""The distillation loss against its formula in NumPy, and the teacher's treatment."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor, nn

from compressm.models import SequenceClassifier
from compressm.rivals import DistillationLoss


def logits(seed: int, *shape: int) -> Tensor:
    return 3.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(student: Tensor, taught: Tensor, targets: Tensor, T: float, alpha: float) -> float:
    s, t = student.detach().numpy(), taught.numpy()
    hard = -np.mean([log_softmax(row)[k] for row, k in zip(s, targets.tolist(), strict=True)])
    log_p, log_q = log_softmax(t / T, axis=1), log_softmax(s / T, axis=1)
    soft = np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1))
    return float((1 - alpha) * hard + alpha * T**2 * soft)


@pytest.mark.parametrize(("T", "alpha"), [(2.0, 0.5), (1.0, 1.0), (4.0, 0.2), (2.0, 0.0)])
def test_the_formula(T: float, alpha: float) -> None:
    student, taught = logits(0, 6, 5), logits(1, 6, 5)
    targets = torch.tensor([0, 4, 2, 2, 1, 3])
    loss = DistillationLoss(lambda: taught, T, alpha)(student, targets)
    assert loss.item() == pytest.approx(by_hand(student, taught, targets, T, alpha), rel=1e-12)


def test_the_gradient_is_that_of_the_two_softmaxes() -> None:
    """``(1-a)(softmax(s) - onehot) + a T (softmax(s/T) - softmax(t/T))``, over the batch."""
    student, taught = logits(0, 3, 4).requires_grad_(), logits(1, 3, 4).requires_grad_()
    targets = torch.tensor([1, 0, 3])
    DistillationLoss(lambda: taught, 2.0, 0.5)(student, targets).backward()
    s, t = student.detach(), taught.detach()
    hard = s.softmax(1) - torch.eye(4, dtype=torch.float64)[targets]
    soft = 2.0 * ((s / 2).softmax(1) - (t / 2).softmax(1))
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (0.5 * hard + 0.5 * soft) / 3)
    assert taught.grad is None


def test_answers_that_are_certain_stay_finite() -> None:
    """Softmax and then a logarithm would give -inf here."""
    student = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss = DistillationLoss(lambda: torch.tensor([[0.0, 1e4, 0.0]]), 1.0, 1.0)(student, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())


def test_padding_in_the_targets_counts_in_neither_part() -> None:
    student, taught = logits(0, 2, 3, 5), logits(1, 2, 3, 5)
    targets = torch.tensor([[0, 4, -100], [2, -100, -100]])
    loss = DistillationLoss(lambda: SimpleNamespace(logits=taught))(student, targets)
    kept = [(0, 0), (0, 1), (1, 0)]
    rows = [torch.stack([source[at] for at in kept]) for source in (student, taught)]
    assert loss.item() == pytest.approx(by_hand(*rows, torch.tensor([0, 4, 2]), 2.0, 0.5), rel=1e-12)
    with pytest.raises(ValueError, match="all 6 targets are ignore_index=-100"):
        DistillationLoss(lambda: taught)(student, torch.full((2, 3), -100))


def test_the_teacher_is_evaluated_without_a_gradient_and_left_as_it_is() -> None:
    torch.manual_seed(0)
    teacher = SequenceClassifier(1, 3, num_layers=1, model_dim=4, state_dim=6, dropout=0.5)
    student = SequenceClassifier(1, 3, num_layers=1, model_dim=4, state_dim=2)
    loss = DistillationLoss(teacher)
    teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    x, targets, lengths = torch.randn(5, 9, 1), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([9, 4, 7, 9, 2])
    loss(student(x, lengths), targets, x, lengths=lengths).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    # Lengths reached it: what is written into the padding changes nothing, and neither does dropout.
    padded = x.clone()
    padded[1, 4:] = 100.0
    torch.testing.assert_close(loss.teacher_logits(x, lengths), loss.teacher_logits(padded, lengths))
    assert not torch.allclose(loss.teacher_logits(x), loss.teacher_logits(padded))


def test_the_teachers_time_is_counted_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 12.5, 100.0, 101.0])
    monkeypatch.setattr("compressm.rivals.distillation.time", SimpleNamespace(perf_counter=lambda: next(now)))
    loss = DistillationLoss(nn.Linear(2, 3))
    for expected in (2.5, 3.5):
        loss(torch.zeros(1, 3), torch.tensor([0]), torch.zeros(1, 2))
        assert loss.teacher_seconds == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"temperature": 0.0}, "temperature is 0.0"), ({"alpha": 1.5}, "alpha is 1.5")],
)
def test_bad_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationLoss(nn.Identity(), **arguments)


def test_shapes_that_do_not_fit_are_refused() -> None:
    loss = DistillationLoss(lambda: torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"teacher's logits are \(2, 4\), the student's \(2, 3\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"need targets \(2,\), got \(3,\)"):
        loss(torch.zeros(2, 4), torch.zeros(3, dtype=torch.long))
    with pytest.raises(TypeError, match="the teacher gave tuple"):
        DistillationLoss(lambda: (torch.zeros(2, 4),))(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
