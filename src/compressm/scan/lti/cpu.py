"""The recurrence on a CPU: matrix products and a compiled recurrence, piece by piece.

A piece of the batch is projected to states by a matrix product, the recurrence runs over it in place, and a
second product takes it to outputs; pieces are small enough to stay in the processor's cache, so states never
travel to main memory. The backward pass computes a piece's states anew from the state the piece started with,
or reads them back where the forward pass was asked to keep them.

Threads share the batch where that divides it well (:mod:`compressm.scan.lti.sequences`), else, and in
bfloat16, they share each piece (:mod:`compressm.scan.lti.together`). Few channels have kernels of their own,
products included (:mod:`compressm.scan.lti.few_channels`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compressm.scan.lti import few_channels, together
from compressm.scan.lti.pieces import Pieces, kept_shape
from compressm.scan.runtime import (
    FLOATS,
    Kernel,
    addresses,
    gemm_addresses,
    processor_has,
    run_kernel,
    workers_share,
)
from compressm.scan.runtime.packing import Weights, packed_weights

_MODULE = "compressm.scan.lti.sequences"
_FORWARD = {dtype: Kernel(_MODULE, f"forward_{name}") for dtype, name in FLOATS.items()}
_BACKWARD = {dtype: Kernel(_MODULE, f"backward_{name}") for dtype, name in FLOATS.items()}
_WEIGHTS = "compressm.scan.lti.weights"
_PACK = {dtype: Kernel(_WEIGHTS, f"pack_{name}") for dtype, name in FLOATS.items()}
_GATHER = {dtype: Kernel(_WEIGHTS, f"gather_{name}") for dtype, name in FLOATS.items()}
_SMALL = 1 << 14  # elements: below this, threads cost more than they bring
_KEEP = {"nothing": 0, "checkpoints": 1, "states": 2}


def new_kept(u: Tensor, C: Tensor, keep: str, *, half: bool) -> Tensor:
    """Room for what :func:`scan_forward` keeps for :func:`scan_backward`."""
    (batch, length, H), (_, P, N) = u.shape, C.shape
    if few_channels.suits(H, P, u.dtype):
        return u.new_empty(few_channels.kept_shape(keep, batch, length, N))
    return together.new_kept(u, N, keep, half=half and can_halve(u.dtype))


def scan_forward(
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None,
    *, reverse: bool, keep: str, half: bool = False, D: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs, with ``D u`` if D is given; final state; what :func:`scan_backward` needs beside the operands.

    ``half``: operands and results of matrix products are rounded to bfloat16, the recurrence is computed in
    float32; ignored where the processor cannot, and for few channels, whose kernels have none. ``keep`` names
    what is kept: "states" (all of them), "checkpoints" (the state before each piece; always for few
    channels), or "nothing", after which there can be no backward pass.
    """
    batch, N = u.shape[0], lam.shape[1]
    carry = _initial(state, batch, N, u)
    if few_channels.suits(u.shape[2], C.shape[1], u.dtype):
        y, kept = few_channels.forward(u, lam, B, C, carry, reverse=reverse, keep=keep)
        return _with_direct(y, u, D), carry.view(batch, 2, N), kept
    half = half and can_halve(u.dtype)
    if half or not workers_share_the_batch(batch):
        into, out_of = B.reshape(2 * N, -1), _output_weights(C)
        y, kept = together.forward(u, lam, into, out_of, carry, reverse=reverse, keep=keep, half=half)
        y = _with_direct(y, u, D)
    else:
        y, kept = forward_by_sequences(
            _FORWARD[u.dtype], _pieces(u, N), u, lam, B, C, carry, D, reverse=reverse, keep=keep
        )
    return y, carry.view(batch, 2, N), kept


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None, kept: Tensor,
    *, reverse: bool, keep: str, half: bool = False, D: Tensor | None = None, grad_D: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, lambda, B, C and the initial state from those of outputs and final state.

    With D its gradient is written to ``grad_D``.
    """
    batch, N = u.shape[0], lam.shape[1]
    carry = _initial(grad_final, batch, N, u)
    if few_channels.suits(u.shape[2], C.shape[1], u.dtype):
        few = few_channels.backward(grad_y, u, lam, B, C, carry, kept, reverse=reverse)
        direct_gradients(few[0], grad_y, u, D, grad_D)
        return *few, carry.view(batch, 2, N)
    start, half = _initial(state, batch, N, u), half and can_halve(u.dtype)
    if half or not workers_share_the_batch(batch):
        weights = B.reshape(2 * N, -1), _output_weights(C)
        grad_u, slope, grad_into, grad_out_of = together.backward(
            grad_y, u, lam, *weights, start, carry, kept, reverse=reverse, keep=keep, half=half
        )
        direct_gradients(grad_u, grad_y, u, D, grad_D)
        return grad_u, *_parameters(slope, grad_into[None], grad_out_of[None]), carry.view(batch, 2, N)
    gradients = backward_by_sequences(
        _BACKWARD[u.dtype], _pieces(u, N), grad_y, u, lam, B, C, start, carry, kept, D, grad_D,
        reverse=reverse, keep=keep,
    )  # fmt: skip
    # What has been carried to the first step is conj(lambda) w_0: the gradient of the state before it.
    return *gradients, carry.view(batch, 2, N)


def _parameters(slope: Tensor, into: Tensor, out_of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of lambda, B and C from shares of those of what kernels read."""
    (shares, P, states), H = out_of.shape, into.shape[2]
    grad_B, grad_C = into.new_empty(2, states // 2, H), into.new_empty(2, P, states // 2)
    words = [shares, H, P, states // 2, *addresses(into, out_of, grad_B, grad_C)]
    run_kernel(_GATHER[into.dtype], words, _threads(grad_B.numel() + grad_C.numel()))
    return slope.sum(0).to(into.dtype).view(2, -1), grad_B, grad_C


def _with_direct(y: Tensor, u: Tensor, D: Tensor | None) -> Tensor:
    return y if D is None else y.addcmul_(u, D)


def direct_gradients(
    grad_u: Tensor, grad_y: Tensor | None, u: Tensor, D: Tensor | None, grad_D: Tensor | None
) -> None:
    """Add D's part of the gradient of u, and write that of D."""
    if D is None or grad_D is None:
        return
    if grad_y is None:
        grad_D.zero_()
        return
    grad_u.addcmul_(grad_y, D)
    torch.sum((grad_y * u).flatten(0, 1), dim=0, out=grad_D)


def workers_share_the_batch(batch: int) -> bool:
    """Whether threads take sequences of their own: it idles at most a fifth of them, and needs MKL."""
    return gemm_addresses() is not None and workers_share(batch)


def can_halve(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies numbers in bfloat16; emulated, that is slower than float32."""
    return dtype == torch.float32 and processor_has("avx512_bf16")


def forward_by_sequences(
    kernel: Kernel, cut: Pieces, u: Tensor, lam: Tensor, B: Tensor, C: Tensor, carry: Tensor,
    D: Tensor | None, *, reverse: bool, keep: str, more: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Outputs and what is kept, by a kernel of :func:`compressm.scan.lti.sequences.forward_through`.

    ``cut`` says into what pieces; ``carry`` (batch, 2 N) becomes the final state; ``more`` are the kernel's
    own words. A piece's ``D u`` is added while the cache has the piece.
    """
    (batch, length, H), (_, P, N) = u.shape, C.shape
    into, out_of = B.reshape(2 * N, -1), _output_weights(C)
    y, kept = u.new_empty(batch, length, P), u.new_empty(kept_shape(keep, cut, N))
    words, room, scratch = _layout(u, C, cut, buffers=1, reverse=reverse, keep=keep)
    packed = _packed(cut, Weights(into, H, 2 * N, turned=True), Weights(out_of, 2 * N, P, turned=True))
    operands = (u, into, out_of, lam, carry, y, kept, room, scratch, D, *packed)
    run_kernel(kernel, [*words, *addresses(*operands), *more], torch.get_num_threads())
    return y, kept


def backward_by_sequences(
    kernel: Kernel, cut: Pieces, grad_y: Tensor | None, u: Tensor, lam: Tensor, B: Tensor, C: Tensor,
    start: Tensor, carry: Tensor, kept: Tensor, D: Tensor | None, grad_D: Tensor | None,
    *, reverse: bool, keep: str, more: Sequence[int] = (),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, lambda, B and C, by a kernel of ``backward_through``; that of D goes to ``grad_D``.

    ``start`` is the state before the first step. ``carry`` is the gradient of the final state, and becomes
    that of ``start``. Each worker sums gradients of weights on its own, then they are added. Without
    ``grad_y`` the kernel makes gradients of outputs itself, or there are none.
    """
    H, (_, P, N) = u.shape[2], C.shape
    into, out_of = B.reshape(2 * N, -1), _output_weights(C)
    packed = _packed(cut, Weights(out_of, P, 2 * N, turned=False), Weights(into, 2 * N, H, turned=False))
    words, room, scratch = _layout(u, C, cut, buffers=2, reverse=reverse, keep=keep)
    workers = torch.get_num_threads()
    slope = carry.new_zeros(carry.shape, dtype=torch.float64)
    grad_u, grad_into = torch.empty_like(u), into.new_empty(workers, *into.shape)
    grad_out_of = out_of.new_empty(workers, *out_of.shape)
    shares = out_of.new_zeros(workers, out_of.shape[0], dtype=torch.float64)
    operands = (u, into, out_of, lam, carry, grad_y, kept, room, scratch, start, slope, grad_u, grad_into,
                grad_out_of, D, shares, *packed)  # fmt: skip
    run_kernel(kernel, [*words, *addresses(*operands), *more], workers)
    if grad_D is not None:
        grad_D.copy_(shares.sum(0))
    return grad_u, *_parameters(slope, grad_into, grad_out_of)


def _packed(cut: Pieces, *weights: Weights) -> list[Tensor | None]:
    """The weights packed for whole pieces, if every worker has some of them."""
    pieces = cut.per_sequence * (cut.batch // cut.sequences)
    if pieces < 2 * torch.get_num_threads():
        return [None] * len(weights)
    return packed_weights(cut.rows, *weights)


def _pieces(u: Tensor, N: int) -> Pieces:
    return Pieces.of(u.shape[0], u.shape[1], 2 * N * u.element_size())


def _layout(
    u: Tensor, C: Tensor, cut: Pieces, *, buffers: int, reverse: bool, keep: str
) -> tuple[list[int], Tensor, Tensor]:
    """The words of a kernel before its operands; each worker's room for arguments, and for states."""
    (batch, length, H), (_, P, N), workers = u.shape, C.shape, torch.get_num_threads()
    words = [batch, length, H, P, N, cut.sequences, cut.steps, int(reverse), _KEEP[keep]]
    room = u.new_zeros(workers, 80 // u.element_size())
    room[:, 64 // u.element_size()] = 1
    return words, room, u.new_empty(workers * buffers * cut.rows, 2 * N)


def _output_weights(C: Tensor) -> Tensor:
    """(P, 2 N) such that ``[Re x, Im x]`` times its transpose is ``Re(C x)``."""
    _, P, N = C.shape
    rows = C.new_empty(P, 2 * N)
    run_kernel(_PACK[C.dtype], [P, N, *addresses(C, rows)], _threads(rows.numel()))
    return rows


def _threads(elements: int) -> int:
    """Threads that so many elements are worth."""
    return torch.get_num_threads() if elements >= _SMALL else 1


def _initial(state: Tensor | None, batch: int, N: int, like: Tensor) -> Tensor:
    """A copy (batch, 2 N) to carry through time, contiguous because kernels read it by address."""
    if state is None:
        return like.new_zeros(batch, 2 * N)
    return state.reshape(batch, 2 * N).clone(memory_format=torch.contiguous_format)
