"""Devices by name, precision, and what a recorded step needs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import compressm
from compressm.layers import LRU
from compressm.training import (
    CompressionConfig,
    ModelConfig,
    RegularizationConfig,
    RunFolder,
    TrainConfig,
    resume,
    train,
)
from compressm.training.device import (
    autocast,
    is_timed,
    matrix_precision,
    pick_device,
    random_states,
    restore_random_states,
)

SMALL = TrainConfig(
    task="toy",
    device="cpu",
    steps=40,
    batch_size=8,
    validate_every=20,
    checkpoint_every=20,
    model=ModelConfig(state_dim=16, model_dim=4, dropout=0.1),
    compression=CompressionConfig(rank=4),
)


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        assert pick_device("auto").type == kind
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:two"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{name}'; choose auto, cpu, cuda"):
        pick_device(name)


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1").index == 1
    with pytest.raises(ValueError, match="'cuda:2', and PyTorch finds 2 CUDA devices"):
        pick_device("cuda:2")


def test_every_step_is_timed_on_a_cpu_and_a_few_on_a_gpu() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert all(is_timed(cpu, step, first=False) for step in range(1, 30))
    assert [step for step in range(1, 30) if is_timed(cuda, step, first=step == 1)] == [1, 10, 20]


def test_the_precision_of_products_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    with matrix_precision("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    with matrix_precision("float32"):
        assert torch.get_float32_matmul_precision() == before
    with autocast(torch.device("cpu"), "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), "tf32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_random_states_go_on_where_they_were() -> None:
    device = torch.device("cpu")
    states = random_states(device)
    first = torch.rand(3)
    restore_random_states(states, device)
    assert torch.equal(torch.rand(3), first)


def test_a_run_in_bfloat16_resumes_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    config = replace(SMALL, precision="bf16")
    whole = train(config, RunFolder(tmp_path / "whole"))
    plain = train(SMALL, RunFolder(tmp_path / "plain"))
    assert any(
        not torch.equal(a, b) for a, b in zip(whole.model.parameters(), plain.model.parameters(), strict=True)
    )

    class Stopped(Exception):
        pass

    def stop(progress: compressm.training.Progress) -> None:
        if progress.step > 25:
            raise Stopped

    with pytest.raises(Stopped):
        train(replace(config, log_every=5), RunFolder(tmp_path / "part"), watch=stop)
    again = resume(RunFolder(tmp_path / "part"))
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_recorded_step_and_a_term_from_the_cpu_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"cuda_graph is set, and so is regularization\.hankel_weight"):
        replace(SMALL, cuda_graph=True, regularization=RegularizationConfig(hankel_weight=1e-3))


def test_a_compressor_says_when_sizes_stay() -> None:
    layer = LRU(2, 8)
    compressor = compressm.Compressor(
        layer,
        rank=compressm.FixedRank(4),
        schedule=compressm.Schedule(total_steps=10, stop=0.4, cuts=2),
        reduction="balanced",
    )
    said = []
    for _ in range(6):
        compressor.step()
        said.append(compressor.finished)
    last = compressor.records[-1].step
    assert said == [step >= last for step in range(1, 7)]
