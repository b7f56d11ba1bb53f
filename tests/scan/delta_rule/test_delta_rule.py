"""The delta rule: every form gives the definition, outputs, final state and all gradients."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressm.scan import delta_rule_scan
from compressm.scan.delta_rule import recurrent
from compressm.scan.ssd import packing

Operands = dict[str, Tensor]
SHAPES = [
    pytest.param(1, 1, 1, 2, 1, id="one step"),
    pytest.param(2, 2, 3, 4, 5, id="two steps"),
    pytest.param(1, 37, 2, 1, 3, id="one key channel, a chunk and a part"),
    pytest.param(1, 64, 1, 5, 16, id="a part of values, whole chunks"),
    pytest.param(1, 33, 2, 16, 17, id="a value channel more than a part"),
    pytest.param(2, 65, 1, 12, 32, id="a vector"),
    pytest.param(1, 32, 3, 3, 64, id="a double vector"),
    pytest.param(1, 20, 1, 33, 96, id="three vectors, summed in groups"),
    pytest.param(1, 70, 2, 93, 128, id="two double vectors, 93 key channels"),
    pytest.param(17, 5, 1, 4, 16, id="many sequences"),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6}


def naive(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None = None, *,
    scale: float = 1.0, unit: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The definition: one sequence, head and step after the other, with whole matrices."""
    (batch, L, heads, K), V = q.shape, v.shape[3]
    if unit:
        q, k = (x / torch.sqrt((x**2).sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    outputs, finals = [], []
    for b in range(batch):
        for head in range(heads):
            S = torch.zeros(K, V, dtype=q.dtype) if state is None else state[b, head]
            for t in range(L):
                faded = log_decay[b, t, head].exp() * S
                u = beta[b, t, head] * (v[b, t, head] - faded.T @ k[b, t, head])
                S = faded + torch.outer(k[b, t, head], u)
                outputs.append(scale * (S.T @ q[b, t, head]))
            finals.append(S)
    y = torch.stack(outputs).view(batch, heads, L, V).transpose(1, 2)
    return y, torch.stack(finals).view(batch, heads, K, V)


def operands(
    batch: int, L: int, heads: int, K: int, V: int, dtype: torch.dtype, *, state: bool = True,
    strength: float = 0.3,
) -> Operands:  # fmt: skip
    """Random operands; keys of about half length one, so that the rule is stable without scaling."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    made = {
        "q": normal(batch, L, heads, K),
        "k": normal(batch, L, heads, K) / (4 * K) ** 0.5,
        "v": normal(batch, L, heads, V),
        "beta": torch.sigmoid(normal(batch, L, heads)),
        "log_decay": -strength * normal(batch, L, heads).exp(),
    }
    if state:
        made["state"] = normal(batch, heads, K, V)
    return {name: value.to(dtype).requires_grad_() for name, value in made.items()}


def wide(given: Operands) -> Operands:
    return {name: value.detach().double().requires_grad_() for name, value in given.items()}


def results(run: Any, given: Operands, *, through: str = "both", **options: Any) -> Operands:
    """Outputs, final state, and the gradients of a random weighting of "y", "final" or "both"."""
    y, final = run(**given, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (y, final)]
    chosen = {"y": [0], "final": [1], "both": [0, 1]}[through]
    leaves = {name: x for name, x in given.items() if x.requires_grad}
    grads = torch.autograd.grad(
        [(y, final)[i] for i in chosen], list(leaves.values()), [weights[i] for i in chosen],
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    return {"y": y.detach(), "final": final.detach()} | dict(zip(leaves, grads, strict=True))


def assert_close(found: Operands, wanted: Operands, tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        error = (found[name].double() - value.double()).norm() / max(value.double().norm().item(), 1e-3)
        assert error < tolerance, (name, error)


@pytest.mark.usefixtures("poisoned_buffers")
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize(("batch", "L", "heads", "K", "V"), SHAPES)
def test_every_shape(batch: int, L: int, heads: int, K: int, V: int, form: str, unit: bool) -> None:
    dtype = torch.float32 if form == "recurrent" else torch.float64
    given = operands(batch, L, heads, K, V, dtype)
    wanted = results(naive, wide(given), scale=0.7, unit=unit)
    found = results(delta_rule_scan, given, scale=0.7, unit=unit, form=form)
    if unit and K == 1:  # the length of one number never changes: its gradient is rounding alone
        found, wanted = (
            {name: x for name, x in each.items() if name not in ("q", "k")} for each in (found, wanted)
        )
    assert_close(found, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize("through", ["y", "final"])
@pytest.mark.parametrize("state", [False, True])
def test_every_end_with_and_without_a_state(form: str, through: str, state: bool) -> None:
    given = operands(2, 37, 2, 3, 4, torch.float32, state=state)
    wanted = results(naive, wide(given), through=through)
    assert_close(results(delta_rule_scan, given, through=through, form=form), wanted, 3e-6)


@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 3), (64, 64), (65, 16)])
def test_the_chunk_does_not_matter(length: int, chunk: int) -> None:
    given = operands(2, length, 3, 4, 5, torch.float64)
    found = results(delta_rule_scan, given, chunk_size=chunk)
    assert_close(found, results(naive, given), 1e-12)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_decays_of_any_strength(form: str) -> None:
    """Nothing, and everything, forgotten: steps of minus infinity start anew."""
    given = operands(2, 70, 2, 4, 16, torch.float32)
    with torch.no_grad():
        given["log_decay"][:] = 0
        given["log_decay"][0, 10:] = -200.0
        given["log_decay"][1, 40, 0] = -torch.inf
    found = results(delta_rule_scan, given, form=form)
    assert all(x.isfinite().all() for x in found.values())
    assert_close(found, results(naive, wide(given)), 3e-6)


def test_a_memory_that_fades_leaves_no_slow_numbers() -> None:
    given = operands(1, 2000, 1, 2, 16, torch.float32)
    with torch.no_grad():
        given["beta"][:] = 0
        given["log_decay"][:] = -0.05
        _, final = delta_rule_scan(**given, form="recurrent")
    assert ((final == 0) | (final.abs() > torch.finfo(torch.float32).tiny)).all()


def test_the_memory_recalls_what_was_written_last() -> None:
    """With full strength and orthonormal keys the memory is a table: the latest value of each key."""
    keys = torch.eye(3)[None, [0, 1, 2, 0], None]
    values = torch.arange(8.0).reshape(1, 4, 1, 2)
    one = torch.ones(1, 4, 1)
    for form in ("recurrent", "chunked"):
        _, S = delta_rule_scan(keys, keys, values, one, 0 * one, form=form)
        assert torch.allclose(S[0, 0], values[0, [3, 1, 2], 0])


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.tuples(st.integers(1, 70), st.integers(1, 40)), K=st.integers(1, 20), V=st.integers(1, 70),
    unit=st.booleans(),
)  # fmt: skip
def test_a_sequence_may_be_cut_anywhere(lengths: tuple[int, int], K: int, V: int, unit: bool) -> None:
    first, second = lengths
    made = {name: x.detach() for name, x in operands(1, first + second, 2, K, V, torch.float32).items()}
    start = made.pop("state")
    whole, end = delta_rule_scan(**made, state=start, unit=unit)
    head, middle = delta_rule_scan(**{n: x[:, :first] for n, x in made.items()}, state=start, unit=unit)
    tail, last = delta_rule_scan(**{n: x[:, first:] for n, x in made.items()}, state=middle, unit=unit)
    torch.testing.assert_close(torch.cat((head, tail), 1), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last, end, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["slice", "transposed", "one for all heads"])
def test_operands_may_lie_anywhere(layout: str) -> None:
    laid = {name: value.detach() for name, value in operands(2, 40, 3, 8, 5, torch.float32).items()}
    if layout == "slice":
        everything = torch.full((2, 40, 3, 20), torch.nan)
        everything[..., 2:10], everything[..., 11:19] = laid["q"], laid["k"]
        laid["q"], laid["k"] = everything[..., 2:10], everything[..., 11:19]
    elif layout == "transposed":
        laid = {name: value.mT.contiguous().mT for name, value in laid.items()}
    else:
        laid["q"], laid["k"] = (laid[name][:, :, :1].expand(-1, -1, 3, -1) for name in ("q", "k"))
    assert not laid["q"].is_contiguous()
    plain = {name: value.clone(memory_format=torch.contiguous_format) for name, value in laid.items()}
    found, wanted = (
        results(
            delta_rule_scan, {n: x.requires_grad_() for n, x in each.items()}, form="recurrent", unit=True
        )
        for each in (laid, plain)
    )
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def test_the_number_of_threads_changes_no_bit() -> None:
    given = operands(3, 70, 2, 24, 96, torch.float32)
    assert given["q"].numel() * 96 > packing.SMALL
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(delta_rule_scan, given, unit=True))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


@pytest.mark.parametrize("name", ["q", "k", "v", "beta", "log_decay", "state"])
def test_only_wanted_gradients_arrive(name: str) -> None:
    made = operands(2, 12, 3, 4, 5, torch.float32)
    wanted = results(delta_rule_scan, made)[name]
    one = {other: x.detach().requires_grad_(other == name) for other, x in made.items()}
    y, final = delta_rule_scan(**one)
    assert y.requires_grad
    assert final.requires_grad
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).float() for x in (y, final)]
    (found,) = torch.autograd.grad([y, final], one[name], weights)
    assert torch.equal(found, wanted)


def test_without_gradients_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    run = recurrent._forward

    def spy(*given: Any, keep: bool) -> Any:
        kept.append(keep)
        return run(*given, keep=keep)

    monkeypatch.setattr(recurrent, "_forward", spy)
    made = operands(2, 12, 3, 4, 5, torch.float32)
    delta_rule_scan(**made)
    with torch.no_grad():
        delta_rule_scan(**made)
    delta_rule_scan(**{name: x.detach() for name, x in made.items()})
    assert kept == [True, False, False]


def test_who_watches_operators_sees_them() -> None:
    """Exporters and transforms of functions get the form made of PyTorch's operators: the same numbers."""
    made = {name: x.detach() for name, x in operands(2, 12, 3, 4, 5, torch.float32).items()}
    y, final = delta_rule_scan(**made)
    program = torch.export.export(_Rule(), tuple(made.values()))
    for found, wanted in zip(program.module()(*made.values()), (y, final), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    leaves = {name: x.clone().requires_grad_() for name, x in made.items()}
    grad = results(delta_rule_scan, leaves, through="y")["v"]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(y.shape, generator=generator, dtype=torch.float64).float()

    def loss(v: Tensor) -> Tensor:
        return (weight * delta_rule_scan(**{**made, "v": v})[0]).sum()

    torch.testing.assert_close(torch.func.grad(loss)(made["v"]), grad, rtol=1e-4, atol=1e-5)


class _Rule(torch.nn.Module):
    def forward(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        return delta_rule_scan(*given)


def test_half_precision_stops_at_the_border() -> None:
    made = {name: x.detach().bfloat16() for name, x in operands(2, 12, 3, 4, 5, torch.float32).items()}
    made["state"] = made["state"].float()
    exact = {name: x.float() for name, x in made.items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = delta_rule_scan(**made)
    for value, wanted in zip(found, delta_rule_scan(**exact), strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, wanted)


def test_wrong_uses_say_what_to_do() -> None:
    made = {name: x.detach() for name, x in operands(2, 12, 3, 4, 5, torch.float32).items()}

    def refuse(kind: type[Exception], message: str, **changed: Any) -> None:
        with pytest.raises(kind, match=message):
            delta_rule_scan(**{**made, **changed})

    refuse(TypeError, "delta_rule_scan: beta must be a tensor, got float", beta=0.5)
    refuse(ValueError, r"delta_rule_scan: k must be .* = \(2, 12, 3, 4\)", k=made["k"][..., :3])
    refuse(ValueError, r"delta_rule_scan: beta must be \(batch, L, heads\) = \(2, 12, 3\)", beta=made["q"])
    refuse(
        ValueError, r"delta_rule_scan: log_decay must be \(batch, L, heads\) ", log_decay=-(made["q"] ** 2)
    )
    refuse(ValueError, r"delta_rule_scan: state must be .* = \(2, 3, 4, 5\)", state=made["state"].mT)
    refuse(TypeError, "delta_rule_scan: beta is torch.float64 but q", beta=made["beta"].double())
    refuse(TypeError, "delta_rule_scan: state is torch.float64 but q", state=made["state"].double())
    refuse(
        ValueError,
        "log_decay must not be positive, but its largest entry is 1",
        log_decay=made["beta"] * 0 + 1,
    )
    refuse(ValueError, "form='fast' is not known; choose one of auto, chunked, recurrent", form="fast")
    refuse(ValueError, "chunk_size=0 is below 1", chunk_size=0)
    refuse(ValueError, "chunk_size=8 is for form='chunked'", form="recurrent", chunk_size=8)
    wide_ones = {name: x.double() for name, x in made.items()}
    refuse(
        ValueError, "form='recurrent' serves plain float32 tensors on the CPU", form="recurrent", **wide_ones
    )
