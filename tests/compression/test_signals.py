"""What passes through the layers is recorded where a cut will need it, and nowhere else."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import compressm
from compressm.adapters import find_layers
from compressm.compression.signals import BATCHES, SEQUENCES, SignalRecorder
from compressm.models import SequenceClassifier


def make() -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(2, 3, num_layers=2, model_dim=4, state_dim=8, dropout=0.0)


def test_the_last_passes_are_remembered() -> None:
    model = make()
    layers = find_layers(model)
    recorder = SignalRecorder(layers, ["gradients"] * len(layers))
    model(torch.randn(2, 5, 2))
    assert not recorder.recording
    recorder.switch(on=True)
    seen = []
    hook = layers[1].module.register_forward_hook(lambda _m, arguments, _o: seen.append(arguments[0]))
    for _ in range(BATCHES + 1):
        model(torch.randn(SEQUENCES + 2, 5, 2)).square().sum().backward()
    hook.remove()
    signals = recorder.signals(layers[1].name)
    assert len(signals.inputs) == len(signals.gradients) == BATCHES
    for recorded, whole in zip(signals.inputs, seen[1:], strict=True):
        assert torch.equal(recorded, whole[:SEQUENCES])
    assert all(g.shape == u.shape for g, u in zip(signals.gradients, signals.inputs, strict=True))


def test_gradients_are_those_of_the_loss_by_the_outputs() -> None:
    model = make()
    layers = find_layers(model)
    recorder = SignalRecorder(layers, ["gradients"] * len(layers))
    recorder.switch(on=True)
    outputs = {}
    layers[0].module.register_forward_hook(lambda _m, _a, output: outputs.update(y=output[0]))
    loss = model(torch.randn(3, 5, 2)).square().sum()
    (expected,) = torch.autograd.grad(loss, outputs["y"], retain_graph=True)
    loss.backward()
    torch.testing.assert_close(recorder.signals(layers[0].name).gradients[-1], expected)


def test_an_input_stays_with_its_own_gradient() -> None:
    """Also where passes come without a backward, and where a checkpoint runs the layer twice."""
    model = make()
    (first, _) = layers = find_layers(model)
    recorder = SignalRecorder(layers, ["gradients"] * 2)
    recorder.switch(on=True)
    inputs = [torch.randn(2, 5, 2) for _ in range(4)]
    with torch.no_grad():
        model(inputs[0])
    model(inputs[1])
    loss = model(inputs[2]).square().sum()
    model(inputs[3])
    loss.backward()
    checkpoint(model, inputs[1], use_reentrant=False).square().sum().backward()
    signals = recorder.signals(first.name)
    assert len(signals.gradients) == 2
    alone = [SignalRecorder(layers, ["gradients"] * 2) for _ in range(2)]
    for each, x, u, g in zip(alone, (inputs[2], inputs[1]), signals.inputs, signals.gradients, strict=True):
        each.switch(on=True)
        model(x).square().sum().backward()
        expected = each.signals(first.name)
        each.close()
        torch.testing.assert_close(u, expected.inputs[0])
        torch.testing.assert_close(g, expected.gradients[0])


def test_evaluation_and_copies_are_not_recorded() -> None:
    model = make()
    layers = find_layers(model)
    recorder = SignalRecorder(layers, ["inputs"] * len(layers))
    recorder.switch(on=True)
    copy.deepcopy(model)(torch.randn(2, 5, 2))
    model.eval()(torch.randn(2, 5, 2))
    with pytest.raises(RuntimeError, match=r"no inputs of layer 'blocks.0.mixer' were recorded"):
        recorder.signals(layers[0].name)


def test_the_compressor_leaves_the_model_after_its_last_attempt() -> None:
    model = make()
    compressor = compressm.Compressor(
        model,
        rank=compressm.FixedRank(3),
        schedule=compressm.Schedule(total_steps=20, stop=0.5, cuts=2),
    )
    hooks = [layer.module._forward_hooks for layer in find_layers(model)]
    for _ in range(9):
        model(torch.randn(2, 5, 2))
        compressor.step()
        assert all(len(each) == 1 for each in hooks)
    model(torch.randn(2, 5, 2))
    assert compressor.step() is not None
    assert all(len(each) == 0 for each in hooks)


def test_recorded_signals_survive_a_restart() -> None:
    schedule = compressm.Schedule(total_steps=4, stop=1.0, cuts=1)
    torch.manual_seed(1)
    inputs = [torch.randn(6, 9, 2) for _ in range(4)]

    def run(model: SequenceClassifier, compressor: compressm.Compressor, steps: range) -> None:
        for k in steps:
            model(inputs[k])
            compressor.step()

    model = make()
    compressor = compressm.Compressor(model, rank=compressm.FixedRank(2), schedule=schedule)
    run(model, compressor, range(2))
    twin, state = make(), compressor.state_dict()
    run(model, compressor, range(2, 4))
    again = compressm.Compressor(twin, rank=compressm.FixedRank(2), schedule=schedule)
    again.load_state_dict(state)
    run(twin, again, range(2, 4))
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


class TestCalibration:
    """compress() with batches."""

    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        torch.manual_seed(2)
        return [(torch.randn(4, 9, 2), torch.randint(3, (4,))) for _ in range(2)]

    @pytest.mark.parametrize("reduction", ["states", "gradients", "covariance"])
    def test_modes_gradients_and_hooks_are_left_as_they_were(self, reduction: str) -> None:
        model = make()
        model.blocks[1].eval()
        model.head.weight.grad = torch.ones_like(model.head.weight)
        compressm.compress(
            model,
            rank=compressm.FixedRank(3),
            calibration=self.batches(),
            loss=F.cross_entropy,
            reduction=reduction,
        )
        assert model.state_dims == [3, 3]
        assert [model.training, *(block.training for block in model.blocks)] == [True, True, False]
        assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
        assert all(not layer.module._forward_hooks for layer in find_layers(model))

    def test_inputs_alone_and_dicts_serve(self) -> None:
        pairs, alone, dicts = make(), make(), make()
        rank = compressm.FixedRank(3)
        compressm.compress(pairs, rank=rank, calibration=self.batches())
        compressm.compress(alone, rank=rank, calibration=[x for x, _ in self.batches()])
        compressm.compress(dicts, rank=rank, calibration=[{"x": x} for x, _ in self.batches()])
        for one, two, three in zip(*(m.parameters() for m in (pairs, alone, dicts)), strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)

    def test_what_is_missing_is_said_and_nothing_changes(self) -> None:
        model, rank = make(), compressm.FixedRank(3)
        with pytest.raises(ValueError, match="'gradients' needs data: give calibration=batches"):
            compressm.compress(model, rank=rank, reduction="gradients")
        with pytest.raises(ValueError, match="needs gradients: give pairs"):
            compressm.compress(model, rank=rank, calibration=self.batches(), reduction="gradients")
        with pytest.raises(ValueError, match="calibration holds no batches"):
            compressm.compress(model, rank=rank, calibration=[])
        with pytest.raises(ValueError, match="reduction is 'best'; choose one of balanced, states"):
            compressm.compress(model, rank=rank, reduction="best")
        assert model.state_dims == [8, 8]
        assert all(not layer.module._forward_hooks for layer in find_layers(model))
