"""Mamba on a CPU, from inputs to outputs, one sequence after the other.

What :mod:`compressm.layers.mamba_inner` does for a whole batch, and both projections around it, is here a
program that every core takes its own sequences through: the rows that a product makes are still in its cache
when convolution, recurrence or the next product reads them. That needs at least as many sequences as cores.
The norm in front of a residual block and its sum may be part of the program.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from compressm.layers.mamba_gradients import Gradients, gathering_program
from compressm.layers.mamba_programs import backward_program, forward_program
from compressm.layers.mamba_sizes import Sizes
from compressm.scan.runtime import STORED, Kernel, run_kernel, workers_share
from compressm.scan.runtime.program import can_multiply
from compressm.scan.runtime.tracing import observed, plain
from compressm.scan.runtime.widths import LANES
from compressm.scan.selective.layout import pack, unpack

_LARGEST = 1 << 21
"""Weights of both projections, beyond which products of a whole batch are no slower: each sequence reads them
anew and adds to their gradients, which no core's cache holds then."""

_PACK_PARAMETERS = Kernel("compressm.layers.mamba_kernels", "pack_parameters")
_ONE = torch.ones(1, dtype=torch.float32, device="cpu")


class LayerOperands(NamedTuple):
    """What :func:`mamba_by_sequences` reads.

    Args:
        u: Inputs ``(batch, L, H)``.
        in_weight: ``(2d, H)``, rows of channels ``x``, then of gates ``z``.
        filters: Weights of the convolution, ``(d, 1, K)``.
        filter_bias: ``(d,)``.
        select: ``(dt_rank + 2N, d)``, rows of ``Δ``, ``B`` and ``C``.
        dt_weight: ``(d, dt_rank)``.
        dt_bias: ``(d,)``.
        A_log: ``(d, N)``.
        D: ``(d,)``.
        out_weight: ``(H, d)``.
        window: Last inputs of the convolution before the first, ``(batch, d, K - 1)``; zero if None.
        state: ``(batch, d, N)``; zero if None.
        norm_weight: ``(H,)``, of a root-mean-square norm that inputs pass first; outputs are then added to
            the inputs, which are float32. Neither if None.
        eps: Added to the mean square in that norm, a number of float64.
    """

    u: Tensor
    in_weight: Tensor
    filters: Tensor
    filter_bias: Tensor | None
    select: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    out_weight: Tensor
    window: Tensor | None
    state: Tensor | None
    norm_weight: Tensor | None = None
    eps: Tensor | None = None

    @property
    def rows_dtype(self) -> torch.dtype | None:
        """What has a row for each step is of this type, or not of one that is served."""
        if torch.is_autocast_enabled("cpu"):
            half = torch.get_autocast_dtype("cpu")
            return half if half == torch.bfloat16 else None
        same = self.in_weight.dtype == self.out_weight.dtype == self.select.dtype == self.u.dtype
        return self.u.dtype if same and self.u.dtype in STORED else None

    @property
    def sizes(self) -> Sizes:
        """What its programs depend on."""
        (_, L, H), (d, N), dtype = self.u.shape, self.A_log.shape, self.rows_dtype or self.u.dtype
        return Sizes(
            L, H, d, self.dt_weight.shape[-1], N, self.filters.shape[-1], dtype, self.u.dtype != dtype,
            self.filter_bias is not None, self.window is not None, self.norm_weight is not None,
        )  # fmt: skip

    @property
    def served(self) -> bool:
        """Whether :func:`mamba_by_sequences` serves them; if not, the layer's parts do, or say why not."""
        dtype = self.rows_dtype
        if dtype is None or observed() or not plain(*self[:-1], dtypes=tuple(STORED)):
            return False
        if self.norm_weight is not None and not plain(self.u, self.norm_weight):
            return False
        if self.u.ndim != 3 or self.u.shape[1] < 2 or not workers_share(self.u.shape[0]):
            return False
        (batch, _, H), (d, N), rank, K = (
            self.u.shape, self.A_log.shape, self.dt_weight.shape[-1], self.filters.shape[-1]
        )  # fmt: skip
        return (
            can_multiply(dtype)
            and self.u.numel() > 0
            and self.in_weight.numel() + self.out_weight.numel() <= _LARGEST
            and d % LANES == 0
            and self.in_weight.shape == (2 * d, H)
            and self.filters.shape == (d, 1, K)
            and self.select.shape == (rank + 2 * N, d)
            and self.dt_weight.shape == (d, rank)
            and self.D.shape == self.dt_bias.shape == (d,)
            and self.out_weight.shape == (H, d)
            and (self.filter_bias is None or self.filter_bias.shape == (d,))
            and (self.norm_weight is None or self.norm_weight.shape == (H,))
            and (self.window is None or self.window.shape == (batch, d, K - 1))
            and (self.state is None or self.state.shape == (batch, d, N))
        )


