"""The recurrence on a CUDA device: matrix products by PyTorch, and the recurrence by kernels between them.

The recurrence is bound by memory. One (batch, L, 2, N) of states has ``8 N`` bytes per step in float32, and
each pass over it costs that. Forward there are four: the product into the states writes it, the kernel reads
it and writes it in place, the product out of them reads it. Backward there are seven: the product with C
writes the adjoints' inputs, the kernel reads these and the states and writes adjoints in place, and the
gradients of u, B and C read adjoints twice and states once. Where the states were not kept, three more
compute them anew. (Where inputs and outputs are so few that these passes outweigh the products, the form
"convolution" moves no states at all.)

One sequence and 32 states are one warp, which has 16 steps, 4 kB in float32, under way while it works on the
16 before. A card such as an H200 needs some 3 MB under way to reach its bandwidth. So where batch and states
alone make too few warps, time is cut into chunks that are computed side by side: a first kernel reads the
inputs and finds what leaves each chunk if nothing enters it (one pass more), a second carries that from chunk
to chunk, and only then are the states computed. In memory N is padded to a multiple of 8, which the tensor
cores want of a matrix, and padding is zero. No sum depends on the order in which programs run: results repeat
bit for bit.

Products obey PyTorch's settings: ``torch.backends.cuda.matmul.fp32_precision`` (or ``allow_tf32``) trades
their digits for speed. With ``half`` inputs, outputs, and states in memory are bfloat16, and so are the
products; the recurrence itself is computed in the eigenvalues' own type, float32 or float64.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from compressm.scan.lti import triton_kernels as kernels
from compressm.scan.runtime.card import multiprocessors

BLOCK = 32
STEPS = 16  # of a tile: as many as registers hold twice
MIN_LENGTH = 32
MULTIPLE = 8
PROGRAMS_PER_MULTIPROCESSOR = 12

# Said explicitly because Triton's default is about to change; multiply-add in one rounding.
_LAUNCH: dict[str, Any] = {"num_warps": 1, "enable_fp_fusion": True}
_CARRY: dict[str, Any] = {"BLOCK": BLOCK, "STAGES": 4, **_LAUNCH}


class Plan(NamedTuple):
    """How the work is cut: ``blocks`` of states by ``chunks`` of ``length`` steps, a power of two."""

    blocks: int
    length: int
    chunks: int

    @classmethod
    def of(cls, batch: int, L: int, N: int, programs: int) -> "Plan":
        """One chunk if that makes a quarter of ``programs``, else at least these, if time is long enough.

        A pass more over the states for the chunks' ends pays for itself where less is under way than that.
        """
        blocks = -(-N // BLOCK)
        wanted = -(-programs // (batch * blocks))
        if 4 * batch * blocks >= programs:
            return cls(blocks, max(power_of_two(L), MIN_LENGTH), 1)
        length = max(MIN_LENGTH, power_of_two(-(-L // wanted) + 1) // 2)
        length = min(max(power_of_two(L), MIN_LENGTH), length)
        return cls(blocks, length, -(-L // length))


def power_of_two(value: int) -> int:
    """The smallest power of two that is at least ``value``."""
    return 1 << (value - 1).bit_length()


def programs_wanted(device: torch.device) -> int:
    """Programs that keep a device's memory busy."""
    return PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(device)


