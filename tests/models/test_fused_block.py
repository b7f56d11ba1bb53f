"""A block with its parts inside one another, against its parts and against float64."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from compressm.layers import LRU, S5, RotationSSM, StateSpaceLayer
from compressm.models import Block
from compressm.models import block as block_module
from compressm.scan.runtime import team
from compressm.scan.runtime.blas import gemm_addresses

needs_mkl = pytest.mark.skipif(gemm_addresses() is None, reason="PyTorch is built without MKL's products")
LAYERS: dict[str, Callable[[int, int], StateSpaceLayer]] = {"LRU": LRU, "S5": S5, "rotation": RotationSSM}


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count how often blocks run fused."""
    calls, run = [], block_module.fused_block

    def counting(*given: object, **named: object) -> tuple[Tensor, Tensor, Tensor]:
        calls.append(1)
        return run(*given, **named)  # type: ignore[arg-type]

    block_module.fused_block = counting  # type: ignore[assignment]
    try:
        yield calls
    finally:
        block_module.fused_block = run


@contextmanager
def by_parts() -> Iterator[None]:
    """Let no block run fused."""
    serves = block_module.serves
    block_module.serves = lambda *_: False
    try:
        yield
    finally:
        block_module.serves = serves


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def example(
    batch: int, L: int, H: int, N: int, *, p: float = 0.0, layer: str = "LRU"
) -> tuple[Block, Tensor]:
    """A block in training mode, and inputs that are not normalised."""
    torch.manual_seed(batch + L + H + N)
    return Block(LAYERS[layer](H, N), H, dropout=p), 1.5 * torch.randn(batch, L, H) + 0.5


def step(block: Block, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Outputs, all gradients and running statistics of a copy of the block."""
    block, x = copy.deepcopy(block), x.clone().requires_grad_()
    torch.manual_seed(3)
    out, _ = block(x, mask=mask, final_state=False)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(4)).to(out.dtype)
    names, parameters = zip(*block.named_parameters(), strict=True)
    gradients = torch.autograd.grad((out * weight).sum(), (x, *parameters))
    found = {"out": out.detach()} | dict(zip(("x", *names), gradients, strict=True))
    return found | {"mean": block.norm.running_mean, "var": block.norm.running_var}


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Norm-wise relative errors below the tolerance."""
    for name, value in expected.items():
        error = float((found[name].double() - value.double()).norm() / value.double().norm())
        assert error < tolerance, f"{name}: {error}"


@needs_mkl
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("batch", "L", "H", "N"),
    [
        (2, 64, 64, 5),
        (4, 700, 512, 31),  # several pieces a sequence, the last shorter
        (6, 50, 72, 20),  # several sequences a piece; channels in no whole vectors
        (4, 40, 64, 300),  # states are not kept
    ],
)
def test_outputs_gradients_and_statistics_are_those_of_float64(
    batch: int, L: int, H: int, N: int, count: int
) -> None:
    block, x = example(batch, L, H, N)
    with threads(count), counted() as calls:
        found = step(block, x)
    assert calls == [1]
    expected = step(copy.deepcopy(block).double(), x.double())
    assert_near(found, expected, 2e-5)
    with threads(count), by_parts():
        parts = step(block, x)
    for name, value in expected.items():  # no worse than the parts
        errors = [float((each[name].double() - value).norm() / value.norm()) for each in (found, parts)]
        assert errors[0] < 1.5 * errors[1] + 1e-7, name


