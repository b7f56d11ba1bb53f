import numpy as np
import pytest
import torch

from compressm.data import Batch, Split, hold_out
from compressm.data.splits import as_pixels


def numbered(count: int, length: int = 4) -> Split:
    inputs = np.arange(count, dtype=np.float32)[:, None, None].repeat(length, axis=1)
    return Split(inputs, np.arange(count))


def test_pixels_are_divided_by_255_exactly() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(2, 128, 1)
    batch = Split(values, np.array([3, 5]), encode=as_pixels).batch(np.array([1, 0]))
    expected = values[::-1].astype(np.float32) / np.float32(255)
    assert batch.inputs.dtype == torch.float32
    assert np.array_equal(batch.inputs.numpy(), expected)
    assert batch.targets.dtype == torch.int64
    assert batch.targets.tolist() == [5, 3]
    assert batch.lengths is None


def test_batch_from_a_read_only_map_does_not_touch_it() -> None:
    values = np.full((3, 2, 1), 4.0, dtype=np.float32)
    values.setflags(write=False)
    batch = Split(values, np.zeros(3, dtype=np.int64)).batch(slice(0, 2))
    batch.inputs.zero_()
    assert (values == 4.0).all()


def test_lengths_follow_their_rows_and_batches_move_whole() -> None:
    split = Split(np.zeros((3, 9, 2), np.float32), np.array([0, 1, 2]), np.array([9, 1, 4], np.int16))
    batch = split.subset(np.array([2, 1])).batch(slice(None)).to("meta")
    assert isinstance(batch, Batch)
    assert batch.lengths is not None
    assert {part.device.type for part in batch if part is not None} == {"meta"}
    lengths = split.batch(np.array([2, 1])).lengths
    assert lengths is not None
    assert lengths.dtype == torch.int64
    assert lengths.tolist() == [4, 1]


def test_tokens_and_targets_per_step_are_possible() -> None:
    tokens = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    split = Split(tokens, tokens[:, ::-1].copy(), encode=lambda stored: stored.to(torch.int64))
    batch = split.batch(slice(0, 2))
    assert batch.inputs.tolist() == tokens.tolist()
    assert batch.inputs.dtype == torch.int64
    assert batch.targets.tolist() == [[3, 2, 1], [6, 5, 4]]


@pytest.mark.parametrize(
    ("inputs", "targets", "lengths", "error", "words"),
    [
        (np.zeros(3), np.zeros(3, int), None, ValueError, r"shape \(3,\)"),
        (np.zeros((3, 4, 1)), np.zeros(2, int), None, ValueError, "targets has 2 rows but inputs has 3"),
        (np.zeros((3, 4, 1)), np.zeros(3), None, TypeError, "targets .* float64"),
        (np.zeros((2, 4, 1)), np.zeros(2, int), np.array([5, 1]), ValueError, r"1\.\.4, got 1\.\.5"),
        (np.zeros((2, 4, 1)), np.zeros(2, int), np.array([4, 0]), ValueError, r"1\.\.4, got 0\.\.4"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    inputs: np.ndarray, targets: np.ndarray, lengths: np.ndarray | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Split(inputs, targets, lengths)


@pytest.mark.parametrize(("pad_to", "steps"), [(None, 12), (1, 5), (4, 8), (7, 7), (12, 12), (50, 12)])
def test_batches_may_end_at_their_longest_sequence(pad_to: int | None, steps: int) -> None:
    inputs = np.arange(36, dtype=np.float32).reshape(3, 12, 1)
    split = Split(inputs, np.arange(3), np.array([5, 12, 3]), pad_to=pad_to)
    batch = split.batch(np.array([2, 0]))
    assert np.array_equal(batch.inputs.numpy(), inputs[[2, 0], :steps])
    assert split.batch(np.array([1])).inputs.shape[1] == 12


def test_pairs_have_two_lengths_each() -> None:
    inputs = np.arange(3 * 2 * 10).reshape(3, 2, 10)
    split = Split(inputs, np.arange(3), np.array([[5, 2], [10, 1], [3, 6]]), pad_to=3)
    assert split.steps == 10
    batch = split.batch(np.array([0, 2]))
    assert np.array_equal(batch.inputs.numpy(), inputs[[0, 2], :, :6])
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [[5, 2], [3, 6]]


def test_real_targets_stay_real() -> None:
    targets = np.random.RandomState(0).standard_normal((3, 4, 2))
    batch = Split(np.zeros((3, 4, 1)), targets).batch(slice(1, 3))
    assert batch.targets.dtype == torch.float32
    assert np.array_equal(batch.targets.numpy(), targets[1:].astype(np.float32))


@pytest.mark.parametrize(
    ("pad_to", "targets", "lengths"),
    [(0, np.zeros(2, int), np.ones(2, int)), (4, np.zeros(2, int), None), (4, np.zeros((2, 4), int), [1, 1])],
)
def test_padding_that_cannot_be_cut_is_refused(
    pad_to: int, targets: np.ndarray, lengths: np.ndarray | None
) -> None:
    held = None if lengths is None else np.asarray(lengths)
    with pytest.raises(ValueError, match=f"pad_to={pad_to} must be positive and needs lengths"):
        Split(np.zeros((2, 4, 1)), targets, held, pad_to=pad_to)


def test_take_keeps_the_first_rows() -> None:
    assert numbered(5).take(2).targets.tolist() == [0, 1]
    assert len(numbered(5).take(9)) == 5
    with pytest.raises(ValueError, match="count=0"):
        numbered(5).take(0)


def test_hold_out_is_a_partition_in_the_original_order() -> None:
    train, validation = hold_out(numbered(103), fraction=0.1, seed=1)
    assert len(validation) == 10
    assert (np.diff(train.targets) > 0).all()
    assert (np.diff(validation.targets) > 0).all()
    assert sorted([*train.targets, *validation.targets]) == list(range(103))
    assert (train.inputs[:, 0, 0] == train.targets).all()


def test_hold_out_depends_on_its_seed_alone() -> None:
    chosen = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)  # noqa: NPY002 - the global state is what must not matter
        chosen.append(hold_out(numbered(100), seed=seed)[1].targets.tolist())
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]


@pytest.mark.parametrize("fraction", [0.0, 0.001, 1.0, -0.1])
def test_hold_out_never_leaves_a_part_empty(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"fraction={fraction} of 20 rows"):
        hold_out(numbered(20), fraction=fraction)
