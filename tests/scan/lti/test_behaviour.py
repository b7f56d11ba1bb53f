"""What holds beyond the formula: carried states, clean buffers, repeatable bits, digits, types."""

from types import SimpleNamespace

import pytest
import torch

from compressm.scan import lti_scan

FAST = ("convolution", "scan")


@pytest.mark.usefixtures("poisoned_buffers")
@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("N", [4, 130])
def test_no_unwritten_memory_is_read(oracle: SimpleNamespace, form: str, reverse: bool, N: int) -> None:
    given = oracle.operands(3, 21, 4, 3, N, torch.float32)
    for name, value in oracle.gradients(lti_scan, given, form=form, reverse=reverse).items():
        assert value.isfinite().all(), name


@pytest.mark.parametrize("form", ["reference", *FAST])
@pytest.mark.parametrize("reverse", [False, True])
def test_carrying_the_state_over_a_split_changes_nothing(
    oracle: SimpleNamespace, form: str, reverse: bool
) -> None:
    given = oracle.operands(2, 30, 3, 4, 6, torch.float64)
    whole_y, whole_final = lti_scan(**given, form=form, reverse=reverse)
    u, state = given.pop("u"), given.pop("state")
    parts = [u[:, :13], u[:, 13:]]
    outputs = []
    for part in reversed(parts) if reverse else parts:
        y, state = lti_scan(part, **given, state=state, form=form, reverse=reverse)
        outputs.append(y)
    joined = torch.cat(outputs[::-1] if reverse else outputs, dim=1)
    torch.testing.assert_close(joined, whole_y, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, whole_final, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FAST)
def test_the_same_bits_every_time(oracle: SimpleNamespace, form: str) -> None:
    given = oracle.operands(6, 200, 8, 8, 48, torch.float32)
    first, *others = (oracle.gradients(lti_scan, given, form=form) for _ in range(3))
    for other in others:
        for name, value in first.items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("mean", [0.0, 1.0], ids=["centred", "with mean"])
def test_slow_modes_over_long_sequences_keep_their_digits(
    oracle: SimpleNamespace, form: str, mean: float
) -> None:
    """1e-5 in float32, for ``|lambda|`` up to 0.9999 over 16,384 steps and signals with a mean."""
    generator = torch.Generator().manual_seed(0)
    N, L = 24, 16_384
    radius = 1 - torch.logspace(-4, -1, N)
    phase = 6.28 * torch.rand(N, generator=generator)
    phase[:4] = 0
    given = {
        "u": mean + torch.randn(1, L, 2, generator=generator),
        "lam": torch.stack((radius * phase.cos(), radius * phase.sin())),
        "B": torch.randn(2, N, 2, generator=generator) * (1 - radius**2).sqrt()[:, None],
        "C": torch.randn(2, 2, N, generator=generator),
        "state": torch.randn(1, 2, N, generator=generator),
    }
    narrow = {name: value.requires_grad_() for name, value in given.items()}
    wide = {name: value.detach().double().requires_grad_() for name, value in given.items()}

    def run(**operands: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, final = lti_scan(**operands, form=form)
        return y + mean * y.detach(), final  # a gradient with a mean, too

    def exact(**operands: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, final = lti_scan(**operands, form="scan")
        return y + mean * y.detach(), final

    wrong = oracle.errors(oracle.gradients(run, narrow), oracle.gradients(exact, wide))
    assert max(wrong.values()) < 1e-5, wrong


@pytest.mark.parametrize("form", ["auto", "reference", *FAST])
def test_half_precision_of_autocast_stops_at_the_recurrence(oracle: SimpleNamespace, form: str) -> None:
    given = oracle.operands(2, 40, 4, 3, 6, torch.float32)
    wanted = lti_scan(**given, form="reference")
    given["u"] = given["u"].detach().bfloat16()
    rounded = lti_scan(**{**given, "u": given["u"].float()}, form="reference")
    with torch.autocast("cpu", torch.bfloat16):
        y, final = lti_scan(**given, form=form)
    assert y.dtype == final.dtype == torch.float32
    torch.testing.assert_close(y, rounded[0], rtol=1e-5, atol=1e-4)
    assert not torch.allclose(y, wanted[0], rtol=1e-5, atol=1e-4)
    y.sum().backward()
    assert given["lam"].grad is not None
    assert given["lam"].grad.dtype == torch.float32


def test_only_wanted_gradients_arrive(oracle: SimpleNamespace) -> None:
    given = oracle.operands(2, 12, 3, 3, 4, torch.float64)
    frozen = {name: value.detach() for name, value in given.items()}
    frozen["C"].requires_grad_()
    for form in FAST:
        y, _ = lti_scan(**frozen, form=form)
        (grad,) = torch.autograd.grad(y.sum(), [frozen["C"]])
        full, _ = lti_scan(**given, form="reference")
        (wanted,) = torch.autograd.grad(full.sum(), [given["C"]])
        torch.testing.assert_close(grad, wanted, rtol=1e-12, atol=1e-12)


def test_without_gradients_nothing_is_kept(oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []
    from compressm.scan.lti import cpu

    run = cpu.scan_forward

    def spy(*operands: object, reverse: bool, keep: str, half: bool) -> object:
        kept.append(keep)
        return run(*operands, reverse=reverse, keep=keep, half=half)  # type: ignore[arg-type]

    monkeypatch.setattr(cpu, "scan_forward", spy)
    given = oracle.operands(2, 12, 8, 8, 4, torch.float64)
    lti_scan(**given, form="scan")
    with torch.no_grad():
        lti_scan(**given, form="scan")
    lti_scan(**{name: value.detach() for name, value in given.items()}, form="scan")
    assert kept == ["states", "nothing", "nothing"]


@pytest.mark.parametrize("keep", ["states", "checkpoints"])
def test_threads_may_change_between_forward_and_backward(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    """Three sequences are shared in one way by one thread, in another by two."""
    monkeypatch.setattr("compressm.scan.lti.what_to_keep", lambda *_: keep)
    monkeypatch.setattr("compressm.scan.lti.pieces.PIECE_BYTES", 7 * 2 * 20 * 8)
    given = oracle.operands(3, 30, 2, 3, 20, torch.float64)
    wanted = torch.autograd.grad(oracle.naive(**given)[0].sum(), list(given.values()))
    for first, second in ((1, 2), (2, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda: first)  # noqa: B023 - read at once
        y, _ = lti_scan(**given, form="scan")
        monkeypatch.setattr(torch, "get_num_threads", lambda: second)  # noqa: B023 - read at once
        for a, b in zip(torch.autograd.grad(y.sum(), list(given.values())), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_definition(oracle: SimpleNamespace, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for batch in (1, 4):
            given = oracle.operands(batch, 25, 3, 4, 70, torch.float64)
            wanted = oracle.gradients(oracle.naive, given)
            found = oracle.gradients(lti_scan, given, form="scan")
            assert max(oracle.errors(found, wanted).values()) < 1e-13
    finally:
        torch.set_num_threads(before)
