"""Every form computes the definition, and its gradients."""

from types import SimpleNamespace

import pytest
import torch

from compressm.scan import lti_scan
from compressm.scan.lti import cpu, pieces, portable
from compressm.scan.runtime import gemm_addresses

FORMS = ("reference", "convolution", "scan")
# A gradient that is a single number may be a small sum of large terms: more than the usual 1e-6 for that.
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-13}
SHAPES = {  # batch, L, H, P, N
    "odd": (3, 37, 5, 4, 7),
    "one step": (2, 1, 3, 2, 4),
    "two steps": (2, 2, 3, 3, 5),
    "one of each": (1, 9, 1, 1, 1),
    "one sequence": (1, 50, 3, 6, 33),
    "many states": (5, 16, 2, 3, 130),
    "many channels": (3, 21, 40, 36, 20),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("state", [True, False], ids=["state", "zero state"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_outputs_and_every_gradient_match_the_definition(
    oracle: SimpleNamespace,
    form: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    state: bool,
    reverse: bool,
) -> None:
    given = oracle.operands(*shape, dtype, state=state)
    for through in ("both", "y", "final"):
        wanted = oracle.gradients(oracle.naive, given, through=through, reverse=reverse)
        found = oracle.gradients(lti_scan, given, through=through, reverse=reverse, form=form)
        wrong = {k: e for k, e in oracle.errors(found, wanted).items() if not e <= TOLERANCE[dtype]}
        assert not wrong, (through, wrong)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_match_finite_differences(oracle: SimpleNamespace, form: str, reverse: bool) -> None:
    given = oracle.operands(2, 4, 2, 1, 2, torch.float64)

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return lti_scan(*values, form=form, reverse=reverse)

    assert torch.autograd.gradcheck(run, tuple(given.values()), atol=1e-7)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("keep", ["states", "checkpoints"])
@pytest.mark.parametrize("rows", [3, 8, 40, 1000], ids="{} rows".format)
@pytest.mark.parametrize("shared", ["batch", "piece"])
def test_the_compiled_form_may_cut_the_batch_anywhere(
    oracle: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    keep: str,
    reverse: bool,
    rows: int,
    shared: str,
) -> None:
    if shared == "batch" and gemm_addresses() is None:
        pytest.skip("this PyTorch has no MKL whose products a kernel could call")
    given = oracle.operands(5, 19, 4, 3, 17, torch.float64)
    monkeypatch.setattr(pieces, "PIECE_BYTES", rows * 2 * 17 * 8)
    monkeypatch.setattr(cpu, "workers_share_the_batch", lambda _: shared == "batch")
    monkeypatch.setattr("compressm.scan.lti.what_to_keep", lambda *_: keep)
    for through in ("both", "y", "final"):
        wanted = oracle.gradients(oracle.naive, given, through=through, reverse=reverse)
        found = oracle.gradients(lti_scan, given, through=through, reverse=reverse, form="scan")
        assert max(oracle.errors(found, wanted).values()) < 1e-13


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_convolution_may_cut_the_batch_anywhere(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    given = oracle.operands(5, 19, 4, 3, 6, torch.float64)
    wanted = oracle.gradients(oracle.naive, given)
    monkeypatch.setattr("compressm.scan.lti.convolution.PART_BYTES", -(-5 // parts) * 64 * 4 * 8)
    found = oracle.gradients(lti_scan, given, form="convolution")
    assert max(oracle.errors(found, wanted).values()) < 1e-13


@pytest.mark.parametrize("keep", ["states", "checkpoints"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 16, 23])
@pytest.mark.parametrize("through", ["y", "final"])
def test_the_form_for_other_devices_matches_the_definition(
    oracle: SimpleNamespace, keep: str, reverse: bool, length: int, through: str
) -> None:
    given = oracle.operands(3, length, 4, 5, 6, torch.float64)
    wanted = oracle.gradients(oracle.naive, given, through=through, reverse=reverse)
    values = [value.detach() for value in given.values()]
    y, final, kept = portable.scan_forward(*values, reverse=reverse, keep=keep)
    generator = torch.Generator().manual_seed(1)
    weight_y = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    weight_final = torch.randn(final.shape, generator=generator, dtype=torch.float64)
    grads = portable.scan_backward(
        weight_y if through == "y" else None, weight_final if through == "final" else None,
        *values, kept, reverse=reverse, keep=keep,
    )  # fmt: skip
    found = {"y": y, "final": final} | {f"grad_{name}": g for name, g in zip(given, grads, strict=True)}
    assert max(oracle.errors(found, wanted).values()) < 1e-13


@pytest.mark.parametrize("form", FORMS)
def test_views_of_any_layout_are_read_right(oracle: SimpleNamespace, form: str) -> None:
    given = oracle.operands(4, 11, 3, 2, 5, torch.float64)
    shuffled = {
        name: value.detach().movedim(0, -1).contiguous().movedim(-1, 0).requires_grad_()
        for name, value in given.items()
    }
    wanted = oracle.gradients(oracle.naive, given)
    found = oracle.gradients(lti_scan, shuffled, form=form)
    assert max(oracle.errors(found, wanted).values()) < 1e-13


@pytest.mark.parametrize("form", FORMS)
def test_eigenvalues_of_zero_and_one_are_exact(form: str) -> None:
    u = torch.arange(1.0, 7.0).view(1, 6, 1)
    lam = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    B, C = torch.ones(2, 2, 1), torch.stack((torch.eye(2), torch.zeros(2, 2)))
    B[1] = 0
    y, final = lti_scan(u, lam, B, C, form=form)
    torch.testing.assert_close(y[0, :, 0], u[0, :, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(y[0, :, 1], u[0, :, 0].cumsum(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(final[0, 0], torch.tensor([6.0, 21.0]), atol=1e-5, rtol=0)
