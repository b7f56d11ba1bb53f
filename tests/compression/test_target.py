"""The smallest sizes at which a metric holds."""

from typing import Any

import pytest
import torch

import compressm
from compressm.compression import TargetMetric
from compressm.compression.oneshot import compress_with_record
from compressm.layers import LRU
from compressm.models import SequenceClassifier


def make() -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(2, 3, num_layers=2, model_dim=4, state_dim=12, dropout=0.0)


def test_it_finds_the_smallest_model_that_the_metric_allows() -> None:
    """The metric falls where a layer has fewer than 5 states; the search may not pass that."""
    model = make()
    rule = TargetMetric(lambda: float(min(model.state_dims) >= 5), tolerance=0.5, trials=12)
    compressm.compress(model, rank=rule)
    assert min(model.state_dims) >= 5
    greedy = make()
    compressm.compress(greedy, rank=TargetMetric(lambda: 1.0, trials=12))
    assert max(greedy.state_dims) < min(model.state_dims)


def test_a_loss_is_a_metric_too_and_nothing_is_cut_that_costs_too_much() -> None:
    model = make()
    rule = TargetMetric(lambda: float(12 - min(model.state_dims)), tolerance=0.0, mode="min")
    cut = compress_with_record(model, rank=rule)
    assert model.state_dims == [12, 12]
    assert not cut.changed


def test_the_error_of_the_map_is_held() -> None:
    """A metric of substance: the output of a layer against what it was."""
    torch.manual_seed(1)
    layer = LRU(3, 24)
    u = torch.randn(2, 60, 3)
    y = layer(u)[0].detach()

    def error() -> float:
        with torch.no_grad():
            return float((layer(u)[0] - y).norm() / y.norm())

    compressm.compress(layer, rank=TargetMetric(error, tolerance=0.05, mode="min"))
    assert layer.state_dim < 24
    assert error() <= 0.05


def test_trials_leave_no_trace_in_model_optimiser_and_random_numbers() -> None:
    model = make()
    optimizer = torch.optim.AdamW(compressm.parameter_groups(model, lr=1e-2))
    seen = []

    def metric() -> float:
        seen.append(torch.rand(()))
        return -float(sum(model.state_dims) < 24)  # any cut costs

    compressor = compressm.Compressor(
        model,
        optimizer,
        rank=TargetMetric(metric, tolerance=0.5),
        schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
    )
    model(torch.randn(4, 9, 2)).square().sum().backward()
    optimizer.step()
    parameters = [p.detach().clone() for p in model.parameters()]
    state = {k: {n: v.clone() for n, v in s.items()} for k, s in optimizer.state_dict()["state"].items()}
    random_state = torch.get_rng_state()
    cut = compressor.step()
    assert cut is not None
    assert not cut.changed
    assert len(seen) == 8
    assert torch.equal(random_state, torch.get_rng_state())
    for before, after in zip(parameters, model.parameters(), strict=True):
        assert torch.equal(before, after)
    for index, entries in optimizer.state_dict()["state"].items():
        assert all(torch.equal(entries[name], state[index][name]) for name in state[index])


def test_the_moments_move_with_the_cut_that_was_found() -> None:
    model = make()
    optimizer = torch.optim.AdamW(compressm.parameter_groups(model, lr=1e-2))
    compressor = compressm.Compressor(
        model,
        optimizer,
        rank=TargetMetric(lambda: 1.0),
        schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
    )
    model(torch.randn(4, 9, 2)).square().sum().backward()
    optimizer.step()
    compressor.step()
    B = model.blocks[0].mixer.B
    assert B.shape[1] < 12
    assert optimizer.state[B]["exp_avg"].shape == B.shape


def test_attempts_before_the_last_go_no_deeper_than_the_energy_says() -> None:
    model = make()
    calls: list[None] = []
    rule = TargetMetric(lambda: calls.append(None) or 1.0, early=0.05)  # type: ignore[func-returns-value]
    compressor = compressm.Compressor(
        model, rank=rule, schedule=compressm.Schedule(total_steps=2, stop=1.0, cuts=2), reduction="balanced"
    )
    bounded = make()
    compressm.compress(
        bounded, rank=compressm.EnergyRank(tolerance=0.05, threshold=1.0), reduction="balanced"
    )
    compressor.step()
    assert model.state_dims == bounded.state_dims
    assert max(model.state_dims) < 12
    assert len(calls) == 2  # before, and as deep as it may: nothing to search for
    early = model.state_dims
    compressor.step()
    assert max(model.state_dims) < min(early)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"mode": "best"}, "mode is 'best'"),
        ({"trials": 0}, "trials is 0"),
        ({"early": 0.6}, "early is 0.6"),
        ({"early": 0.0}, "early is 0.0"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetMetric(lambda: 1.0, **arguments)


def test_a_metric_that_is_no_number_is_refused_before_anything_changes() -> None:
    model = make()
    with pytest.raises(ValueError, match="the metric is nan before the cut"):
        compressm.compress(model, rank=TargetMetric(lambda: float("nan")))
    assert model.state_dims == [12, 12]