def padded(N: int) -> int:
    """States as they lie in memory."""
    return -(-N // MULTIPLE) * MULTIPLE


def new_kept(u: Tensor, C: Tensor, keep: str, *, half: bool) -> Tensor:
    """Memory for what the backward pass starts from: all states, or nothing."""
    batch, L, _ = u.shape
    size = (batch, L, 2, padded(C.shape[2])) if keep == "states" else (0,)
    return u.new_empty(size, dtype=_rows(u, half=half))


def scan_forward(
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None,
    *, reverse: bool, keep: str, half: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs, final state, and the states if ``keep`` is "states"."""
    given = _Operands.of(u, lam, B, C, state, half)
    with torch.cuda.device(u.get_device()):
        x, final = _states(given, reverse=reverse)
    y = x.flatten(2) @ given.out_of
    kept = x if keep == "states" else new_kept(u, C, keep, half=half)
    return y.to(u.dtype), final[..., : lam.shape[1]].contiguous(), kept


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None, kept: Tensor,
    *, reverse: bool, keep: str, half: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, lambda, B, C and the initial state from those of outputs and final state."""
    given = _Operands.of(u, lam, B, C, state, half)
    N, width = lam.shape[1], given.lam.shape[1]
    grad_final = torch.zeros_like(given.initial) if grad_final is None else _wide(grad_final)
    with torch.cuda.device(u.get_device()):
        x = kept if keep == "states" else _states(given, reverse=reverse)[0]
        if grad_y is None:
            w, grad_out_of = x.new_zeros(x.shape), torch.zeros_like(given.out_of)
        else:
            grad_y = grad_y.to(x.dtype)
            w = (grad_y @ given.out_of.mT).view_as(x)
            grad_out_of = x.view(-1, 2 * width).mT @ grad_y.flatten(0, 1)
        grad_lam, grad_state = adjoint(w, x, given.lam, given.initial, grad_final, reverse=reverse)
    grad_into = w.view(-1, 2 * width).mT @ given.u.flatten(0, 1)
    grad_u = (w.flatten(2) @ given.into).to(u.dtype)
    grad_re, grad_im = grad_out_of.view(2, width, -1)[:, :N].to(C.dtype)
    return (
        grad_u,
        grad_lam[:, :N].contiguous(),
        grad_into.view(2, width, -1)[:, :N].to(B.dtype).contiguous(),
        torch.stack((grad_re.mT, -grad_im.mT)),
        grad_state[..., :N].contiguous(),
    )


class _Operands(NamedTuple):
    """Operands as the kernels and products take them: states padded, rows and weights in the rows' type."""

    u: Tensor
    lam: Tensor
    into: Tensor  # (2 N, H)
    out_of: Tensor  # (2 N, P) such that ``[Re x, Im x]`` times it is ``Re(C x)``
    initial: Tensor

    @classmethod
    def of(
        cls, u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None, half: bool
    ) -> "_Operands":
        dtype, more = _rows(u, half=half), padded(lam.shape[1]) - lam.shape[1]
        into = pad(B, (0, 0, 0, more)).flatten(0, 1)
        out_of = torch.cat((pad(C[0], (0, more)).mT, -pad(C[1], (0, more)).mT))
        initial = lam.new_zeros(u.shape[0], *lam.shape) if state is None else state
        return cls(u.to(dtype), _wide(lam), into.to(dtype), out_of.to(dtype), _wide(initial))


def _rows(u: Tensor, *, half: bool) -> torch.dtype:
    """The type of inputs, outputs and states in memory, and of products."""
    return torch.bfloat16 if half else u.dtype


def _wide(x: Tensor) -> Tensor:
    """(..., N) with zeros for the states that memory has beyond."""
    return pad(x, (0, padded(x.shape[-1]) - x.shape[-1])).contiguous()


def _states(given: _Operands, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """All states (batch, L, 2, N), and the final one."""
    batch, L, _ = given.u.shape
    x = (given.u @ given.into.mT).view(batch, L, 2, -1)
    return x, advance(x, given.lam, given.initial, reverse=reverse)


def advance(x: Tensor, lam: Tensor, initial: Tensor, *, reverse: bool) -> Tensor:
    """Turn what enters the states into states, in place: the recurrence alone. Returns the final state."""
    batch, L, _, N = x.shape
    final = torch.empty_like(initial)
    plan, tile = Plan.of(batch, L, N, programs_wanted(x.device)), _tile(lam)
    entering = _entering(x, lam, initial, plan, flip=reverse, adjoint=False)
    kernels.states[batch * plan.blocks, plan.chunks](
        x, lam, entering, final, L, N, plan.blocks, plan.length,
        FLIP=reverse, EVEN=L % tile["STEPS"] == 0, **tile,
    )  # fmt: skip
    return final


def adjoint(
    g: Tensor, x: Tensor, lam: Tensor, initial: Tensor, grad_final: Tensor, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Turn gradients g into adjoints, in place; gradients of lambda and of the initial state."""
    batch, L, _, N = g.shape
    plan, tile = Plan.of(batch, L, N, programs_wanted(g.device)), _tile(lam)
    entering = _entering(g, lam, grad_final, plan, flip=not reverse, adjoint=True)
    slopes = torch.empty(batch * plan.chunks, 2, N, dtype=torch.float64, device=g.device)
    grad_state = torch.empty_like(initial)
    kernels.adjoint[batch * plan.blocks, plan.chunks](
        g, x, lam, entering, initial, grad_state, slopes, L, N, plan.blocks, plan.length,
        FLIP=not reverse, EVEN=L % tile["STEPS"] == 0, **tile,
    )  # fmt: skip
    return slopes.sum(0).to(lam.dtype), grad_state


def _entering(v: Tensor, lam: Tensor, initial: Tensor, plan: Plan, *, flip: bool, adjoint: bool) -> Tensor:
    """What enters each chunk, (batch, chunks, 2, N)."""
    batch, L, _, N = v.shape
    if plan.chunks == 1:
        return initial
    ends = lam.new_empty(batch, plan.chunks, 2, N)
    programs = batch * plan.blocks
    kernels.chunk_ends[programs, plan.chunks - 1](
        v, lam, ends, L, N, plan.blocks, plan.length, FLIP=flip, ADJOINT=adjoint, **_tile(lam)
    )
    kernels.carry[(programs,)](
        ends, lam, initial, N, plan.blocks, plan.chunks,
        LOG_LENGTH=plan.length.bit_length() - 1, ADJOINT=adjoint, **_CARRY,
    )  # fmt: skip
    return ends


def _tile(lam: Tensor) -> dict[str, Any]:
    """A tile's sizes; numbers of twice the width need four times the room, as adjoints sum in float64."""
    return {"BLOCK": BLOCK, "STEPS": STEPS if lam.dtype == torch.float32 else STEPS // 4, **_LAUNCH}
