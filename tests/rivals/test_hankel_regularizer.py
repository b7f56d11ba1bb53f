"""The loss term: every layer's parameters, its options, and the cut that follows it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import compressm
from compressm.adapters import S4DAdapter, find_layers
from compressm.layers import LRU, S4D, S5, RotationSSM
from compressm.layers.modal import ModalLayer
from compressm.lti import DiagonalSystem
from compressm.models import SequenceClassifier
from compressm.rivals import HankelRegularizer, hankel_truncation, layer_systems, once_at_the_end
from compressm.rivals.hankel_bound import HankelBound

LAYERS = {
    "lru": lambda: LRU(2, 3),
    "lru both ways": lambda: LRU(2, 3, bidirectional=True),
    "s5": lambda: S5(2, 3, dt_min=0.1, dt_max=0.5),
    "s5 both ways": lambda: S5(2, 3, dt_min=0.1, dt_max=0.5, bidirectional=True),
    "rotation": lambda: RotationSSM(2, 3),
    "s4d": lambda: S4D(2, 3, dt_min=0.1, dt_max=0.5),
}


def make(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[kind]().double()


def adapters_sum(layer: nn.Module, form: Any) -> float:
    """The nuclear norm of what the layer's adapter shows, by the systems theory."""
    (found,) = find_layers(layer)
    if isinstance(layer, S4D):
        systems = S4DAdapter().channel_systems(layer)
        return float(sum(system.hankel_singular_values(form).sum() for system in systems))
    return float(found.system().hankel_singular_values(form).sum())


@pytest.mark.parametrize("form", ["real", "complex"])
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_reach_the_layers_own_parameters(kind: str, form: Any) -> None:
    layer = make(kind)
    term = HankelRegularizer(1.0, realization=form)(layer)
    assert term.item() == pytest.approx(adapters_sum(layer, form), rel=1e-12)
    term.backward()
    h, checked = 1e-4, 0
    for name, parameter in layer.named_parameters():
        if parameter.grad is None:
            assert name == "D"
            continue
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double()

        def moved(steps: int, parameter: nn.Parameter = parameter, direction: Tensor = direction) -> float:
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter += steps * h * direction
            value = adapters_sum(layer, form)
            with torch.no_grad():
                parameter.copy_(kept)
            return value

        slope = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)
        assert float((parameter.grad * direction).sum()) == pytest.approx(
            slope, rel=1e-7, abs=1e-8 * term.item()
        )
        checked += 1
    assert checked == len(list(layer.parameters())) - 1


def test_the_terms_of_a_model_add_up_and_keep_its_type() -> None:
    torch.manual_seed(0)
    model = SequenceClassifier(1, 4, num_layers=2, model_dim=3, state_dim=[6, 4], mixer="s5")
    term = HankelRegularizer(0.5)(model)
    term.backward()
    assert term.dtype == torch.float32
    assert model.blocks[0].mixer.B.grad.dtype == torch.float32
    assert term.item() == pytest.approx(
        0.5 * sum(adapters_sum(block.mixer, "real") for block in model.blocks), rel=1e-6
    )


def test_a_layer_of_the_users_own() -> None:
    class Mine(ModalLayer):
        """Eigenvalues as they are; nothing about it is known but what every modal layer has."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lam = nn.Parameter(torch.tensor([[0.9, 0.5, -0.3], [0.1, 0.6, 0.0]]).double())
            self.B = nn.Parameter(torch.randn(2, 3, 2).double())
            self.D = nn.Parameter(torch.randn(2).double())

        @property
        def state_dim(self) -> int:
            return 3

        def eigenvalues(self) -> Tensor:
            return self.lam

        def input_matrix(self) -> Tensor:
            return self.B

        def output_matrix(self) -> Tensor:
            return self.B.mT

    layer = Mine()
    (system,) = layer_systems(layer)
    touched = HankelBound(system, "real")(system)
    term = touched.reached + touched.seen
    A, B = (torch.complex(*parameter.detach()) for parameter in (layer.lam, layer.B))
    expected = DiagonalSystem(A, B, B.mT).hankel_singular_values("real").sum()
    assert term.item() == pytest.approx(expected.item(), rel=1e-12)
    term.backward()
    assert layer.lam.grad is not None
    assert bool(layer.lam.grad.any(dim=1).all())
    with pytest.raises(TypeError, match=r"Linear has no differentiable systems.*layer_systems\.register"):
        layer_systems(nn.Linear(2, 2))


def test_normalizations() -> None:
    layer = make("lru")
    total = HankelRegularizer(1.0)(layer).item()
    assert HankelRegularizer(1.0, normalization="mean")(layer).item() == pytest.approx(total / 6)
    relative = HankelRegularizer(1.0, normalization="relative")
    before = relative(layer).item()
    assert 1.0 < before < 6**0.5
    with torch.no_grad():
        layer.C *= 7.0
    assert relative(layer).item() == pytest.approx(before, rel=1e-12)
    with torch.no_grad():
        layer.C *= 0.0
    assert relative(layer).item() == 0.0


def test_it_ends_where_the_cuts_begin_and_survives_a_restart() -> None:
    layer = make("lru")
    regularizer = HankelRegularizer(1.0, until=3)
    terms = [regularizer(layer).item() for _ in range(2)]
    restarted = HankelRegularizer(1.0, until=3)
    restarted.load_state_dict(regularizer.state_dict())
    terms += [restarted(layer).item() for _ in range(3)]
    assert [term > 0 for term in terms] == [True, True, True, False, False]
    assert not restarted.active


def one_step(layer: nn.Module, regularizer: HankelRegularizer, lr: float) -> float:
    """Move the parameters down the term's gradient, by as much in each; the term before."""
    term = regularizer(layer)
    moved = [parameter for name, parameter in layer.named_parameters() if name != "D"]
    for parameter, gradient in zip(moved, torch.autograd.grad(term, moved), strict=True):
        with torch.no_grad():
            parameter -= lr * gradient / gradient.norm()
    return term.item()


