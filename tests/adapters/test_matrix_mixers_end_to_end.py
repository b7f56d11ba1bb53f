"""Language models on matrix-state layers: cut in training and after it, saved, loaded, streaming."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compressm
from compressm.compression.oneshot import compress_with_record
from compressm.models import LanguageModel

MIXERS = {
    "mamba2": "energy",
    "gla": "energy",
    "retnet": "states",
    "deltanet": "energy",
    "gated-deltanet": "energy",
}
VOCABULARY = 7


def make(mixer: str) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(VOCABULARY, num_layers=2, model_dim=8, state_dim=6, mixer=mixer)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def sequences() -> Tensor:
    """Counting round and round from anywhere: what comes next is to be learned."""
    start = torch.arange(8)[:, None]
    return (start + torch.arange(13)) % VOCABULARY


@pytest.mark.parametrize("mixer", list(MIXERS))
def test_cut_while_training_saved_loaded_and_streaming(mixer: str, tmp_path: Path) -> None:
    model, tokens = make(mixer), sequences()
    optimizer = torch.optim.AdamW(compressm.parameter_groups(model, lr=1e-2, weight_decay=0.01))
    compressor = compressm.Compressor(
        model,
        optimizer,
        rank=compressm.FixedRank(3),
        schedule=compressm.Schedule(total_steps=16, stop=0.5, cuts=2),
    )
    losses = []
    for _ in range(16):
        optimizer.zero_grad()
        loss = loss_of(model(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        compressor.step()
    cuts = [record for record in compressor.records if record.changed]
    assert len(cuts) == 2
    assert {layer.reduction for record in cuts for layer in record.layers} == {MIXERS[mixer]}
    assert model.state_dims == [3, 3]
    assert losses[-1] < losses[0] - 0.1
    for parameter, state in optimizer.state.items():
        assert all(v.shape == parameter.shape for v in state.values() if v.dim() > 0)
        assert int(state["step"]) == 16  # nothing restarted

    model.eval()
    whole = model(tokens)
    outputs, state = [], None
    for k in range(tokens.shape[1]):
        logits, state = model.step(tokens[:, k], state)
        outputs.append(logits)
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole, rtol=1e-4, atol=1e-4)
    compressm.save(model, tmp_path / "model")
    again = compressm.load(tmp_path / "model")
    assert again.state_dims == [3, 3]
    assert torch.equal(again(tokens), whole)


@pytest.mark.parametrize("mixer", list(MIXERS))
@pytest.mark.parametrize("with_targets", [True, False])
def test_compressed_in_one_call_by_what_the_calibration_serves(mixer: str, *, with_targets: bool) -> None:
    model, tokens = make(mixer), sequences()
    looked = compressm.inspect(model)
    assert [layer.state_dim for layer in looked] == [6, 6]
    smaller = copy.deepcopy(model)
    calibration = [(tokens[:, :-1], tokens[:, 1:])] if with_targets else [tokens]
    record = compress_with_record(
        smaller,
        rank=compressm.FixedRank(4),
        calibration=calibration,
        loss=loss_of if with_targets else None,
    )
    # Mamba-2's energies look at gradients, those of the others at inputs alone.
    otherwise = {"mamba2": "qr"}.get(mixer, MIXERS[mixer])
    expected = MIXERS[mixer] if with_targets else otherwise
    assert {layer.reduction for layer in record.layers} == {expected}
    assert smaller.state_dims == [4, 4]
    assert bool(torch.isfinite(smaller(tokens)).all())
    untouched = copy.deepcopy(model)
    compressm.compress(untouched, rank=compressm.FixedRank(6), calibration=calibration, loss=loss_of)
    assert torch.equal(untouched(tokens), model(tokens))
