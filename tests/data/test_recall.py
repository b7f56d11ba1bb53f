"""Recall tasks: every target is found again by a reader that knows the rules and not the generator."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from compressm.data import IGNORE, Splits, describe, get_task, load
from compressm.data.copying import make_copying
from compressm.data.induction import make_induction
from compressm.data.recall import LONG, MQAR, Associations, make_recall

SMALL = (300, 50, 60)
Answers = dict[int, tuple[int, int]]


def recalled(kind: Associations, ids: Sequence[int]) -> Answers:
    """Read pairs until one is no pair of key and value; every key after the gap asks for what it was with."""
    is_key = range(kind.blanks, kind.blanks + kind.keys)
    is_value = range(is_key.stop, is_key.stop + kind.values)
    memory: dict[int, tuple[int, int]] = {}
    answers: Answers = {}
    for step, token in enumerate(ids):
        before = ids[step - 1] if step else -1
        if token in is_key and token in memory:
            answers[step] = memory[token]
        if token in is_value and before in is_key and before not in memory:
            memory[before] = (token, step)
    return answers


def induced(ids: Sequence[int]) -> Answers:
    mark = 16
    first = list(ids).index(mark)
    return {
        step: (ids[first + 1], first + 1) for step, token in enumerate(ids) if token == mark and step > first
    }


def copied(ids: Sequence[int]) -> Answers:
    seen = [(token, step) for step, token in enumerate(ids) if token >= 2]
    asked = [step for step, token in enumerate(ids) if token == 1]
    return dict(zip(asked, seen, strict=True))


TASKS: dict[str, tuple[Callable[..., Splits], Callable[[Sequence[int]], Answers], int]] = {
    "mqar": (lambda **given: make_recall(MQAR, **given), lambda ids: recalled(MQAR, ids), 24),
    "long-recall": (lambda **given: make_recall(LONG, **given), lambda ids: recalled(LONG, ids), 8),
    "induction": (make_induction, induced, 8),
    "selective-copying": (make_copying, copied, 8),
}


@pytest.mark.parametrize("name", TASKS)
def test_an_independent_reader_finds_every_target(name: str) -> None:
    make, read, count = TASKS[name]
    splits = make(sizes=SMALL, seed=5)
    for part in (splits.train, splits.validation, splits.test):
        for ids, targets in zip(part.inputs.tolist(), part.targets.tolist(), strict=True):
            answers = read(ids)
            assert len(answers) == count
            assert {step: answer for step, (answer, _) in answers.items()} == {
                step: target for step, target in enumerate(targets) if target != IGNORE
            }
            if name == "long-recall":
                assert all(step - source > 256 for step, (_, source) in answers.items())
            else:
                assert all(source < step for step, (_, source) in answers.items())


@pytest.mark.parametrize("name", TASKS)
def test_same_seed_same_data_and_parts_have_no_sequence_in_common(name: str) -> None:
    make, _, _ = TASKS[name]
    one, again, other = (make(sizes=SMALL, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(one.train.inputs, again.train.inputs)
    assert np.array_equal(one.test.targets, again.test.targets)
    assert not np.array_equal(one.train.inputs, other.train.inputs)
    train, validation, test = (
        {row.tobytes() for row in part.inputs} for part in (one.train, one.validation, one.test)
    )
    assert [len(rows) for rows in (train, validation, test)] == list(SMALL)
    assert not train & test
    assert not train & validation
    assert not test & validation


@pytest.mark.parametrize("name", TASKS)
def test_the_tasks_are_known_and_described(name: str) -> None:
    task = get_task(name)
    assert (task.kind, task.masked) == ("tokens", True)
    assert "at the steps that ask" in describe(name)
    test = load(name).test
    assert (len(test), test.steps) == (task.sizes[2], task.length)
    assert task.vocab_size == task.input_dim == task.num_classes
    assert test.inputs.max() < task.num_classes
    assert test.targets.max() < task.num_classes


@pytest.mark.parametrize("name", TASKS)
def test_guessing_does_not_help(name: str) -> None:
    """The commonest answer, and the commonest at its place, are hardly commoner than the others."""
    make, _, count = TASKS[name]
    part = make(sizes=(2000, 1, 1), seed=1).train
    answers = part.targets[part.targets != IGNORE]
    symbols, times = np.unique(answers, return_counts=True)
    assert len(symbols) >= 8
    # Answers to the marks of one sequence are all the same: fewer independent draws.
    draws = len(answers) / (count if name == "induction" else 1)
    assert times.max() / len(answers) < 1 / len(symbols) + 6 / np.sqrt(draws * len(symbols))
