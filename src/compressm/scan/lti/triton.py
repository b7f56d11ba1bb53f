"""The recurrence on a CUDA device: matrix products by PyTorch, and the recurrence by kernels between them.

The recurrence is bound by memory. One (batch, L, 2, N) of states has ``8 N`` bytes per step in float32, and
each pass over it costs that. Forward there are four: the product into the states writes it, the kernel reads
it and writes it in place, the product out of them reads it. Backward there are seven: the product with C
writes the adjoints' inputs, the kernel reads these and the states and writes adjoints in place, and the
gradients of u, B and C read adjoints twice and states once; the carry of a chunk is small. Where the states
were not kept, three more compute them anew. (Where inputs and outputs are so few that these passes outweigh
the products, the form "convolution" moves no states at all.)

One sequence and block of 128 states is one warp; a card such as an H200 needs some 3 MB under way to reach
its bandwidth, and a warp keeps five steps, 5 kB, under way. So where batch and states alone make too few
warps, time is cut into chunks that are computed side by side: a first kernel reads the inputs and finds what
leaves each chunk if nothing enters it (one pass more), a second carries that from chunk to chunk, and only
then are the states computed. States are padded to a multiple of the block, the next power of two from 32 to
128, but padding is neither read nor written. No sum depends on the order in which programs run: results
repeat bit for bit.

Products obey PyTorch's settings: ``torch.backends.cuda.matmul.fp32_precision`` (or ``allow_tf32``) trades
their digits for speed. The recurrence itself is computed in the operands' own type, float32 or float64.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from compressm.scan.lti import triton_kernels as kernels

MAX_BLOCK = 128
MIN_STEPS = 32
STAGES = 6
PROGRAMS_PER_MULTIPROCESSOR = 16

# Said explicitly because Triton's default is about to change; multiply-add in one rounding.
_LAUNCH: dict[str, Any] = {"num_warps": 1, "enable_fp_fusion": True}


class Plan(NamedTuple):
    """How the work is cut: ``block`` states and ``steps`` steps, a power of two, to a program."""

    block: int
    blocks: int
    steps: int
    chunks: int

    @classmethod
    def of(cls, batch: int, L: int, N: int, programs: int) -> "Plan":
        """At least ``programs`` programs, if chunks of :data:`MIN_STEPS` steps make as many."""
        block = min(MAX_BLOCK, max(32, power_of_two(N)))
        blocks = -(-N // block)
        wanted = -(-programs // (batch * blocks))
        steps = min(power_of_two(L), max(MIN_STEPS, power_of_two(-(-L // wanted) + 1) // 2))
        steps = power_of_two(L) if wanted == 1 else steps
        return cls(block, blocks, steps, -(-L // steps))


def power_of_two(value: int) -> int:
    """The smallest power of two that is at least ``value``."""
    return 1 << (value - 1).bit_length()


def programs_wanted(device: torch.device) -> int:
    """Programs that keep a device's memory busy."""
    return PROGRAMS_PER_MULTIPROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


