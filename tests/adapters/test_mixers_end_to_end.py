"""Every time-invariant layer a model can be built from: trained, cut in training, saved, loaded."""

from pathlib import Path

import pytest
import torch

import compressm
from compressm.models import SequenceClassifier


@pytest.mark.parametrize("mixer", ["lru", "lru-bi", "s5", "s5-bi", "s4d", "rotation"])
def test_trained_cut_saved_and_loaded(mixer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SequenceClassifier(2, 3, num_layers=2, model_dim=4, state_dim=12, mixer=mixer, dropout=0.0)
    groups = compressm.parameter_groups(model, lr=1e-2, ssm_lr_factor=0.5, weight_decay=0.01)
    optimizer = torch.optim.AdamW(groups)
    compressor = compressm.Compressor(
        model,
        optimizer,
        rank=compressm.FixedRank(4),
        schedule=compressm.Schedule(total_steps=12, stop=0.5, cuts=2),
    )
    x, target = torch.randn(16, 25, 2), torch.randint(3, (16,))
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        compressor.step()
    cuts = [record for record in compressor.records if record.changed]
    assert len(cuts) == 2
    assert all(layer.new <= 4 for layer in cuts[-1].layers)
    assert model.state_dims == [layer.new for layer in cuts[-1].layers]
    assert losses[-1] < losses[0]
    for parameter, state in optimizer.state.items():
        assert all(v.shape == parameter.shape for v in state.values() if v.dim() > 0)

    compressm.save(model, tmp_path / "model")
    again = compressm.load(tmp_path / "model")
    model.eval()
    assert again.state_dims == model.state_dims
    assert torch.equal(again(x), model(x))
    assert [layer.state_dim for layer in compressm.inspect(again)] == model.state_dims
