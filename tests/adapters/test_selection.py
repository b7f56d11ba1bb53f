"""States in an order of preference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressm.adapters.selection import Selection


@given(st.data(), st.integers(1, 3), st.integers(1, 7))
def test_what_stays_scores_at_least_what_goes(data: st.DataObject, groups: int, states: int) -> None:
    scores = torch.tensor(
        data.draw(st.lists(st.lists(st.floats(0, 9), min_size=states, max_size=states), min_size=groups,
                           max_size=groups))
    )  # fmt: skip
    order = data.draw(st.integers(1, states))
    reduction = Selection.by_scores(scores).truncate(order)
    assert (reduction.order, reduction.kept, reduction.states) == (order, order, states)
    for row, kept in zip(scores, reduction.indices.tolist(), strict=True):
        assert kept == sorted(set(kept))
        gone = [value for index, value in enumerate(row.tolist()) if index not in kept]
        assert min(row[kept].tolist()) >= max(gone, default=0.0)


def test_values_add_up_over_groups_and_descend() -> None:
    selection = Selection.by_scores(torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]]))
    assert selection.hankel_singular_values.tolist() == [8.0, 6.0, 1.0]
    assert selection.truncate(keep=2).indices.tolist() == [[1, 2], [0, 2]]
    assert Selection.by_scores(torch.tensor([1.0, 2.0])).truncate(1).indices.tolist() == [[1]]


def test_chance_is_the_generators_alone() -> None:
    def draw(seed: int) -> list[list[int]]:
        return Selection.random(2, 9, torch.Generator().manual_seed(seed)).indices.tolist()

    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert draw(1) == draw(1) != draw(2)
    assert draw(1)[0] != draw(1)[1]
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_no_ranking_is_refused() -> None:
    ones = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="each of its 2 states once"):
        Selection(torch.tensor([[0, 0]]), ones)
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        Selection(torch.tensor([[0, 1, 2]]), ones)
    with pytest.raises(ValueError, match="finite"):
        Selection.by_scores(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="descending"):
        Selection(torch.tensor([[0, 1]]), torch.tensor([[1.0, 2.0]]))
    selection = Selection.by_scores(torch.tensor([1.0, 2.0]))
    with pytest.raises(TypeError, match="exactly one"):
        selection.truncate()
    with pytest.raises(ValueError, match=r"1\.\.2"):
        selection.truncate(3)
