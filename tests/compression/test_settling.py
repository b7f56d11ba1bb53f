"""The compressor with tracking and with the automatic schedule."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F

import compressm
from compressm.compression import Rollback
from compressm.models import SequenceClassifier

STEPS = 60


def make() -> tuple[SequenceClassifier, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = SequenceClassifier(2, 3, num_layers=2, model_dim=4, state_dim=10, dropout=0.0)
    return model, torch.optim.AdamW(compressm.parameter_groups(model, lr=1e-3))


def auto() -> compressm.AutoSchedule:
    return compressm.AutoSchedule(
        total_steps=STEPS, cuts=2, earliest=0.2, latest=0.8, patience=2, interval=0.05
    )


def train(
    model: SequenceClassifier,
    optimizer: torch.optim.Optimizer,
    compressor: compressm.Compressor,
    steps: range,
) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(4, 9, 2, generator=generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), torch.randint(3, (4,), generator=generator))
        loss.backward()
        optimizer.step()
        compressor.step(metric=float(loss.detach()))


def test_tracking_alone_looks_at_every_layer_and_changes_nothing() -> None:
    model, optimizer = make()
    twin, other = copy.deepcopy(model), None
    compressor = compressm.Compressor(
        model,
        optimizer,
        rank=compressm.FixedRank(10),
        schedule=compressm.Schedule(total_steps=STEPS),
        track_every=20,
    )
    train(model, optimizer, compressor, range(STEPS))
    other = torch.optim.AdamW(compressm.parameter_groups(twin, lr=1e-3))
    plain = compressm.Compressor(
        twin, other, rank=compressm.FixedRank(10), schedule=compressm.Schedule(total_steps=STEPS)
    )
    train(twin, other, plain, range(STEPS))
    assert [record.step for record in compressor.tracker.records] == [20, 20, 40, 40, 60, 60]
    assert plain.tracker.records == []
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ValueError, match="track_every is 0"):
        compressm.Compressor(
            model,
            optimizer,
            rank=compressm.FixedRank(2),
            schedule=compressm.Schedule(total_steps=STEPS),
            track_every=0,
        )


def test_the_automatic_schedule_makes_all_its_attempts() -> None:
    model, optimizer = make()
    compressor = compressm.Compressor(model, optimizer, rank=compressm.FixedRank(3), schedule=auto())
    train(model, optimizer, compressor, range(STEPS))
    assert [record.attempt for record in compressor.records] == [1, 2]
    assert all(12 <= record.step <= 48 for record in compressor.records)
    assert model.state_dims == [3, 3]
    assert all(not block.mixer._forward_hooks for block in model.blocks)


def test_it_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    model, optimizer = make()
    compressor = compressm.Compressor(model, optimizer, rank=compressm.FixedRank(3), schedule=auto())
    train(model, optimizer, compressor, range(10))
    buffer = io.BytesIO()
    torch.save(
        {"model": model.state_dict(), "opt": optimizer.state_dict(), "cut": compressor.state_dict()}, buffer
    )
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    twin, other = make()
    twin.load_state_dict(saved["model"])
    other.load_state_dict(saved["opt"])
    again = compressm.Compressor(twin, other, rank=compressm.FixedRank(3), schedule=auto())
    again.load_state_dict(saved["cut"])
    train(model, optimizer, compressor, range(10, STEPS))
    train(twin, other, again, range(10, STEPS))
    assert [record.step for record in again.records] == [record.step for record in compressor.records]
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_guard_takes_back_what_the_automatic_schedule_did() -> None:
    model, optimizer = make()
    guard = Rollback(tolerance=-0.0, mode="max", patience=3, retries=0)
    compressor = compressm.Compressor(
        model, optimizer, rank=compressm.FixedRank(3), schedule=auto(), guard=guard
    )
    call = 0
    while compressor.steps_done < STEPS:
        model(torch.randn(4, 9, 2)).square().sum().backward()
        compressor.step(metric=-float(call))  # worse with every call
        call += 1
    assert model.state_dims == [10, 10]
    assert [(r.attempt, r.verdict) for r in compressor.records] == [
        (1, "undone"),
        (1, ""),
        (2, "undone"),
        (2, ""),
    ]


@pytest.mark.parametrize("good", [True, False])
def test_a_cut_on_trial_is_judged_before_the_next_one(good: bool) -> None:
    """The automatic schedule does not know the guard's patience: no cut goes unjudged."""
    model, optimizer = make()
    guard = Rollback(tolerance=0.0, mode="max", patience=STEPS, retries=0)
    compressor = compressm.Compressor(
        model, optimizer, rank=compressm.FixedRank(3), schedule=auto(), guard=guard
    )
    for call in range(3 * STEPS):
        if len({record.attempt for record in compressor.records}) == 2:
            break
        model(torch.randn(4, 9, 2)).square().sum().backward()
        compressor.step(metric=float(call if good else -call))
    first = compressor.records[0]
    assert first.verdict == ("kept" if good else "undone")
    assert compressor.records[-1].attempt == 2
