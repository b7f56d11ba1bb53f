"""Saved models: strict, complete, never half-written, never pickled."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import compressm
from compressm.models import SequenceClassifier


@pytest.fixture
def model() -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(1, 3, num_layers=2, model_dim=4, state_dim=[5, 2]).eval()


def test_round_trip_keeps_sizes_outputs_and_buffers(model: SequenceClassifier, tmp_path: Path) -> None:
    model.train()(torch.randn(3, 7, 1))
    model.eval()
    compressm.save(model, tmp_path / "m")
    again = compressm.load(tmp_path / "m")
    x = torch.randn(2, 9, 1)
    assert isinstance(again, SequenceClassifier)
    assert again.state_dims == [5, 2]
    assert not again.training
    assert torch.equal(again(x), model(x))
    assert {f.name for f in (tmp_path / "m").iterdir()} == {"model.safetensors", "model.json"}


def test_saving_again_replaces_and_leaves_nothing_behind(model: SequenceClassifier, tmp_path: Path) -> None:
    compressm.save(model, tmp_path / "m")
    with torch.no_grad():
        model.head.bias.fill_(3.0)
    compressm.save(model, tmp_path / "m")
    assert torch.equal(compressm.load(tmp_path / "m").head.bias, torch.full((3,), 3.0))
    assert [f.name for f in tmp_path.iterdir()] == ["m"]


def test_a_failed_save_leaves_the_old_model(
    model: SequenceClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressm.save(model, tmp_path / "m")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        compressm.save(model, tmp_path / "m")
    assert torch.equal(compressm.load(tmp_path / "m").head.weight, model.head.weight)
    assert [f.name for f in tmp_path.iterdir()] == ["m"]


class Foreign(nn.Module):
    def __init__(self, states: int) -> None:
        super().__init__()
        self.mixer = compressm.layers.LRU(4, states)
        self.register_buffer("seen", torch.zeros(2))


def test_a_foreign_model_takes_the_saved_sizes(tmp_path: Path) -> None:
    saved = Foreign(3)
    compressm.save(saved, tmp_path / "m")
    with pytest.raises(ValueError, match="holds a Foreign, which compressm cannot build"):
        compressm.load(tmp_path / "m")
    fresh = Foreign(8)
    before = fresh.mixer.B
    assert compressm.load(tmp_path / "m", fresh) is fresh
    assert fresh.mixer.state_dim == 3
    assert fresh.mixer.B is before
    assert torch.equal(fresh.mixer.B, saved.mixer.B)
    fresh.mixer(torch.randn(1, 4, 4))[0].sum().backward()
    assert fresh.mixer.B.grad is not None


def test_a_model_that_does_not_fit_is_refused_and_unchanged(
    model: SequenceClassifier, tmp_path: Path
) -> None:
    compressm.save(model, tmp_path / "m")
    other = Foreign(3)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"does not fit this Foreign: missing .*mixer\.B"):
        compressm.load(tmp_path / "m", other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_damage_is_named(model: SequenceClassifier, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    compressm.save(model, folder)
    weights, description = folder / "model.safetensors", folder / "model.json"
    data, text = weights.read_bytes(), description.read_text()

    weights.write_bytes(data[:-8])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        compressm.load(folder)
    flipped = bytearray(data)
    flipped[-3] ^= 1
    weights.write_bytes(bytes(flipped))
    with pytest.raises(ValueError, match="checksum"):
        compressm.load(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing"):
        compressm.load(folder)
    weights.write_bytes(data)

    description.write_text(text[:-20])
    with pytest.raises(ValueError, match=r"model.json is damaged"):
        compressm.load(folder)
    for change, message in (
        ({"format": 99}, "has format 99"),
        ({"extra": 1}, "its keys must be"),
        ({"config": {"model_dim": 4}}, "does not describe a SequenceClassifier"),
    ):
        description.write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(ValueError, match=message):
            compressm.load(folder)
    with pytest.raises(FileNotFoundError, match="is not a saved model"):
        compressm.load(tmp_path / "nothing")


def test_save_does_not_overwrite_what_is_not_a_model(model: SequenceClassifier, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not a saved model"):
        compressm.save(model, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_a_model_keeps_the_type_it_was_saved_in(model: SequenceClassifier, tmp_path: Path) -> None:
    compressm.save(model.double(), tmp_path / "m")
    x = torch.randn(2, 9, 1, dtype=torch.float64)
    again = compressm.load(tmp_path / "m")
    assert again.head.weight.dtype == torch.float64
    assert torch.equal(again(x), model(x))
