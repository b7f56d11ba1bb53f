"""What holds beyond the formula: carried states, extreme decays, repeatable bits, types, tracing."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from compressm.scan.ssd import linear_attention_scan

both_decays = pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])


@both_decays
@pytest.mark.parametrize("cut", [1, 32, 50])
def test_carrying_the_state_over_a_split_changes_nothing(
    oracle: SimpleNamespace, per_channel: bool, cut: int
) -> None:
    given = oracle.operands(2, 70, 2, 4, 3, torch.float64, per_channel=per_channel, strength=0.1)
    whole = linear_attention_scan(**given)
    state, outputs = given.pop("state"), []
    for part in (slice(None, cut), slice(cut, None)):
        y, state = linear_attention_scan(**{name: x[:, part] for name, x in given.items()}, state=state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, whole[1], rtol=1e-12, atol=1e-12)


@both_decays
@pytest.mark.parametrize("strength", [1e-5, 1.0, 1e3], ids=["weak", "strong", "strongest"])
def test_long_sequences_keep_their_digits(
    oracle: SimpleNamespace, per_channel: bool, strength: float
) -> None:
    """4,096 steps in float32 against the reference in float64: nothing overflows, nothing fades."""
    given = oracle.operands(1, 4096, 1, 4, 3, torch.float32, per_channel=per_channel, strength=strength)
    wanted = oracle.gradients(linear_attention_scan, oracle.wide(given), form="reference")
    found = oracle.gradients(linear_attention_scan, given)
    wrong = oracle.errors(found, wanted, floor=1e-2)
    assert max(wrong.values()) < 2e-5, wrong


@both_decays
def test_weak_decays_after_strong_ones_keep_their_digits(oracle: SimpleNamespace, per_channel: bool) -> None:
    """The sum of logarithms is -1e7 by then: no difference of float32 sums would know the next ones."""
    given = oracle.operands(1, 64, 1, 4, 3, torch.float32, per_channel=per_channel, strength=0.01)
    given["log_decay"].data[:, :10] = -1e6
    wanted = oracle.gradients(linear_attention_scan, oracle.wide(given), form="reference")
    for options in ({"chunk_size": 16}, {"chunk_size": 64}, {"form": "recurrent"}):
        found = oracle.gradients(linear_attention_scan, given, **options)
        wrong = oracle.errors(found, wanted)
        assert max(wrong.values()) < 2e-6, wrong


@both_decays
def test_a_decay_to_nothing_forgets(oracle: SimpleNamespace, per_channel: bool) -> None:
    given = oracle.operands(1, 40, 1, 4, 3, torch.float32, per_channel=per_channel, strength=0.1)
    y, _ = linear_attention_scan(**given)
    with torch.no_grad():
        given["log_decay"][:, 20] = -1e4
        forgetful = {name: x.detach().clone() for name, x in given.items()}
        forgetful["v"][:, :20] = 1e3
        forgetful["state"].fill_(1e3)
    kept, other = linear_attention_scan(**given)[0], linear_attention_scan(**forgetful)[0]
    torch.testing.assert_close(kept[:, 20:], other[:, 20:], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(kept[:, :20], other[:, :20], rtol=1e-2, atol=1e-2)
    assert not torch.allclose(kept[:, 20:], y[:, 20:], rtol=1e-2, atol=1e-2)


@both_decays
def test_a_decay_of_zero_has_a_logarithm(oracle: SimpleNamespace, per_channel: bool) -> None:
    given = oracle.operands(1, 40, 1, 4, 3, torch.float64, per_channel=per_channel, strength=0.1)
    given["log_decay"].data[:, [0, 3, 20]] = -float("inf")
    wanted = oracle.gradients(oracle.naive, given)
    for form in ("reference", "chunked"):
        wrong = oracle.errors(oracle.gradients(linear_attention_scan, given, form=form), wanted)
        assert all(error <= 1e-12 for error in wrong.values()), (form, wrong)
    narrow = {name: value.detach().float().requires_grad_() for name, value in given.items()}
    wrong = oracle.errors(oracle.gradients(linear_attention_scan, narrow, form="recurrent"), wanted)
    assert all(error <= 2e-6 for error in wrong.values()), wrong


@both_decays
@pytest.mark.usefixtures("poisoned_buffers")
def test_no_unwritten_memory_is_read(oracle: SimpleNamespace, per_channel: bool) -> None:
    given = oracle.operands(1, 45, 2, 5, 33, torch.float32, per_channel=per_channel)
    for name, value in oracle.gradients(linear_attention_scan, given, form="recurrent").items():
        assert value.isfinite().all(), name


@both_decays
def test_what_is_no_number_is_not_hidden(oracle: SimpleNamespace, per_channel: bool) -> None:
    given = oracle.operands(1, 40, 1, 4, 3, torch.float32, per_channel=per_channel)
    given["log_decay"].data[:, 5] = torch.nan
    y, final = linear_attention_scan(**given, form="recurrent")
    assert y[:, :5].isfinite().all()
    assert y[:, 5:].isnan().all()
    assert final.isnan().all()


@both_decays
def test_the_same_bits_every_time_on_any_number_of_threads(
    oracle: SimpleNamespace, per_channel: bool
) -> None:
    given = oracle.operands(2, 300, 3, 16, 48, torch.float32, per_channel=per_channel)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 3, 2):
            torch.set_num_threads(number)
            found.append(oracle.gradients(linear_attention_scan, given))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(value, other[name]), name


@both_decays
@pytest.mark.parametrize("form", ["recurrent", "chunked", "reference"])
def test_half_precision_of_autocast_stops_at_the_recurrence(
    oracle: SimpleNamespace, per_channel: bool, form: str
) -> None:
    given = oracle.operands(2, 40, 2, 4, 3, torch.float32, per_channel=per_channel)
    given["q"] = given["q"].detach().bfloat16()
    wanted = linear_attention_scan(**{**given, "q": given["q"].float()})
    with torch.autocast("cpu", torch.bfloat16):
        y, final = linear_attention_scan(**given, form=form)
    assert y.dtype == final.dtype == torch.float32
    torch.testing.assert_close(y, wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(final, wanted[1], rtol=1e-5, atol=1e-5)


class Layer(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(d, 4 * d, generator=generator) / d)

    def forward(self, u: Tensor) -> Tensor:
        q, k, v, gate = (u[:, :, None] @ self.weights).chunk(4, dim=-1)
        y, _ = linear_attention_scan(q, k, v, nn.functional.logsigmoid(gate), chunk_size=8)
        return y.tanh()


def test_compiled_whole_without_a_break() -> None:
    layer = Layer(3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    u = torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(0))
    (wanted,) = torch.autograd.grad(layer(u).sum(), [layer.weights])
    (found,) = torch.autograd.grad(compiled(u).sum(), [layer.weights])
    torch.testing.assert_close(found, wanted)
    torch._dynamo.reset()
