"""Loss and gradients of a Mamba language model on a CPU, one sequence after the other.

Where a loss is all that is wanted of the logits, forward and backward pass of a sequence need not wait for
those of the others: each core takes a sequence through all layers, the loss, and back. What the backward pass
reads is still in that core's cache, and memory for it is needed once for a core, not once for a sequence.
"""

import contextlib
import math
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from compressm.layers.mamba_gradients import Gradients, Sums, add_gathering
from compressm.layers.mamba_programs import Pulled, Rows, add_backward, add_forward, forward_program
from compressm.layers.mamba_sequences import LayerOperands, layer_gradients, prepared
from compressm.layers.mamba_sizes import Sizes
from compressm.layers.rms_norm import number
from compressm.models.normed_head import HeadRows, HeadSizes, add_head, add_head_backward
from compressm.scan.runtime import Kernel
from compressm.scan.runtime.program import Gathered, Matrix, Parts, Place, Program
from compressm.scan.runtime.widths import LANES

_MODULE = "compressm.models.token_kernels"
_EMBED, _EMBED_BACKWARD = Kernel(_MODULE, "embed"), Kernel(_MODULE, "embed_backward")
_CROSS_ENTROPY = Kernel(_MODULE, "cross_entropy")
_FLOAT, _WORD = 4, 8
_LITTLE = 1 << 26  # bytes


class TokenLoss(NamedTuple):
    """How well a language model foretells the tokens of a batch.

    Attributes:
        mean: Mean cross entropy of the tokens that count, in nats: what to call ``backward()`` on.
        correct: How many of them were given the largest logit.
        counted: How many there are.
    """

    mean: Tensor
    correct: Tensor
    counted: Tensor


class TokenOperands(NamedTuple):
    """What :func:`token_loss` reads.

    Args:
        tokens: Inputs ``(batch, L)``, int64, of the vocabulary.
        targets: As many, of which those outside of the vocabulary do not count.
        embeddings: ``(V, H)``, of the first layer's inputs and of the logits.
        norm_weight: Of the last norm, ``(H,)``.
        eps: Added to the mean square there.
        layers: Of each layer, with the norm before it and any tensor of inputs' shape and type as its ``u``.
    """

    tokens: Tensor
    targets: Tensor
    embeddings: Tensor
    norm_weight: Tensor
    eps: float
    layers: tuple[LayerOperands, ...]


class _Shape(NamedTuple):
    layers: tuple[Sizes, ...]
    head: HeadSizes


