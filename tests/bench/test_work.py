"""The least work of a step, against counts by hand."""

from dataclasses import replace

import pytest
import torch

from compressm.bench.cases import CASES, AttentionCase, Case, ChannelsCase, ClassifierCase, SelectiveCase
from compressm.bench.classifier import classifier
from compressm.bench.work import FLOAT, Product, Work, products_alone, work


def test_products_of_the_largest_classifier() -> None:
    # 6 blocks, 4096 rows: B and C are 512 x 768, the GLU is 512 x 1024; two operations, three products each.
    by_hand = 6 * 4096 * 2 * 3 * (2 * 512 * 768 + 512 * 1024)
    assert work(CASES["scifar"]).flop == by_hand
    assert by_hand / 1e9 == pytest.approx(193, rel=0.005)


def test_bytes_of_a_classifier_count_every_parameter() -> None:
    case = ClassifierCase(name="tiny", batch=2, L=5, layers=3, H=4, N=6, input_dim=2, classes=7)
    parameters = sum(parameter.numel() for parameter in classifier(case).parameters())
    assert work(case).bytes == FLOAT * (8 * parameters + 3 * 5 * 2 * 5 * 4)


@pytest.mark.parametrize(
    ("case", "floats"),
    [
        # Forward: operands and y. Backward: operands again, y's gradient, a gradient for each operand.
        (SelectiveCase(name="s", batch=2, L=3, d=5, N=7), 2 * 3 * (3 * (2 * 5 + 2 * 7) + 2 * 5)),
        (AttentionCase(name="a", batch=2, L=3, heads=4, K=5, V=6), 2 * 3 * 4 * (3 * (5 + 5 + 6 + 1) + 2 * 6)),
        (ChannelsCase(name="c", batch=2, L=3, channels=4, N=5), 2 * 3 * 4 * (3 + 2)),
    ],
)
def test_bytes_of_a_recurrence(case: Case, floats: int) -> None:
    assert work(case) == Work((), FLOAT * floats)


def test_every_case_has_work() -> None:
    for case in CASES.values():
        assert work(case).bytes > 0
        longer = replace(case, L=2 * case.L)
        assert work(case).bytes < work(longer).bytes <= 2 * work(case).bytes


def test_work_of_an_unknown_kind() -> None:
    with pytest.raises(TypeError, match="Case"):
        work(Case(name="none", batch=1, L=1))


def test_products_alone_makes_three_products_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int, int]] = []
    product = torch.mm

    def counted(x: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        made.append((x.shape[0], x.shape[1], y.shape[1]))
        return product(x, y, out=out)

    monkeypatch.setattr(torch, "mm", counted)
    needed = Work((Product(10, 3, 4, 2),), 0)
    products_alone(needed, "cpu")()
    assert sorted(made) == sorted(2 * [(10, 3, 4), (10, 4, 3), (4, 10, 3)])
    assert sum(2 * a * b * c for a, b, c in made) == needed.flop
