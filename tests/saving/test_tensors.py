"""Tensors out of a model and into another: shared ones once, layers told of their sizes, nothing by half."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from mambapy.mamba import Mamba, MambaConfig
from torch import Tensor, nn

import compressm


class Peer(nn.Module):
    """A language model around mambapy's layers; its head is the embedding, or has a weight of its own."""

    def __init__(self, states: int = 8, *, tied: bool = True, channels: int = 6) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(11, channels)
        self.mamba = Mamba(MambaConfig(d_model=channels, n_layers=2, d_state=states))
        self.head = nn.Linear(channels, 11, bias=False)
        if tied:
            self.head.weight = self.embeddings.weight
        self.register_buffer("scale", torch.full((2,), 3.0), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.head(self.mamba(self.embeddings(tokens))) * self.scale[0]
        return found


TOKENS = torch.tensor([[1, 4, 2, 9, 10, 3], [0, 5, 5, 7, 8, 6]])


def compressed(**options: Any) -> Peer:
    torch.manual_seed(0)
    model = Peer(**options)
    compressm.compress(
        model,
        rank=compressm.FixedRank(3),
        calibration=[(TOKENS, TOKENS.roll(-1, 1))],
        loss=lambda out, targets: F.cross_entropy(out.flatten(0, 1), targets.flatten()),
    )
    return model.eval()


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_mambapys_layers_take_the_saved_sizes_and_step(tmp_path: Path) -> None:
    model = compressed()
    model.scale.fill_(2.0)
    compressm.save(model, tmp_path / "m")
    fresh = Peer()
    parameters = [id(parameter) for parameter in fresh.parameters()]
    again: Any = compressm.load(tmp_path / "m", fresh)
    assert again is fresh
    assert [id(parameter) for parameter in again.parameters()] == parameters
    assert [block.mixer.config.d_state for block in again.mamba.layers] == [3, 3]
    with torch.no_grad():
        assert torch.equal(again(TOKENS), model(TOKENS))
        caches = [(None, torch.zeros(2, 12, 3)) for _ in again.mamba.layers]
        steps = []
        for x_t in again.embeddings(TOKENS).unbind(1):
            y_t, caches = again.mamba.step(x_t, caches)
            steps.append(2.0 * again.head(y_t))
        assert torch.allclose(torch.stack(steps, 1), model(TOKENS), atol=1e-6)
    again(TOKENS).sum().backward()
    assert again.mamba.layers[0].mixer.A_log.grad.shape == (12, 3)


def test_a_shared_tensor_is_stored_once_whatever_shares_it(tmp_path: Path) -> None:
    compressm.save(compressed(), tmp_path / "m")
    names = safetensors.torch.load_file(tmp_path / "m" / "model.safetensors").keys()
    assert "embeddings.weight" in names
    assert "head.weight" not in names
    with pytest.raises(ValueError, match=r"does not fit this Peer: missing \['head.weight'\]"):
        compressm.load(tmp_path / "m", Peer(tied=False))


def test_parts_of_one_memory_are_stored_apart(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(6.0)
            self.first, self.second = nn.Parameter(whole[:4]), nn.Parameter(whole[2:])

    compressm.save(Views(), tmp_path / "m")
    again: Any = compressm.load(tmp_path / "m", Views())
    assert again.first.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert again.second.tolist() == [2.0, 3.0, 4.0, 5.0]


def test_two_tensors_do_not_become_one(tmp_path: Path) -> None:
    compressm.save(compressed(tied=False), tmp_path / "m")
    model = Peer()
    before = copied(model)
    with pytest.raises(ValueError, match=r"embeddings.weight and head.weight differ, .* they are one tensor"):
        compressm.load(tmp_path / "m", model)
    assert unchanged(model, before)


def test_only_known_layers_differ_in_size(tmp_path: Path) -> None:
    compressm.save(compressed(), tmp_path / "m")
    model = Peer(channels=8)
    before = copied(model)
    with pytest.raises(ValueError, match=r"embeddings.weight has shape \(11, 6\), the model's has \(11, 8\)"):
        compressm.load(tmp_path / "m", model)
    assert unchanged(model, before)


def test_a_given_model_keeps_its_type(tmp_path: Path) -> None:
    compressm.save(compressed(), tmp_path / "m")
    again: Any = compressm.load(tmp_path / "m", Peer().double())
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float64}


def test_buffers_beside_the_state_are_checked_too_and_may_be_others(tmp_path: Path) -> None:
    compressm.save(compressed(), tmp_path / "m")
    file = tmp_path / "m" / "buffers.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"model.safetensors or buffers.safetensors is damaged"):
        compressm.load(tmp_path / "m", Peer())
    file.write_bytes(data)
    other = Peer()
    other.register_buffer("more", torch.ones(1), persistent=False)
    del other.scale
    again: Any = compressm.load(tmp_path / "m", other)
    assert again.more.item() == 1.0


def test_a_layer_alone_is_a_model_too(tmp_path: Path) -> None:
    layer = compressm.layers.Mamba(4, 5)
    compressm.save(layer, tmp_path / "m")
    again: Any = compressm.load(tmp_path / "m", compressm.layers.Mamba(4, 9))
    u = torch.randn(2, 6, 4)
    assert torch.equal(again.eval()(u)[0], layer.eval()(u)[0])


def test_a_model_without_known_layers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    compressm.save(model, tmp_path / "m")
    again = compressm.load(tmp_path / "m", nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
