"""Finding layers, and making one's own known."""

import pytest
import torch
from torch import Tensor, nn

import compressm
from compressm.adapters import ParameterUpdate, find_layers
from compressm.adapters.registry import _registry
from compressm.layers import LRU
from compressm.lti import DiagonalSystem, Reduction


class RealDecay(nn.Module):
    """A user's layer: real decays, y_k = C x_k, written without compressm."""

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(-2.0, 2.0, states))
        self.inp = nn.Parameter(torch.randn(states, channels))
        self.out = nn.Parameter(torch.randn(channels, states))

    def forward(self, u: Tensor) -> Tensor:
        x, ys = torch.zeros(u.shape[0], len(self.decay)), []
        for k in range(u.shape[1]):
            x = torch.sigmoid(self.decay) * x + u[:, k] @ self.inp.T
            ys.append(x @ self.out.T)
        return torch.stack(ys, 1)


class RealDecayAdapter:
    ssm_parameters = ("decay", "inp")

    def state_dim(self, layer: RealDecay) -> int:
        return len(layer.decay)

    def system(self, layer: RealDecay) -> DiagonalSystem:
        return DiagonalSystem(
            torch.sigmoid(layer.decay.double()).to(torch.complex128), layer.inp.detach(), layer.out.detach()
        )

    def write_back(self, layer: RealDecay, reduction: Reduction) -> dict[str, ParameterUpdate]:
        assert layer.decay.requires_grad
        if not bool((reduction.system.A.imag == 0).all()):
            raise ValueError("real decays only")
        return {
            "decay": ParameterUpdate(torch.logit(reduction.system.A.real)),
            "inp": ParameterUpdate(reduction.system.B.real),
            "out": ParameterUpdate(reduction.system.C.real),
        }


@pytest.fixture
def own_layer() -> object:
    compressm.register(RealDecay, RealDecayAdapter())
    yield RealDecay
    del _registry[RealDecay]


def test_a_users_layer_is_inspected_and_compressed_like_ours(own_layer: type[RealDecay]) -> None:
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = own_layer(2, 7)
            self.second = LRU(2, 9)

    model = Model()
    with torch.no_grad():
        model.first.inp[3:] = 0.0  # four states that nothing drives
    u = torch.randn(2, 20, 2)
    before = model.first(u)
    looked = compressm.inspect(model)
    assert [(layer.name, layer.kind, layer.state_dim) for layer in looked] == [
        ("first", "RealDecay", 7),
        ("second", "LRU", 9),
    ]
    assert (looked[0].hankel_singular_values[3:] < 1e-12 * looked[0].hankel_singular_values[0]).all()
    compressm.compress(model, rank=compressm.FixedRank(3))
    assert len(model.first.decay) == 3
    assert model.second.state_dim == 3
    assert torch.allclose(model.first(u), before, atol=1e-5)


def test_subclasses_are_found_and_shared_layers_once() -> None:
    class Mine(LRU):
        pass

    shared = Mine(2, 3)
    model = nn.ModuleList([shared, nn.Linear(2, 2), shared, LRU(2, 4)])
    assert [(layer.name, layer.state_dim) for layer in find_layers(model)] == [("0", 3), ("3", 4)]
    assert [layer.name for layer in find_layers(LRU(2, 3))] == ["LRU"]


def test_a_model_without_layers_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"Linear has no layer that compressm knows \(.*LRU.*compressm.register"
    ):
        find_layers(nn.Linear(2, 2))


def test_register_checks_what_it_is_given() -> None:
    with pytest.raises(TypeError, match=r"subclass of torch\.nn\.Module"):
        compressm.register("LRU", RealDecayAdapter())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lacks ssm_parameters, state_dim, system, write_back"):
        compressm.register(RealDecay, object())  # type: ignore[arg-type]