def mamba_by_sequences(given: LayerOperands, *, final_state: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs ``(batch, L, H)``, the window and the state after the last step.

    Differentiable once by every operand. Without ``final_state`` the last two are of no use. Shapes are not
    looked at: see :attr:`LayerOperands.served`.
    """
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given):
        results: tuple[Tensor, Tensor, Tensor] = _Sequences.apply(final_state, *given)  # type: ignore[no-untyped-call]
        return results
    return _run(given, keep=False, final_state=final_state)[0]


class _Sequences(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, final_state: bool, *operands: Any) -> tuple[Tensor, Tensor, Tensor]:
        given = LayerOperands(*operands)
        ctx.sizes = given.sizes
        results, kept = _run(given, keep=True, final_state=final_state)
        if not final_state:
            ctx.mark_non_differentiable(*results[1:])
        ctx.names = tuple(kept)
        ctx.save_for_backward(*given, *kept.values())
        # A loss that ignores the final state must not pay for its gradient.
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(LayerOperands._fields)
        if all(grad is None for grad in grads):
            return (None,) * (count + 1)
        saved = ctx.saved_tensors
        kept = dict(zip(ctx.names, saved[count:], strict=True))
        return None, *_pull(grads, LayerOperands(*saved[:count]), kept, ctx.sizes)


def _run(
    given: LayerOperands, *, keep: bool, final_state: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor | None]]:
    """Outputs, window and state, and what the backward pass reads besides."""
    s = given.sizes
    batch, u = given.u.shape[0], given.u.contiguous()
    program = forward_program(s, keep)

    def floats(*shape: int) -> Tensor:
        return u.new_empty(shape, dtype=torch.float32)

    kept = {
        "given": u,
        "kept": u.new_empty(batch, program.kept_bytes, dtype=torch.uint8),
        **prepared(given, s),
    }
    carry = (
        floats(batch, s.d // LANES, s.N, LANES).zero_() if given.state is None else pack(given.state.float())
    )
    out = floats(batch, s.L, s.H) if s.normed else u.new_empty(u.shape, dtype=s.dtype)
    final = floats(batch, s.d, s.K - 1)
    made = {"final": final, "carry": carry, "out": out}
    program.run(kept | made, batch, min(torch.get_num_threads(), batch))
    if not final_state:
        return (out, final, carry), kept
    return (out, final.to(s.dtype), unpack(carry, s.d)), kept


def prepared(given: LayerOperands, s: Sizes) -> dict[str, Tensor | None]:
    """Operands of a layer's programs by name, of the types and in the order that kernels read."""
    A_log, dt_weight = (_like(x, torch.float32) for x in (given.A_log, given.dt_weight))
    A, low_weight = A_log.new_empty(s.d // LANES, s.N, LANES), A_log.new_empty(s.d // LANES, s.low, LANES)
    addresses = (x.data_ptr() for x in (A_log, dt_weight, A, low_weight))
    run_kernel(_PACK_PARAMETERS, [s.d // LANES, s.N, s.low, *addresses], 1)
    return {
        "in_weight": _like(given.in_weight, s.dtype),
        "select": _like(given.select, s.dtype),
        "dt_weight": None if s.low else _like(given.dt_weight, s.dtype),
        "out_weight": _like(given.out_weight, s.dtype),
        "filters": _like(given.filters, torch.float32),
        "filter_bias": None if given.filter_bias is None else _like(given.filter_bias, torch.float32),
        "window": None if given.window is None else _like(given.window, torch.float32),
        "bias": _like(given.dt_bias, torch.float32),
        "A": A,
        "D": _like(given.D, torch.float32),
        "low_weight": low_weight,
        "norm_weight": None if given.norm_weight is None else given.norm_weight.contiguous(),
        "eps": given.eps,
    }


def _pull(
    grads: tuple[Tensor | None, ...], given: LayerOperands, kept: dict[str, Tensor | None], s: Sizes
) -> tuple[Tensor | None, ...]:
    """Gradients of all operands, from those of outputs, window and state."""
    A, batch = cast(Tensor, kept["A"]), given.u.shape[0]
    workers = min(torch.get_num_threads(), batch)
    grad_out, grad_final, grad_state = grads
    program = backward_program(s, grad_final is not None)
    out_dtype = torch.float32 if s.normed else s.dtype
    if grad_out is None:
        grad_out = A.new_zeros(batch, s.L, s.H, dtype=out_dtype)
    carry = A.new_zeros(batch, s.d // LANES, s.N, LANES) if grad_state is None else pack(grad_state.float())
    grad_u = torch.empty_like(given.u, memory_format=torch.contiguous_format)
    grad_window = None if given.window is None else A.new_empty(given.window.shape)
    sums = program.run(
        kept
        | {
            "grad_out": _like(grad_out, out_dtype),
            "grad_final": None if grad_final is None else _like(grad_final, torch.float32),
            "grad_window": grad_window,
            "carry": carry,
            "grad_u": grad_u,
        },
        batch,
        workers,
    )
    parts = Gradients.of(s)
    flat = A.new_empty(parts.end)
    gathering_program(s, workers).run({"sums": sums, "flat": flat, "factor": _ONE, "A": A}, 1, 1)
    grad_state = None if given.state is None else unpack(carry, s.d)
    found = layer_gradients(flat, parts, u=grad_u, window=grad_window, state=grad_state)
    return tuple(
        None if grad is None or x is None else grad if grad.dtype == x.dtype else grad.to(x.dtype)
        for grad, x in zip(found, given, strict=True)
    )


def layer_gradients(flat: Tensor, parts: Gradients, **others: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of :class:`LayerOperands` in their order, None of what is not made.

    Args:
        flat: What :func:`gathering_program` has made of the parameters'.
        parts: Where they are in it.
        others: Of what is no parameter, by name.
    """
    made = {name: part.of(flat) for name, part in zip(parts._fields[:-1], parts[:-1], strict=True)} | others
    return tuple(made.get(name) for name in LayerOperands._fields)


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers, contiguous and of a type."""
    return x.contiguous() if x.dtype == dtype else x.to(dtype).contiguous()
