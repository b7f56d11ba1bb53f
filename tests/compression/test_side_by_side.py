"""Layers side by side: results, threads and errors as if they came one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import compressm
from compressm.compression.side_by_side import side_by_side
from compressm.models import SequenceClassifier


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(params=[1, 3])
def threads(request) -> Iterator[int]:
    with on_threads(request.param):
        yield request.param


def test_results_come_in_order_with_the_callers_grad_mode(threads: int) -> None:
    with torch.no_grad():
        seen = side_by_side([lambda i=i: (i, torch.is_grad_enabled()) for i in range(5)])
    assert seen == [(i, False) for i in range(5)]
    assert side_by_side([torch.is_grad_enabled]) == [True]
    assert torch.get_num_threads() == threads


def test_tasks_share_the_threads_out() -> None:
    # That all have met shows that they run at once; it would break after a minute.
    everybody = threading.Barrier(2, timeout=60.0)

    def task() -> int:
        everybody.wait()
        return torch.get_num_threads()

    with on_threads(5):
        assert side_by_side([task, task]) == [2, 2]
        assert torch.get_num_threads() == 5


def test_the_first_failure_is_raised_and_threads_are_given_back(threads: int) -> None:
    def fail(name: str) -> None:
        raise ValueError(name)

    with pytest.raises(ValueError, match="second"):
        side_by_side([lambda: None, lambda: fail("second"), lambda: fail("third")])
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("reduction", ["balanced", "states"])
def test_a_cut_has_the_same_bits_on_several_threads(reduction: str) -> None:
    found = []
    for threads in (1, 3):
        torch.manual_seed(0)
        model = SequenceClassifier(3, 10, num_layers=3, model_dim=32, state_dim=24)
        optimizer = torch.optim.AdamW(compressm.parameter_groups(model, lr=1e-3))
        compressor = compressm.Compressor(
            model,
            optimizer,
            rank=compressm.FixedRank(7),
            schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
            reduction=reduction,
        )
        model(torch.randn(2, 40, 3)).square().sum().backward()
        optimizer.step()
        with on_threads(threads):
            cut = compressor.step()
        assert cut is not None
        assert [layer.new for layer in cut.layers] == [7, 7, 7]
        moments = [value for state in optimizer.state.values() for value in state.values()]
        found.append([*(layer.error for layer in cut.layers), *model.parameters(), *moments])
    for one, several in zip(*found, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(several))