@needs_mkl
@settings(max_examples=25, deadline=None)
@given(
    batch=st.sampled_from([2, 4, 6]),
    L=st.integers(33, 90),
    H=st.integers(64, 100),
    N=st.integers(1, 80),
    p=st.sampled_from([0.0, 0.1, 0.5]),
    layer=st.sampled_from(sorted(LAYERS)),
    data=st.sampled_from([None, 0.0, 0.1, 0.5, 0.99]),
)
def test_it_is_its_parts_with_the_same_dropout_and_masks(
    batch: int, L: int, H: int, N: int, p: float, layer: str, data: float | None
) -> None:
    block, x = example(batch, L, H, 2 * N, p=p, layer=layer)
    mask = None if data is None else torch.rand(batch, L) < data
    if mask is not None:
        mask[0, :2] = mask[-1, L // 2 :] = True
    with threads(2), counted() as calls:
        found = step(block, x, mask)
    assert calls == [1]
    with threads(2), by_parts():
        assert_near(found, step(block, x, mask), 2e-5)


@needs_mkl
def test_padding_is_out_of_everything() -> None:
    block, x = example(2, 300, 64, 9)
    mask = torch.arange(300) < torch.tensor([[300], [120]])
    clean = step(block, x * mask[..., None], mask)
    exact = step(copy.deepcopy(block).double(), (x * mask[..., None]).double(), mask)
    assert_near(clean, exact, 2e-5)
    x[~mask] = 1e30  # whatever a batch was filled up with
    found = step(block, x, mask)
    for name, value in clean.items():
        if name in ("x", "out"):
            assert torch.equal(found[name][mask], value[mask]), name
        else:
            assert torch.equal(found[name], value), name


@needs_mkl
def test_one_step_of_data_is_refused_as_by_the_parts() -> None:
    block, x = example(2, 64, 64, 9)
    mask = torch.zeros(2, 64, dtype=torch.bool)
    mask[0, 0] = True
    with pytest.raises(ValueError, match="more than 1 value"):
        block(x, mask=mask, final_state=False)
    with pytest.raises(IndexError):  # a mask of another length
        block(x, mask=torch.ones(2, 65, dtype=torch.bool), final_state=False)


@needs_mkl
def test_a_backward_pass_may_run_twice_and_be_checkpointed() -> None:
    block, x = example(2, 64, 64, 9, p=0.2)
    given = x.clone().requires_grad_()
    torch.manual_seed(0)
    out, _ = block(given, final_state=False)
    first, second = (torch.autograd.grad(out.square().sum(), given, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(0)
    with counted() as calls:
        again = checkpoint(lambda x: block(x, final_state=False)[0], given, use_reentrant=False)
        (third,) = torch.autograd.grad(again.square().sum(), given)
    assert len(calls) == 2
    assert torch.equal(first, third)


@needs_mkl
def test_no_second_derivative_is_promised() -> None:
    block, x = example(2, 64, 64, 9)
    given = x.requires_grad_()
    (grad,) = torch.autograd.grad(block(given, final_state=False)[0].square().sum(), given, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def _hooked(module: nn.Module) -> None:
    module.register_forward_hook(lambda *_: None)


class _Own(LRU):
    def forward(
        self, u: Tensor, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor]:
        y, last = super().forward(u, state, final_state=final_state)
        return 2 * y, last


def _patched(block: Block) -> None:
    forward = block.mixer.forward
    block.mixer.forward = lambda *given, **named: forward(*given, **named)  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[Block], object]] = {
    "a hook on the norm": lambda block: _hooked(block.norm),
    "a hook on the layer": lambda block: _hooked(block.mixer),
    "another forward": _patched,
    "a layer compiled in place": lambda block: block.mixer.compile(backend="eager"),
    "a subclass": lambda block: block.register_module("mixer", _Own(64, 9)),
    "both directions": lambda block: block.register_module("mixer", LRU(64, 9, bidirectional=True)),
    "evaluation": lambda block: block.eval(),
    "a norm that is kept": lambda block: block.norm.eval(),
    "float64": lambda block: block.double(),
    "nothing to learn": lambda block: block.requires_grad_(requires_grad=False),
}


@needs_mkl
@pytest.mark.parametrize("change", sorted(CHANGES))
def test_whoever_watches_or_differs_gets_the_parts(change: str) -> None:
    block, x = example(2, 64, 64, 9)
    CHANGES[change](block)
    x = x.to(block.glu.weight.dtype)
    before = copy.deepcopy(block.state_dict())
    with counted() as calls:
        out, _ = block(x, final_state=False)
    block.load_state_dict(before)
    with by_parts():
        assert torch.equal(out, block(x, final_state=False)[0])
    assert not calls


@needs_mkl
def test_states_final_states_and_autocast_get_the_parts() -> None:
    block, x = example(2, 64, 64, 9)
    with counted() as calls:
        block(x, final_state=True)
        block(x, torch.zeros(2, 2, 9), final_state=False)
        with torch.autocast("cpu", torch.bfloat16):
            block(x, final_state=False)
        with torch.no_grad():
            block(x, final_state=False)
        torch.func.functional_call(block, dict(block.named_parameters()), (x,), {"final_state": False})
    assert len(calls) == 1  # the last


@needs_mkl
def test_fewer_workers_than_asked_for_leave_no_sum_unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP gives fewer threads inside another parallel region."""
    block, x = example(6, 64, 64, 9)
    with threads(1):
        expected = step(block, x)
    parallel = team._gomp_parallel()
    if parallel is None:
        pytest.skip("without OpenMP there are always as many workers as were asked for")
    monkeypatch.setattr(
        team, "_gomp_parallel", lambda: lambda kernel, words, _, flags: parallel(kernel, words, 1, flags)
    )
    torch.full((4, 64 * 18), torch.nan)  # memory that the sums may get
    with threads(2):
        found = step(block, x)
    assert_near(found, expected, 1e-6)


@needs_mkl
def test_memory_is_of_the_processor_whatever_new_tensors_are_by_default() -> None:
    block, x = example(2, 64, 64, 9)
    expected = step(block, x)
    given = x.clone().requires_grad_()
    with torch.device("meta"), counted() as calls:
        out, _ = block(given, final_state=False)
        out.sum().backward()
    assert len(calls) == 1
    assert torch.equal(out, expected["out"])
