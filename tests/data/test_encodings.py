import pickle

import numpy as np
import pytest
import torch

from compressm.data.encodings import Grey, Normalised, OneHot, Permuted, Scaled

PIXELS = np.random.RandomState(3).randint(0, 256, size=(4, 6, 3)).astype(np.uint8)


def encode(encoding: object, stored: np.ndarray) -> np.ndarray:
    """As another process would: through a pickle."""
    result = pickle.loads(pickle.dumps(encoding))(torch.from_numpy(stored.copy()))  # noqa: S301 - made here
    assert result.dtype == torch.float32
    return result.numpy()


def test_channels_are_normalised_each_by_its_own_figures() -> None:
    mean, std = (0.5, 0.25, 0.75), (0.2, 0.4, 0.8)
    expected = np.stack([(PIXELS[..., c] / 255 - mean[c]) / std[c] for c in range(3)], axis=-1)
    encoding = Normalised(mean, std)
    assert np.allclose(encode(encoding, PIXELS), expected, atol=1e-6)
    rows = PIXELS.reshape(4, 2, 9)
    assert np.allclose(encode(encoding, rows), expected.reshape(4, 2, 9), atol=1e-6)


def test_grey_is_the_eyes_brightness() -> None:
    colours = np.array([[[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert np.allclose(encode(Grey(0.0, 1.0), colours)[0, :, 0], [1, 0.299, 0.587, 0.114], atol=1e-6)
    assert np.allclose(encode(Grey(0.5, 0.25), colours)[0, 0], 2.0, atol=1e-6)


def test_steps_are_permuted_for_all_rows_alike() -> None:
    stored = PIXELS[..., :1]
    assert np.array_equal(
        encode(Permuted((5, 0, 3, 1, 2, 4)), stored), stored[:, [5, 0, 3, 1, 2, 4]] / np.float32(255)
    )


def test_samples_are_scaled() -> None:
    assert encode(Scaled(32768), np.array([[-32768, 0, 16384]], np.int16)).tolist() == [[-1, 0, 0.5]]


def test_tokens_become_unit_vectors() -> None:
    ids = np.array([[[0, 2], [1, 1]]], np.uint8)
    assert np.array_equal(encode(OneHot(3), ids), np.eye(3, dtype=np.float32)[ids])
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        OneHot(2)(torch.from_numpy(ids))