@pytest.mark.parametrize("form", ["real", "complex"])
@pytest.mark.parametrize("kind", LAYERS)
def test_between_two_refreshes_the_term_is_an_upper_bound_that_stays_close(kind: str, form: Any) -> None:
    layer = make(kind)
    regularizer = HankelRegularizer(1.0, realization=form, refresh=4)
    gaps, norms = [], []
    for _ in range(8):
        norms.append(adapters_sum(layer, form))
        gaps.append(one_step(layer, regularizer, lr=0.01) / norms[-1] - 1.0)
    assert gaps[0] == pytest.approx(0.0, abs=1e-9)
    assert gaps[4] == pytest.approx(0.0, abs=1e-9)
    assert all(-1e-9 < gap < 0.05 for gap in gaps)
    assert min(max(gaps[1:4]), max(gaps[5:])) > 1e-7
    assert norms == sorted(norms, reverse=True)


@pytest.mark.parametrize("change", ["rolled back", "cut", "grown"])
def test_a_layer_that_has_become_another_gets_its_own_norm_at_once(change: str) -> None:
    layer = make("lru")
    regularizer = HankelRegularizer(1.0)
    regularizer(layer)
    with torch.no_grad():
        if change == "cut":
            compressm.compress(layer, rank=compressm.FixedRank(2))
        else:
            layer.C *= 0.5 if change == "rolled back" else 2.0
    assert regularizer(layer).item() == pytest.approx(adapters_sum(layer, "real"), rel=1e-9)


@pytest.mark.parametrize("normalization", ["sum", "mean", "relative"])
def test_a_restart_between_refreshes_changes_nothing(normalization: Any) -> None:
    layer = make("s4d")
    regularizer = HankelRegularizer(0.5, normalization=normalization)
    for _ in range(3):
        one_step(layer, regularizer, lr=0.02)
    restarted = HankelRegularizer(0.5, normalization=normalization)
    restarted.load_state_dict(regularizer.state_dict())
    assert restarted(layer).item() == regularizer(layer).item() != HankelRegularizer(0.5)(layer).item()


def test_training_with_it_makes_room_for_a_single_cut_at_the_end() -> None:
    errors = {}
    for weight in (0.0, 0.05):
        torch.manual_seed(0)
        model = nn.Sequential(LRU(2, 12), LRU(2, 12))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        regularizer = HankelRegularizer(weight)
        compressor = compressm.Compressor(
            model, optimizer, schedule=once_at_the_end(80), **hankel_truncation(8)._asdict()
        )
        u = torch.randn(4, 30, 2, generator=torch.Generator().manual_seed(1))
        for _ in range(80):
            hidden, _ = model[0](u)
            y, _ = model[1](hidden)
            loss = (y - u.cumsum(1) / 5).square().mean() + regularizer(model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cut = compressor.step()
        assert cut is not None
        assert sum(layer.new for layer in cut.layers) <= 8
        errors[weight] = sum(layer.error / layer.hankel_singular_values[0] for layer in cut.layers)
    assert errors[0.05] < 0.5 * errors[0.0]


def test_a_naive_regularizer_has_the_same_term() -> None:
    layer = make("lru")
    closed, naive = HankelRegularizer(1.0)(layer), HankelRegularizer(1.0, naive=True)(layer)
    assert naive.item() == pytest.approx(closed.item(), rel=1e-6)


def test_a_broken_layer_is_named() -> None:
    model = nn.Sequential(nn.Identity(), LRU(2, 3))
    with torch.no_grad():
        model[1].nu.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"layer '1': .*not finite"):
        HankelRegularizer()(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1.0}, "weight is -1.0"),
        ({"normalization": "max"}, "normalization is 'max'; choose one of sum, mean, relative"),
        ({"realization": "both"}, "'both'"),
        ({"until": -1}, "until is -1"),
        ({"refresh": 0}, "refresh is 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HankelRegularizer(**arguments)
