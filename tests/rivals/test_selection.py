"""What rivals keep, against their definitions."""

import pytest
import torch

import compressm
from compressm.adapters import Weighting, find_layers
from compressm.layers import LRU, S4D
from compressm.lti import balance, modal_scores
from compressm.rivals import ModalStates, RandomStates, SmallestStates


def layer() -> LRU:
    torch.manual_seed(0)
    return LRU(3, 12)


@pytest.mark.parametrize("score", ["h2", "hinf", "magnitude"])
def test_modal_states_keep_the_highest_scores_as_they_are(score: str) -> None:
    (found,) = find_layers(layer())
    system = found.system()
    reduced = ModalStates(score).balance(found, Weighting()).truncate(4).system  # type: ignore[arg-type]
    best = torch.topk(modal_scores(system, score), 4).indices  # type: ignore[arg-type]
    assert set(reduced.A.tolist()) == set(system.A[best].tolist())


def test_random_states_are_a_choice_of_the_seed_alone() -> None:
    (found,) = find_layers(layer())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = RandomStates(3).balance(found, Weighting()).truncate(5).system.A
    torch.manual_seed(2)
    two = RandomStates(3).balance(found, Weighting()).truncate(5).system.A
    other = RandomStates(4).balance(found, Weighting()).truncate(5).system.A
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert len(set(one.tolist())) == 5
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_the_smallest_values_are_kept(realization: str) -> None:
    (found,) = find_layers(layer())
    values = balance(found.system(), realization).hankel_singular_values  # type: ignore[arg-type]
    ranked = SmallestStates(realization).balance(found, Weighting())  # type: ignore[arg-type]
    keep = 4
    reduction = ranked.truncate(keep=keep)
    assert reduction.error_bound is None
    kept = reduction.system.hankel_singular_values(realization)[:keep]  # type: ignore[arg-type]
    alive = values[values > 1e-9 * values[0]]
    # What is left of a balanced system is balanced, with the values that were kept.
    assert float(kept[0]) < 2 * float(alive[-keep])
    assert reduction.error > 0.5 * float(values[0])


@pytest.mark.parametrize("rival", [ModalStates(), RandomStates(), SmallestStates()])
def test_they_go_where_ours_go(rival: ModalStates | RandomStates | SmallestStates) -> None:
    model = layer()
    compressm.compress(model, rank=compressm.FixedRank(3), reduction=rival)
    assert model.state_dim <= 3
    y, _ = model(torch.randn(2, 9, 3))
    assert torch.isfinite(y).all()


def test_a_layer_of_many_systems_refuses_them() -> None:
    with pytest.raises(TypeError, match="S4D"):
        compressm.compress(S4D(2, 4), rank=compressm.FixedRank(2), reduction=ModalStates())
