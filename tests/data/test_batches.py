import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressm.data import Batches, Split, ordered_batches


def numbered(count: int) -> Split:
    return Split(np.zeros((count, 1, 1), np.float32), np.arange(count))


def draw(batches: Batches, count: int) -> list[list[int]]:
    return [batch.targets.tolist() for batch in itertools.islice(batches, count)]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    world_size=st.integers(1, 4),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**63),
)
def test_an_epoch_visits_each_sequence_at_most_once_over_all_ranks(
    count: int, batch_size: int, world_size: int, drop_last: bool, seed: int
) -> None:
    if count < world_size * (batch_size if drop_last else 1):
        return
    samplers = [
        Batches(numbered(count), batch_size, seed, drop_last=drop_last, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    steps = samplers[0].batches_per_epoch
    drawn = [draw(sampler, steps) for sampler in samplers]
    seen = [row for batches in drawn for batch in batches for row in batch]
    together = batch_size * world_size
    left_out = count % together if drop_last or count % together < world_size else 0
    assert len(seen) == len(set(seen)) == count - left_out
    assert all(0 < len(batch) <= batch_size for batches in drawn for batch in batches)
    if drop_last:
        assert {len(batch) for batches in drawn for batch in batches} == {batch_size}
    assert samplers[0].epoch == 1


def test_the_order_is_the_seeds_and_differs_between_epochs_and_seeds() -> None:
    first, again, other = (Batches(numbered(60), 10, seed) for seed in (0, 0, 1))
    orders = [draw(first, 6), draw(first, 6)]
    assert [draw(again, 6), draw(again, 6)] == orders
    others = [draw(other, 6), draw(other, 6)]
    flat = [[row for batch in order for row in batch] for order in (*orders, *others)]
    assert len({tuple(order) for order in flat}) == 4
    assert all(order != sorted(order) for order in flat)


def test_the_order_does_not_change_between_releases() -> None:
    assert draw(Batches(numbered(10), 5, 0), 2) == [[6, 3, 1, 5, 8], [7, 0, 2, 9, 4]]


def test_ranks_make_up_the_batches_of_a_single_process() -> None:
    single = draw(Batches(numbered(24), 6, 3), 8)
    ranks = [draw(Batches(numbered(24), 2, 3, rank=rank, world_size=3), 8) for rank in range(3)]
    for step, batch in enumerate(single):
        assert sorted(row for rank in ranks for row in rank[step]) == sorted(batch)


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 13])
def test_a_restored_sampler_goes_on_where_the_saved_one_stood(stop: int) -> None:
    sampler = Batches(numbered(25), 5, seed=0)
    draw(sampler, stop)
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = draw(sampler, 12)
    fresh = Batches(numbered(25), 5, seed=9)
    draw(fresh, 3)
    fresh.load_state_dict(state)
    assert fresh.epoch == stop // 5
    assert draw(fresh, 12) == expected
    sampler.load_state_dict(state)
    assert draw(sampler, 12) == expected


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what is watched
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    orders = [draw(Batches(numbered(20), 5, 0), 9)]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state(legacy=False)) == str(numpy_state)  # noqa: NPY002
    torch.manual_seed(2)
    orders.append(draw(Batches(numbered(20), 5, 0), 9))
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 24}, "count was 24 when saved and is 25 now"),
        ({"batch_size": 4}, "resume with batch_size=4"),
        ({"world_size": 2}, "world_size was 2"),
        ({"drop_last": False}, "drop_last was False"),
        ({"position": 6}, "impossible state"),
        ({"epoch": -1}, "impossible state"),
        ({"extra": 1}, "has the keys .* got .*'extra'"),
    ],
)
def test_a_state_of_something_else_is_refused(change: dict[str, int], words: str) -> None:
    sampler = Batches(numbered(25), 5, seed=0)
    with pytest.raises(ValueError, match=words):
        sampler.load_state_dict({**sampler.state_dict(), **change})
    assert draw(sampler, 3) == draw(Batches(numbered(25), 5, seed=0), 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"rank": 2, "world_size": 2}, "rank=2, world_size=2"),
        ({"batch_size": 11}, "10 sequences cannot fill a batch of batch_size=11"),
        ({"batch_size": 6, "world_size": 2}, "batch_size=6 on world_size=2"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, int], words: str) -> None:
    everything: dict[str, Any] = {"batch_size": 5, "seed": 0, **options}
    with pytest.raises(ValueError, match=words):
        Batches(numbered(10), **everything)


def test_evaluation_sees_everything_once_in_order() -> None:
    batches = [batch.targets.tolist() for batch in ordered_batches(numbered(7), 3)]
    assert batches == [[0, 1, 2], [3, 4, 5], [6]]
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ordered_batches(numbered(7), 0)
