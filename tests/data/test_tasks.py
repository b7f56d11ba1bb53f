import math
from pathlib import Path

import numpy as np
import pytest

from compressm.data import describe, get_task, load, ordered_batches, task_names
from compressm.data.toy import PERIODS

IN_MEMORY = ("smnist-mini", "toy")


def test_the_names_are_the_tasks() -> None:
    assert {"smnist", "smnist-mini", "toy"} <= set(task_names())
    assert [get_task(name).name for name in task_names()] == list(task_names())


def test_an_unknown_name_lists_the_known_ones() -> None:
    for call in (load, describe, get_task):
        with pytest.raises(ValueError, match=r"unknown task 'mnits'; choose one of smnist, .*toy"):
            call("mnits")


@pytest.mark.parametrize("name", IN_MEMORY)
def test_a_task_is_what_it_says(name: str) -> None:
    task, splits = get_task(name), load(name)
    parts = (splits.train, splits.validation, splits.test)
    assert tuple(len(part) for part in parts) == task.sizes
    for part in parts:
        batch = next(ordered_batches(part, 5))
        assert tuple(batch.inputs.shape) == (5, task.length, task.input_dim)
        assert set(np.unique(part.targets)) == set(range(task.num_classes))
    contents = [{row.tobytes() for row in part.inputs} for part in parts]
    assert [len(content) for content in contents] == [len(part) for part in parts]
    assert sum(len(content) for content in contents) == len(set().union(*contents))


def test_the_description_holds_the_figures() -> None:
    text = describe("smnist")
    for figure in ("smnist", "54,000 train", "6,000 validation", "10,000 test", "784 steps", "10 classes"):
        assert figure in text
    assert "Yann LeCun" in text


def test_tasks_without_files_need_neither_folder_nor_network(tmp_path: Path) -> None:
    splits = load("toy", data_dir=tmp_path / "nowhere", download=False)
    assert np.array_equal(splits.train.inputs, load("toy").train.inputs)


def test_toy_can_be_solved_by_its_periods_only() -> None:
    split = load("toy").train
    assert split.lengths is not None
    steps = np.arange(split.inputs.shape[1])
    waves = split.inputs[:, :, 0].astype(np.float64)
    assert (waves[steps >= split.lengths[:, None]] == 0).all()
    assert len(np.unique(split.lengths)) > 10
    power = [np.abs(waves @ np.exp(2j * math.pi * steps / period)) for period in PERIODS]
    assert np.mean(np.argmax(power, axis=0) == split.targets) > 0.97
    means = [waves[split.targets == target, :12].mean(axis=0) for target in range(len(PERIODS))]
    assert np.abs(means).max() < 0.3


@pytest.mark.parametrize("name", task_names())
def test_the_figures_of_a_task_fit_together(name: str) -> None:
    task = get_task(name)
    assert (task.kind == "regression") == (task.target_dim > 0) == (task.num_classes == 0)
    assert task.output_dim == max(task.target_dim, task.num_classes) > 0
    assert task.vocab_size in (None, task.input_dim)
    assert task.kind in describe(name)
    assert min(task.sizes) > 0
