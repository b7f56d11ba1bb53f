"""What a run says about its costs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compressm.data import get_task
from compressm.layers import S4D, Mamba
from compressm.models import SequenceClassifier
from compressm.report import read_run
from compressm.training import CompressionConfig, ModelConfig, RunFolder, TrainConfig, find_objective, train
from compressm.training.flops import flops_per_sequence
from compressm.training.peak import peak_memory, start_peak

LINEAR = ("aten.mm", "aten.addmm")  # bmm is what some recurrences are made of


def test_operations_by_hand() -> None:
    model = SequenceClassifier(3, 5, num_layers=2, model_dim=4, state_dim=[6, 7], mixer="lru", dropout=0.0)
    # Encoder, then of each block B u, x = l x + B u, C x, D u and the gated unit; the head once.
    blocks = sum(4 * n * 4 + 8 * n + 4 * n * 4 + 2 * 4 + 2 * 4 * 8 for n in (6, 7))
    assert flops_per_sequence(model, 10) == 10 * (2 * 3 * 4 + blocks) + 2 * 4 * 5
    s4d = SequenceClassifier(3, 5, num_layers=1, model_dim=4, state_dim=6, mixer="s4d", dropout=0.0)
    assert isinstance(s4d.blocks[0].mixer, S4D)
    assert flops_per_sequence(s4d, 1) == 2 * 3 * 4 + 16 * 4 * 6 + 2 * 4 + 2 * 4 * 8 + 2 * 4 * 5


@pytest.mark.parametrize("mixer", ["mamba", "mamba2", "gla", "retnet", "deltanet", "gated-deltanet"])
def test_matrix_products_are_those_that_pytorch_counts(mixer: str) -> None:
    """Linear maps and head; convolutions and recurrences are kernels that its counter cannot see."""
    task = get_task("induction")
    model = (
        find_objective(task)
        .make_model(task, ModelConfig(mixer=mixer, model_dim=8, state_dim=4, num_layers=1), 4)
        .eval()
    )
    tokens = torch.zeros(1, 6, dtype=torch.int64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens)
    counted = counter.get_flop_counts()["Global"]
    products = sum(flops for operation, flops in counted.items() if str(operation) in LINEAR)
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert products == 6 * 2 * (weights + model.embeddings.weight.numel())
    rest = flops_per_sequence(model, 6) - 6 * 2 * (weights + model.embeddings.weight.numel())
    assert rest > 0


def test_a_smaller_state_costs_less() -> None:
    task = get_task("induction")
    objective = find_objective(task)
    for mixer in ("mamba", "mamba2", "gla", "deltanet"):
        settings = ModelConfig(mixer=mixer, model_dim=8, num_layers=1)
        big, small = (flops_per_sequence(objective.make_model(task, settings, n), 6) for n in (16, 4))
        assert small < big
    layer = Mamba(8, 4)
    from compressm.training.flops import recurrence_flops

    assert recurrence_flops(layer) == layer.inner_dim * (6 * 4 + 2)


def test_the_peak_rises_with_what_is_held() -> None:
    start_peak()
    before = peak_memory()
    if before is None:
        pytest.skip("this system tells no peak")
    held = torch.ones(30_000_000)
    during = peak_memory()
    assert during is not None
    assert during - before > 0.9 * 4 * len(held)


def test_a_run_tells_what_it_cost(tmp_path: Path) -> None:
    config = TrainConfig(
        task="toy",
        steps=40,
        batch_size=4,
        model=ModelConfig(model_dim=4, state_dim=12),
        compression=CompressionConfig(rank=3, stop=0.5),
    )
    train(config, RunFolder(tmp_path / "cut"))
    train(replace(config, compression=CompressionConfig()), RunFolder(tmp_path / "full"))
    cut, full = (read_run(tmp_path / name).summary for name in ("cut", "full"))
    assert cut is not None
    assert full is not None
    assert [stage.after for stage in cut.stages] == [0, 5, 10, 15, 20]
    assert cut.stages[0].states == (12,)
    assert cut.stages[-1].states == cut.states == (3,)
    assert all(stage.step_seconds and stage.step_seconds > 0 for stage in cut.stages)
    assert [(stage.after, stage.states) for stage in full.stages] == [(0, (12,))]
    # Encoder; B u and C x at 4 N H each, the recurrence, D u and the gated unit; the head once.
    sequence = 32 * (2 * 4 + 2 * 4 * 3 * 4 + 8 * 3 + 2 * 4 + 2 * 4 * 8) + 2 * 4 * 3
    assert cut.flops_per_step == 3 * 4 * sequence
    assert full.flops_per_step is not None
    assert full.flops_per_step > cut.flops_per_step
    assert cut.recompilations == 0
    assert cut.streamed_per_second
    assert cut.peak_memory
    # Runs from before there were such lines are read as they are.
    file = tmp_path / "full" / "metrics.jsonl"
    old = [json.loads(line) for line in file.read_text().splitlines()]
    new = ("stages", "flops_per_step", "peak_memory", "recompilations", "streamed_per_second")
    for key in (*new, "teacher_seconds"):
        del old[-1][key]
    file.write_text("".join(json.dumps(line) + "\n" for line in old))
    summary = read_run(tmp_path / "full").summary
    assert summary is not None
    assert (summary.flops_per_step, summary.stages) == (None, ())
