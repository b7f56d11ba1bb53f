"""What holds beyond the formula: carried states, clean buffers, repeatable bits, extreme decays, memory."""

from types import SimpleNamespace

import pytest
import torch

from compressm.scan.selective import selective_scan


@pytest.mark.usefixtures("poisoned_buffers")
@pytest.mark.parametrize("gated", [False, True])
def test_no_unwritten_memory_is_read(oracle: SimpleNamespace, gated: bool) -> None:
    given = oracle.operands(3, 45, 37, 5, torch.float32, given=("z",) if gated else ("D", "state"))
    for name, value in oracle.gradients(selective_scan, given, form="scan").items():
        assert value.isfinite().all(), name


@pytest.mark.parametrize("form", ["reference", "scan"])
@pytest.mark.parametrize("cut", [1, 32, 41])
def test_carrying_the_state_over_a_split_changes_nothing(
    oracle: SimpleNamespace, form: str, cut: int
) -> None:
    given = oracle.operands(2, 70, 6, 5, torch.float32)
    whole = selective_scan(**given, form=form)
    state, outputs = given.pop("state"), []
    per_step = {name: given.pop(name) for name in ("u", "delta", "B", "C", "z")}
    for part in (slice(None, cut), slice(cut, None)):
        here = {name: value[:, part] for name, value in per_step.items()}
        y, state = selective_scan(**here, **given, state=state, form=form)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, whole[1], rtol=1e-5, atol=1e-5)


def test_the_same_bits_every_time_on_any_number_of_threads(oracle: SimpleNamespace) -> None:
    given = oracle.operands(3, 100, 80, 12, torch.float32)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            found.append(oracle.gradients(selective_scan, given, form="scan"))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("d", [64, 37])
def test_slices_of_projections_are_read_where_they_lie(oracle: SimpleNamespace, d: int) -> None:
    given = oracle.operands(3, 45, d, 5, torch.float32)
    wanted = oracle.gradients(selective_scan, given, form="scan")
    around = {name: torch.full((3, 45, given[name].shape[2] + 9), torch.nan) for name in ("B", "C", "z")}
    for name, whole in around.items():
        part = whole[..., 4:-5]
        given[name] = part.copy_(given[name].detach()).requires_grad_()
        assert not part.is_contiguous()
    for name, value in oracle.gradients(selective_scan, given, form="scan").items():
        assert torch.equal(value, wanted[name]), name


@pytest.mark.parametrize("rate", [1e-4, 1.0, 1e3], ids=["weak", "middling", "strong"])
def test_long_sequences_keep_their_digits(oracle: SimpleNamespace, rate: float) -> None:
    """4,096 steps against the reference in float64, with decays per step from 1 - 1e-5 to nothing."""
    generator = torch.Generator().manual_seed(0)
    L, d, N = 4096, 3, 4

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    given = {
        "u": 1 + normal(1, L, d),
        "delta": 0.1 * (1 + torch.rand(1, L, d, generator=generator)),
        "A": -rate * torch.logspace(-1, 1, N).expand(d, N),
        "B": normal(1, L, N),
        "C": normal(1, L, N),
        "state": normal(1, d, N),
    }
    narrow = {name: value.clone().requires_grad_() for name, value in given.items()}
    wanted = oracle.gradients(selective_scan, oracle.wide(given))
    wrong = oracle.errors(oracle.gradients(selective_scan, narrow, form="scan"), wanted)
    assert max(wrong.values()) < 2e-5, wrong


def test_states_that_fade_end_in_zero(oracle: SimpleNamespace) -> None:
    """After a while without input nothing subnormal is left, neither of states nor of gradients."""
    given = oracle.operands(1, 2000, 32, 4, torch.float32, given=("state",))
    quiet = {**given, "u": torch.zeros_like(given["u"]), "A": -torch.ones(32, 4)}
    y, final = selective_scan(**quiet)
    assert (final == 0).all()
    assert y[0, 0].abs().max() > 0
    (grad,) = torch.autograd.grad(final.sum() + y[:, -1].sum(), [given["state"]])
    assert (grad == 0).all()


