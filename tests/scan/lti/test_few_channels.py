"""The kernels for few channels at the borders of their chunks, blocks and groups."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compressm.scan import lti_scan
from compressm.scan.lti import few_channels, tiles
from compressm.scan.lti.few_channels_layout import STEPS
from compressm.scan.runtime.widths import LANES

TOLERANCE = 2e-6


@pytest.fixture(params=[1, 2, 3], ids="{} threads".format)
def threads(request: pytest.FixtureRequest) -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("L", [1, 4, 7, STEPS - 1, STEPS, STEPS + 1, 3 * STEPS + 5])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_time_ends_anywhere_in_a_chunk(oracle: SimpleNamespace, L: int, reverse: bool) -> None:
    given = oracle.operands(2, L, 8, 8, 20, torch.float32)
    wanted = oracle.gradients(oracle.naive, given, reverse=reverse)
    found = oracle.gradients(lti_scan, given, reverse=reverse, form="scan")
    assert max(oracle.errors(found, wanted).values()) < TOLERANCE


@pytest.mark.parametrize("N", [1, 15, 16, 17, 48])
@pytest.mark.parametrize(("H", "P"), [(1, 32), (32, 1), (7, 9), (8, 16), (31, 24)])
def test_any_number_of_channels_and_states(oracle: SimpleNamespace, H: int, P: int, N: int) -> None:
    given = oracle.operands(2, 70, H, P, N, torch.float32)
    wanted = oracle.gradients(oracle.naive, given)
    found = oracle.gradients(lti_scan, given, form="scan")
    assert max(oracle.errors(found, wanted).values()) < TOLERANCE


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("N", [5, 40])
def test_threads_share_sequences_or_states(oracle: SimpleNamespace, threads: int, batch: int, N: int) -> None:
    given = oracle.operands(batch, 100, 4, 5, N, torch.float32)
    for through in ("both", "y", "final"):
        wanted = oracle.gradients(oracle.naive, given, through=through)
        found = oracle.gradients(lti_scan, given, through=through, form="scan")
        assert max(oracle.errors(found, wanted).values()) < TOLERANCE, (threads, through)


def test_what_is_not_finite_stays_in_its_sequence(threads: int) -> None:
    # Rows and states that fill chunks and blocks up are read by products: they must not carry anything over.
    u = torch.randn(3, STEPS + 3, 8)
    u[1, -1] = torch.inf
    lam = torch.tensor([[0.9] * 5, [0.1] * 5])
    B, C = torch.randn(2, 5, 8), torch.randn(2, 8, 5)
    u.requires_grad_()
    y, final = lti_scan(u, lam, B, C, form="scan")
    (grad,) = torch.autograd.grad(y.sum(), u)
    assert y[[0, 2]].isfinite().all(), threads
    assert final[[0, 2]].isfinite().all()
    assert grad[[0, 2]].isfinite().all()
    assert not y[1, -1].isfinite().all()
    assert y[1, :-1].isfinite().all()


@pytest.mark.parametrize("rows", ["two", "four"])
def test_products_of_either_number_of_rows(rows: str) -> None:
    """The processor decides which of the two is used: both are tested on any."""
    generator = np.random.default_rng(0)
    steps, width, count = 24, 16, 11
    channels, weights, block = (
        generator.normal(size=shape).astype(np.float32)
        for shape in ((steps, width), (width, LANES), (steps, LANES))
    )
    channels[:, count:] = 0
    found = np.empty((steps, LANES), np.float32)
    project, correlate = getattr(tiles, f"project_{rows}"), getattr(tiles, f"correlate_{rows}")
    project(channels.ravel(), width, count, weights.ravel(), found.ravel(), steps)
    np.testing.assert_allclose(found, channels @ weights, rtol=1e-5, atol=1e-5)
    sums = np.ones((width, LANES), np.float32)
    correlate(channels.ravel(), width, count, block.ravel(), sums.ravel(), steps - 1)
    np.testing.assert_allclose(sums, 1 + channels[:-1].T @ block[:-1], rtol=1e-5, atol=1e-5)


def test_wide_layers_and_double_precision_are_left_to_matrix_products() -> None:
    assert few_channels.suits(32, 1, torch.float32)
    assert not few_channels.suits(33, 1, torch.float32)
    assert not few_channels.suits(1, 1, torch.float64)