class _Parts(NamedTuple):
    """Where the parameters' gradients are, in the sums of a worker or all together: embeddings first."""

    norm_weight: int
    layers: tuple[Any, ...]  # Sums or Gradients
    end: int

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, shape: _Shape, kind: type[Sums] | type[Gradients]) -> "_Parts":
        head, found = shape.head, []
        norm_weight = -(-head.V * head.H // LANES) * LANES
        end = norm_weight + -(-head.H // LANES) * LANES
        for sizes in shape.layers:
            found.append(kind.of(sizes, end))
            end = found[-1].end
        return cls(norm_weight, tuple(found), end)


@lru_cache(maxsize=64)
def _program(shape: _Shape, differentiate: bool) -> Program:
    program, parts, head = Program(), _Parts.of(shape, Sums), shape.head
    L, H, V = head.L, head.H, head.V
    tokens, targets = (program.operand(name, per_item=L * _WORD) for name in ("tokens", "targets"))
    loss, hits = (program.operand(name, per_item=_WORD) for name in ("loss", "hits"))
    embeddings, factor, nothing = (program.operand(name) for name in ("embeddings", "factor", "nothing"))

    def stream() -> Place:
        return program.room(L * H, _FLOAT)

    x = stream()
    program.add(_EMBED, [L, H, V, tokens, embeddings, x])
    passed = []
    other = stream()
    for index, s in enumerate(shape.layers):
        after = stream() if differentiate else other
        with contextlib.nullcontext() if differentiate else program.passing():
            at = Rows.of(program, s, x, program.room, keep=differentiate, prefix=f"{index}.")
            with program.passing():
                final, carry = program.room(s.past, 1), program.room(s.carried, _FLOAT)
                program.clear(carry, s.carried)
                add_forward(program, s, at, final, carry, Matrix(after, L, H, H), keep=differentiate)
        passed.append((s, at))
        x, other = after, x
    rows = HeadRows.of(program, head, x, program.room)
    W = -(-V // LANES) * LANES
    logits = Matrix(program.room(L * W, _FLOAT), L, V, W)
    add_head(program, head, rows, logits)
    program.add(_CROSS_ENTROPY, [L, V, W, logits.place, targets, factor, loss, hits, int(differentiate)])
    if not differentiate:
        return program
    sums = program.sums(parts.end)
    grad, other = stream(), stream()
    add_head_backward(program, head, rows, logits, grad, sums, sums.plus(parts.norm_weight * _FLOAT))
    for (s, at), part in reversed(list(zip(passed, parts.layers, strict=True))):
        with program.passing():
            carry = program.room(s.carried, _FLOAT)
            program.clear(carry, s.carried)
            pulled = Pulled(grad, nothing, nothing, carry, other, sums, told=False)
            add_backward(program, s, at, part, pulled)
        grad, other = other, grad
    program.add(_EMBED_BACKWARD, [L, H, V, tokens, grad, sums])
    return program


@lru_cache(maxsize=64)
def _gathering_program(shape: _Shape, workers: int) -> tuple[Program, _Parts]:
    """From the sums of workers, the layers' rates and a factor to all gradients, ``flat``."""
    program = Program()
    sums, parts = _Parts.of(shape, Sums), _Parts.of(shape, Gradients)
    place, flat, factor = (program.operand(name) for name in ("sums", "flat", "factor"))
    # Embeddings and the norm's weight, in the same places in both.
    ends = (1, 1, sums.layers[0].in_weight.start)
    program.gather(Parts(place, workers, sums.end), ends, (0, 1), Gathered(flat, factor))
    for index, s in enumerate(shape.layers):
        to = Gathered(flat.plus(parts.layers[index].in_weight.start * _FLOAT), factor)
        rates = program.operand(f"{index}.A")
        add_gathering(program, s, sums.layers[index], Parts(place, workers, sums.end), to, rates)
    return program, parts


def saves_memory(given: TokenOperands) -> bool:
    """Whether the sums of all cores, each as large as the model, take less than what layers would keep.

    Small ones do not matter.
    """
    shape, batch = _shape(given), given.tokens.shape[0]
    sums = min(torch.get_num_threads(), batch) * _Parts.of(shape, Sums).end * _FLOAT
    return sums <= _LITTLE or sums <= batch * sum(forward_program(s, True).kept_bytes for s in shape.layers)


def token_loss(given: TokenOperands, count: int) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of the ``count`` targets that count, and how many of them are the likeliest word."""
    flat = (given.embeddings, given.norm_weight, *(x for layer in given.layers for x in layer))
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in flat):
        results: tuple[Tensor, Tensor] = _TokenLoss.apply(given, count, *flat)  # type: ignore[no-untyped-call]
        return results
    loss, hits, *_ = _run(given, count, differentiate=False)
    return loss, hits


class _TokenLoss(torch.autograd.Function):
    """Gradients are made with the loss, and only scaled in the backward pass."""

    @staticmethod
    def forward(ctx: Any, given: TokenOperands, count: int, *flat: Any) -> tuple[Tensor, Tensor]:
        loss, hits, sums, rates, ctx.shape = _run(given, count, differentiate=True)
        ctx.kinds = [None if x is None else x.dtype for x in flat]
        ctx.save_for_backward(sums, *rates)
        ctx.mark_non_differentiable(hits)
        return loss, hits

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        sums, *rates = ctx.saved_tensors
        program, parts = _gathering_program(ctx.shape, len(sums))
        H, V = ctx.shape.head.H, ctx.shape.head.V
        flat = sums.new_empty(parts.end)
        given = {"sums": sums, "flat": flat, "factor": grad}
        program.run(given | {f"{index}.A": A for index, A in enumerate(rates)}, 1, 1)
        found = [flat[: V * H].view(V, H), flat[parts.norm_weight : parts.norm_weight + H]]
        for part in parts.layers:
            found += layer_gradients(flat, part)
        return (
            None,
            None,
            *(
                None if grad is None or kind is None else grad if grad.dtype == kind else grad.to(kind)
                for grad, kind in zip(found, ctx.kinds, strict=True)
            ),
        )


def _shape(given: TokenOperands) -> _Shape:
    layers, (V, H) = tuple(layer.sizes for layer in given.layers), given.embeddings.shape
    dtype = given.layers[0].rows_dtype or torch.float32
    return _Shape(layers, HeadSizes(given.tokens.shape[1], H, V, dtype))


def _run(
    given: TokenOperands, count: int, *, differentiate: bool
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], _Shape]:
    """Loss, hits, the sums of each worker, and the rates of each layer."""
    shape, batch = _shape(given), given.tokens.shape[0]
    program = _program(shape, differentiate)
    made = [prepared(*layer) for layer in zip(given.layers, shape.layers, strict=True)]
    loss = torch.empty(batch, dtype=torch.float64, device="cpu")
    hits = torch.empty(batch, dtype=torch.int64, device="cpu")
    operands: dict[str, Tensor | None] = {
        "tokens": given.tokens,
        "targets": given.targets,
        "loss": loss,
        "hits": hits,
        "embeddings": given.embeddings.contiguous(),
        "weight": given.embeddings.to(shape.head.dtype).contiguous(),
        "norm_weight": given.norm_weight.contiguous(),
        "eps": number(given.eps),
        "factor": torch.tensor([1.0 / max(count, 1)], dtype=torch.float32, device="cpu"),
        "nothing": None,
    }
    for index, layer in enumerate(made):
        operands |= {f"{index}.{name}": x for name, x in layer.items()}
    sums = program.run(operands, batch, min(torch.get_num_threads(), batch))
    # Two operators of PyTorch, whose code the kernels have driven out of the caches, take 0.1 ms.
    total = sum(loss.tolist())
    mean = torch.tensor(total / count if count else math.nan, dtype=torch.float32, device="cpu")
    found = torch.tensor(sum(hits.tolist()), device="cpu")
    return mean, found, sums, [cast(Tensor, layer["A"]) for layer in made], shape