def test_growth_beyond_all_numbers_is_infinite_and_not_a_number_stays(oracle: SimpleNamespace) -> None:
    given = oracle.operands(1, 3, 2, 2, torch.float32, given=("state",))
    given = {name: value.detach().abs() for name, value in given.items()}
    given["A"] = -given["A"]
    growing = {**given, "delta": torch.full((1, 3, 2), -1e4)}
    for form in ("scan", "reference"):
        assert not selective_scan(**growing, form=form)[1].isfinite().any(), form
    for name in ("u", "delta", "A", "B", "C", "state"):
        broken = {**given, name: torch.full_like(given[name], torch.nan)}
        assert selective_scan(**broken, form="scan")[0].isnan().all(), name


def test_a_step_of_zero_length_changes_nothing(oracle: SimpleNamespace) -> None:
    given = oracle.operands(2, 40, 5, 3, torch.float32, given=("state",))
    _, final = selective_scan(**{**given, "delta": torch.zeros_like(given["delta"])})
    assert torch.equal(final, given["state"])


def test_operands_in_any_memory_order(oracle: SimpleNamespace) -> None:
    given = oracle.operands(2, 40, 6, 5, torch.float32)
    wanted = oracle.gradients(selective_scan, given)
    strided = {
        name: (value.detach().mT.contiguous().mT if value.ndim > 1 else value.detach()).requires_grad_()
        for name, value in given.items()
    }
    assert not strided["u"].is_contiguous()
    for name, value in oracle.gradients(selective_scan, strided).items():
        assert torch.equal(value, wanted[name]), name


def test_memory_for_the_backward_pass_is_one_state_in_32_steps(oracle: SimpleNamespace) -> None:
    batch, L, d, N = 2, 320, 64, 24
    given = oracle.operands(batch, L, d, N, torch.float32)
    kept: list[int] = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y, _ = selective_scan(**given)
    assert y.requires_grad
    operand_size = sum(value.numel() for value in given.values()) + y.numel()
    assert batch * L * d * N // 32 <= sum(kept) <= batch * L * d * N // 32 + operand_size


def test_without_gradients_nothing_is_kept(oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from compressm.scan.selective import cpu

    kept: list[bool] = []
    run = cpu.scan_forward

    def spy(*operands: object, softplus: bool, keep: bool) -> object:
        kept.append(keep)
        return run(*operands, softplus=softplus, keep=keep)  # type: ignore[arg-type]

    monkeypatch.setattr(cpu, "scan_forward", spy)
    given = oracle.operands(2, 12, 8, 4, torch.float32)
    selective_scan(**given)
    with torch.no_grad():
        selective_scan(**given)
    selective_scan(**{name: value.detach() for name, value in given.items()})
    assert kept == [True, False, False]


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "state"])
def test_only_wanted_gradients_arrive(oracle: SimpleNamespace, name: str) -> None:
    given = oracle.operands(2, 12, 3, 4, torch.float32)
    wanted = oracle.gradients(selective_scan, given)
    frozen = {other: value.detach() for other, value in given.items() if other != name}

    def run(**one: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return selective_scan(**frozen, **one)

    found = oracle.gradients(run, {name: given[name]})
    assert torch.equal(found[f"grad_{name}"], wanted[f"grad_{name}"])


@pytest.mark.parametrize("form", ["auto", "reference", "scan"])
def test_half_precision_of_autocast_stops_at_the_recurrence(oracle: SimpleNamespace, form: str) -> None:
    given = oracle.operands(2, 40, 4, 6, torch.float32)
    given["u"] = given["u"].detach().bfloat16()
    wanted = selective_scan(**{**given, "u": given["u"].float()})
    with torch.autocast("cpu", torch.bfloat16):
        y, final = selective_scan(**given, form=form)
    assert y.dtype == final.dtype == torch.float32
    torch.testing.assert_close(y, wanted[0], rtol=1e-5, atol=1e-5)
    y.sum().backward()
    assert given["A"].grad is not None
    assert given["A"].grad.dtype == torch.float32
