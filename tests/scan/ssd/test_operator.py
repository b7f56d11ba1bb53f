"""On kernels the recurrence is one operator to PyTorch's tools."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from compressm.scan import ssd
from compressm.scan.runtime import card
from compressm.scan.ssd import arguments, linear_attention_scan, ops
from compressm.scan.ssd.triton_plan import STEPS, block_of, precision

CHECKS = ("test_schema", "test_faketensor")
both_decays = pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])


@both_decays
@pytest.mark.parametrize("state", [False, True])
def test_the_operators_keep_their_contracts(oracle: SimpleNamespace, per_channel: bool, state: bool) -> None:
    given = oracle.operands(2, 70, 2, 3, 4, torch.float32, per_channel=per_channel, state=state)
    *operands, start = (given.get(name) for name in ("q", "k", "v", "log_decay", "state"))
    for keep in (False, True):
        torch.library.opcheck(
            ops.linear_attention_op,
            (*operands, start, 0.5, keep),
            test_utils=(*CHECKS, "test_autograd_registration"),
        )
    with torch.no_grad():
        y, final, entering = ops.linear_attention_op(*operands, start, 0.5, True)
    detached = [x.detach() for x in operands if x is not None]
    torch.library.opcheck(
        ops.linear_attention_backward_op, (y, final, *detached, entering, 0.5), test_utils=CHECKS
    )


@both_decays
@pytest.mark.parametrize("through", ["y", "final", "both"])
@pytest.mark.parametrize("state", [False, True])
def test_gradients_come_back_to_their_operands(
    oracle: SimpleNamespace, per_channel: bool, through: str, state: bool
) -> None:
    given = oracle.operands(2, 19, 2, 3, 4, torch.float32, per_channel=per_channel, state=state)
    wanted = oracle.gradients(oracle.naive, oracle.wide(given), through=through, scale=0.5)
    found = oracle.gradients(linear_attention_scan, given, through=through, scale=0.5)
    wrong = oracle.errors(found, wanted)
    assert max(wrong.values()) < 2e-6, wrong


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


@both_decays
def test_the_kernels_are_called_directly_unless_somebody_watches(
    oracle: SimpleNamespace, per_channel: bool
) -> None:
    given = oracle.operands(2, 40, 2, 3, 5, torch.float32, per_channel=per_channel)
    y, _ = linear_attention_scan(**given)
    assert "_Node" in y.grad_fn.name()
    (grad,) = torch.autograd.grad(y.square().sum(), given["q"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()  # type: ignore[no-untyped-call]
    directly = oracle.gradients(linear_attention_scan, given)
    with Watch() as watch:
        watched = oracle.gradients(linear_attention_scan, given)
    assert "compressm.linear_attention_scan.default" in watch.seen
    for name, value in directly.items():
        assert torch.equal(watched[name], value), name


@both_decays
def test_cuda_tensors_are_traced_without_a_device(per_channel: bool) -> None:
    with FakeTensorMode():
        sizes = [(2, 130, 3, 12), (2, 130, 3, 12), (2, 130, 3, 5), (2, 130, 3), (2, 3, 12, 5)]
        sizes[3] = (2, 130, 3, 12) if per_channel else sizes[3]
        given = [torch.empty(size, device="cuda") for size in sizes]
        y, final, entering = ops.linear_attention_op(*given, 1.0, True)
        _, _, nothing = ops.linear_attention_op(*given, 1.0, False)
        grads = ops.linear_attention_backward_op(y, final, *given[:-1], entering, 1.0)
    chunks = math.ceil(130 / STEPS["vector" if per_channel else "scalar"])
    assert [tuple(x.shape) for x in (y, final, entering)] == [sizes[2], sizes[4], (2 * 3 * chunks * 12 * 5,)]
    assert nothing.numel() == 0
    assert [tuple(x.shape) for x in grads] == sizes
    assert {x.device.type for x in (y, final, entering, *grads)} == {"cuda"}


class Layer(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(d, 4 * d, generator=generator) / d)

    def forward(self, u: Tensor) -> Tensor:
        q, k, v, gate = (u[:, :, None] @ self.weights).chunk(4, dim=-1)
        y, _ = linear_attention_scan(q, k, v, nn.functional.logsigmoid(gate))
        return y.tanh()


def test_one_graph_trains_at_every_length() -> None:
    layer, graphs = Layer(6), torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=graphs, dynamic=True)
    for L in (9, 40, 70):
        u = torch.randn(2, L, 6, generator=torch.Generator().manual_seed(L))
        wanted = torch.autograd.grad(layer(u).sum(), list(layer.parameters()))
        found = torch.autograd.grad(compiled(u).sum(), list(layer.parameters()))
        torch.testing.assert_close(found, wanted)
    assert sum("linear_attention_scan" in str(made.graph) for made in graphs.graphs) == 1
    torch._dynamo.reset()


def test_exported_for_any_batch_and_length() -> None:
    layer, free = Layer(6), torch.export.Dim.AUTO
    u = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        program = torch.export.export(layer, (u,), dynamic_shapes={"u": {0: free, 1: free}})
        for other in (u, torch.ones(5, 41, 6)):
            torch.testing.assert_close(program.module()(other), layer(other))
    assert "compressm.linear_attention_scan" in str(program.graph)


def test_cuda_tensors_go_to_triton_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Any = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32)
    monkeypatch.setattr(card, "HAS_TRITON", False)
    assert arguments.kernels_of(asked) is None
    monkeypatch.setattr(card, "HAS_TRITON", True)
    assert arguments.kernels_of(asked) == "triton"
    assert arguments.kernels_of(torch.zeros(1)) == "recurrent"
    assert arguments.kernels_of(torch.zeros(1, dtype=torch.float64)) is None
    assert arguments.kernels_of(torch.zeros(1, device="meta")) is None
    asked.dtype = torch.float64
    assert arguments.kernels_of(asked) is None
    pytest.importorskip("triton", reason="Triton has no wheels for this platform")
    assert ops._kernels(asked).__name__ == "compressm.scan.ssd.triton"


def test_a_chunk_size_or_a_name_chooses_the_form(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def kernels(*given: Any) -> tuple[Tensor, Tensor]:
        calls.append("kernels")
        return given[2], given[2]

    def chunked(*given: Any, scale: float, chunk_size: int) -> tuple[Tensor, Tensor]:
        del scale
        calls.append(f"chunked {chunk_size}")
        return given[2], given[2]

    monkeypatch.setattr(ssd, "scan_on_kernels", kernels)
    monkeypatch.setattr(ssd, "chunked_scan", chunked)
    given = oracle.operands(1, 5, 1, 2, 2, torch.float32, per_channel=False)
    linear_attention_scan(**given)
    linear_attention_scan(**given, chunk_size=8)
    linear_attention_scan(**given, form="chunked")
    linear_attention_scan(**given, form="recurrent")
    linear_attention_scan(**oracle.operands(1, 5, 1, 2, 2, torch.float64, per_channel=False))
    assert calls == ["kernels", "chunked 8", "chunked 32", "kernels", "chunked 32"]
    calls.clear()
    for K, per_channel in ((128, False), (129, False), (129, True)):
        linear_attention_scan(**oracle.operands(1, 2, 1, K, 128, torch.float32, per_channel=per_channel))
    assert calls == ["kernels", "chunked 64", "kernels"]


def test_channels_are_padded_as_the_documentation_says() -> None:
    padded = {channels: -(-channels // block_of(channels)) * block_of(channels) for channels in range(1, 300)}
    assert [padded[channels] for channels in (1, 12, 16, 17, 64, 93, 128)] == [16, 16, 16, 32, 64, 96, 128]
    assert all(size < channels + 32 for channels, size in padded.items())


def test_precision_follows_pytorchs_setting(tf32: str) -> None:
    assert precision() == "tf32"
    torch.backends.cuda.matmul.fp32_precision = tf32
    assert precision() == "tf32x3"