def scan_forward(
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None, *, reverse: bool, keep: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state, and the states if ``keep`` is "states"."""
    with torch.cuda.device(u.get_device()):
        x, final = _states(u, lam, B, _initial(state, u, lam), reverse=reverse)
    y = x.flatten(2) @ _output_weights(C)
    return y, final, x if keep == "states" else u.new_empty(0)


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None, kept: Tensor,
    *, reverse: bool, keep: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, lambda, B, C and the initial state from those of outputs and final state."""
    (batch, L, _), N = u.shape, lam.shape[1]
    initial, into, out_of = _initial(state, u, lam), B.flatten(0, 1), _output_weights(C)
    with torch.cuda.device(u.get_device()):
        x = kept if keep == "states" else _states(u, lam, B, initial, reverse=reverse)[0]
        if grad_y is None:
            w, grad_out_of = u.new_zeros(batch, L, 2, N), torch.zeros_like(out_of)
        else:
            w = (grad_y @ out_of.mT).view(batch, L, 2, N)
            grad_out_of = x.view(-1, 2 * N).mT @ grad_y.flatten(0, 1)
        grad_lam, grad_state = adjoint(w, x, lam, initial, _initial(grad_final, u, lam), reverse=reverse)
    grad_into = w.view(-1, 2 * N).mT @ u.flatten(0, 1)
    grad_C = torch.stack((grad_out_of[:N].mT, -grad_out_of[N:].mT))
    return w.flatten(2) @ into, grad_lam, grad_into.view_as(B), grad_C, grad_state


def _states(u: Tensor, lam: Tensor, B: Tensor, initial: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """All states (batch, L, 2, N), and the final one."""
    (batch, L, _), N = u.shape, lam.shape[1]
    x = (u @ B.flatten(0, 1).mT).view(batch, L, 2, N)
    return x, advance(x, lam, initial, reverse=reverse)


def advance(x: Tensor, lam: Tensor, initial: Tensor, *, reverse: bool) -> Tensor:
    """Turn what enters the states into states, in place: the recurrence alone. Returns the final state."""
    batch, L, _, N = x.shape
    final = torch.empty_like(initial)
    plan = Plan.of(batch, L, N, programs_wanted(x.device))
    entering = _entering(x, lam, initial, plan, flip=reverse, adjoint=False)
    kernels.states[batch * plan.blocks, plan.chunks](
        x, lam, entering, final, L, N, plan.blocks, plan.steps,
        BLOCK=plan.block, STAGES=STAGES, FLIP=reverse, **_LAUNCH,
    )  # fmt: skip
    return final


def adjoint(
    g: Tensor, x: Tensor, lam: Tensor, initial: Tensor, grad_final: Tensor, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Turn gradients g into adjoints, in place; gradients of lambda and of the initial state."""
    batch, L, _, N = g.shape
    plan = Plan.of(batch, L, N, programs_wanted(g.device))
    entering = _entering(g, lam, grad_final, plan, flip=not reverse, adjoint=True)
    slopes = torch.empty(batch * plan.chunks, 2, N, dtype=torch.float64, device=g.device)
    grad_state = torch.empty_like(initial)
    kernels.adjoint[batch * plan.blocks, plan.chunks](
        g, x, lam, entering, initial, grad_state, slopes, L, N, plan.blocks, plan.steps,
        BLOCK=plan.block, STAGES=STAGES, FLIP=not reverse, **_LAUNCH,
    )  # fmt: skip
    return slopes.sum(0).to(lam.dtype), grad_state


def _entering(v: Tensor, lam: Tensor, initial: Tensor, plan: Plan, *, flip: bool, adjoint: bool) -> Tensor:
    """What enters each chunk, (batch, chunks, 2, N)."""
    batch, L, _, N = v.shape
    if plan.chunks == 1:
        return initial
    ends = v.new_empty(batch, plan.chunks, 2, N)
    programs = batch * plan.blocks
    kernels.chunk_ends[programs, plan.chunks](
        v, lam, ends, L, N, plan.blocks, plan.steps,
        BLOCK=plan.block, STAGES=STAGES, FLIP=flip, ADJOINT=adjoint, **_LAUNCH,
    )  # fmt: skip
    kernels.carry[(programs,)](
        ends, lam, initial, N, plan.blocks, plan.chunks, LOG_STEPS=plan.steps.bit_length() - 1,
        BLOCK=plan.block, STAGES=STAGES, ADJOINT=adjoint, **_LAUNCH,
    )  # fmt: skip
    return ends


def _output_weights(C: Tensor) -> Tensor:
    """(2 N, P) such that ``[Re x, Im x]`` times it is ``Re(C x)``."""
    return torch.cat((C[0].mT, -C[1].mT))


def _initial(state: Tensor | None, u: Tensor, lam: Tensor) -> Tensor:
    return u.new_zeros(u.shape[0], 2, lam.shape[1]) if state is None else state.contiguous()
