"""Settings: checked early, strict from JSON."""

import json
from pathlib import Path

import pytest

from compressm.compression import EnergyRank, FixedRank, FractionRank
from compressm.training import CompressionConfig, ModelConfig, OptimizerConfig, TrainConfig


def test_json_round_trip() -> None:
    config = TrainConfig(
        task="toy",
        data_dir=Path("somewhere"),
        seed=0,
        steps=80,
        model=ModelConfig(num_layers=2, state_dim=16),
        optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.05),
        compression=CompressionConfig(fraction=0.25, cuts=2),
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("dropot",), "unknown key dropot in the configuration; known are"),
        (("model", "state_dims"), r"unknown key model\.state_dims"),
        (("compression", "tol"), r"unknown key compression\.tol"),
    ],
)
def test_unknown_keys_are_refused(path: tuple[str, ...], message: str) -> None:
    plain = TrainConfig(task="toy").to_dict()
    place = plain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = 1
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(plain)


def test_a_missing_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"incomplete configuration: .*'task'"):
        TrainConfig.from_dict({})


def test_one_rule_at_most() -> None:
    assert CompressionConfig().rule() is None
    assert CompressionConfig(rank=8).rule() == FixedRank(8)
    assert CompressionConfig(tolerance=0.02).rule() == EnergyRank(tolerance=0.02)
    assert CompressionConfig(fraction=0.5).rule() == FractionRank(0.5)
    with pytest.raises(ValueError, match="not rank and tolerance"):
        CompressionConfig(rank=8, tolerance=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"steps": 10, "compression": CompressionConfig(rank=8)}, "4 attempts in 10 steps"),
        ({"compression": CompressionConfig(rank=0)}, "rank is 0"),
        ({"compression": CompressionConfig(rank=257)}, "rank is 257, but layer 'of this model' has only 256"),
        ({"compression": CompressionConfig(tolerance=1.0)}, "tolerance is 1.0"),
    ],
)
def test_impossible_settings_are_refused_before_anything_runs(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(task="toy", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"), [({"lr": 0.0}, "lr is 0.0"), ({"warmup": 1.0}, "warmup is 1.0")]
)
def test_impossible_optimisers_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)  # type: ignore[arg-type]


def test_the_arm_is_named_by_what_is_done() -> None:
    assert TrainConfig(task="toy").label == "full"
    assert TrainConfig(task="toy", compression=CompressionConfig(rank=8)).label == "compressm"
    assert TrainConfig(task="toy", arm="scratch").label == "scratch"
