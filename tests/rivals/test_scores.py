"""LAST and AIRE-Prune, against their definitions written out with loops."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import compressm
from compressm.adapters import Weighting, find_layers
from compressm.layers import LRU, S4D, S5
from compressm.rivals import AireStates, LastStates, Recipe, aire_pruning, last_pruning


def model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(LRU(3, 10), S5(3, 8), LRU(3, 6))
    with torch.no_grad():
        layers[2].C *= 100.0  # a loud layer must not take the others' states
    return layers


def energies(layer: nn.Module, *, worst_case: bool) -> list[float]:
    """Squared norms of the modes, one by one."""
    (found,) = find_layers(layer)
    system = found.system()
    result = []
    for i in range(system.state_dim):
        b = sum(abs(complex(x)) ** 2 for x in system.B[i])
        c = sum(abs(complex(x)) ** 2 for x in system.C[:, i])
        modulus = math.exp(float(system.log_A[i].real))
        result.append(b * c / (((1 - modulus) ** 2 + 1e-8) if worst_case else (1 - modulus**2)))
    return result


def normalised(scores: list[float]) -> list[float]:
    return [score / sum(other for other in scores if other >= score) for score in scores]


@pytest.mark.parametrize(("make", "worst_case"), [(last_pruning, True), (aire_pruning, False)])
@pytest.mark.parametrize("total", [3, 7, 13, 23])
def test_the_best_scores_of_all_layers_are_kept(
    make: Callable[[int], Recipe], worst_case: bool, total: int
) -> None:
    network = model()
    scores = [
        (score, layer, index)
        for layer, module in enumerate(network)
        for index, score in enumerate(normalised(energies(module, worst_case=worst_case)))
    ]
    best = sorted(scores, reverse=True)[:total]
    eigenvalues = [found.system().A for found in find_layers(network)]
    expected = [
        sorted(complex(eigenvalues[layer][index]).real for _, at, index in best if at == layer)
        for layer in range(3)
    ]
    compressm.compress(network, **make(total)._asdict())
    kept = [sorted(found.system().A.real.tolist()) for found in find_layers(network)]
    assert [len(values) for values in kept] == [len(values) for values in expected]
    for one, other in zip(kept, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("recipe", [last_pruning(12), aire_pruning(12)])
def test_they_cut_in_training_along_the_usual_path(recipe: Recipe) -> None:
    network = model()
    optimizer = torch.optim.Adam(network.parameters())
    schedule = compressm.Schedule(total_steps=4, stop=1.0, cuts=2)
    compressor = compressm.Compressor(network, optimizer, schedule=schedule, **recipe._asdict())
    cuts = [cut for cut in (compressor.step() for _ in range(4)) if cut is not None]
    totals = [sum(layer.new for layer in cut.layers) for cut in cuts]
    assert totals == [17, 12]  # round(24 (12/24)^(1/2)), then 12


def test_both_directions_count() -> None:
    torch.manual_seed(0)
    layer = LRU(3, 5, bidirectional=True)
    (found,) = find_layers(layer)
    system = found.system()
    ahead, back = system.C[:3].norm(dim=0), system.C[3:].norm(dim=0)
    b, modulus = system.B.norm(dim=1), system.A.abs()
    last = (0.5 * (ahead + back) * b) ** 2 / ((1 - modulus) ** 2 + 1e-8)
    aire = (ahead**2 + back**2) * b**2 / (1 - modulus**2)
    for reducer, expected in ((LastStates(), last), (AireStates(), aire)):
        ranking = reducer.balance(found, Weighting())
        torch.testing.assert_close(
            ranking.hankel_singular_values.square(), expected.sort(descending=True).values
        )
        assert ranking.indices.tolist() == expected.argsort(descending=True).tolist()


def test_impossible_totals_and_layers_of_many_systems_are_refused() -> None:
    with pytest.raises(ValueError, match="total is 0"):
        last_pruning(0)
    with pytest.raises(ValueError, match=r"total is 2.*3 layers.*3\.\.24"):
        compressm.compress(model(), **aire_pruning(2)._asdict())
    with pytest.raises(TypeError, match="S4D"):
        compressm.compress(S4D(2, 4), **last_pruning(2)._asdict())
