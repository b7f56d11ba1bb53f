"""The delta rule with decay, in chunks of time that are matrix products and triangular solves."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from compressm.scan.delta_rule.unit import unit_rows

FADED = -1e4  # logarithm of a decay that is zero in every type


def chunked_scan(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None, *, scale: float,
    unit: bool, chunk_size: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As :func:`~compressm.scan.delta_rule.delta_rule_scan`, ``chunk_size`` steps computed together.

    Inside a chunk the corrections ``u`` solve a unit lower triangular system, because each sees those before
    it through the products of their keys; states are carried from chunk to chunk (arXiv 2406.06484, section
    3; with decay arXiv 2412.06464, section 3.3).
    """
    with torch.autocast(q.device.type, enabled=False):
        if unit:
            q, k = unit_rows(q), unit_rows(k)
        length, size = q.shape[1], min(chunk_size, q.shape[1])
        q, k, v = (_chunks(x, size) for x in (q * scale, k, v))
        beta, log_decay = (_chunks(x[..., None], size) for x in (beta, log_decay))
        y, S = _chunked(q, k, v, beta, log_decay, state)
        return y.transpose(2, 3).flatten(1, 2)[:, :length], S


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The rule on operands ``(batch, chunks, heads, steps, channels)``."""
    since_start, to_end, total, between = _decays(log_decay)
    keys = beta * k
    coupling = (keys @ k.mT) * between  # its diagonal counts as one in the solver
    right = torch.cat((beta * v, since_start * keys), dim=-1)
    solved = torch.linalg.solve_triangular(coupling, right, upper=False, unitriangular=True)
    written, known = solved.split((v.shape[-1], k.shape[-1]), dim=-1)
    scores, queries, kept_keys = (q @ k.mT) * between, q * since_start, k * to_end
    S = v.new_zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1]) if state is None else state
    outputs: list[Tensor] = []
    for chunk in range(q.shape[1]):
        u = written[:, chunk] - known[:, chunk] @ S
        outputs.append(queries[:, chunk] @ S + scores[:, chunk] @ u)
        S = total[:, chunk] * S + kept_keys[:, chunk].mT @ u
    return torch.stack(outputs, dim=1), S


def _decays(log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decays from a chunk's start to each step, on to its end, over all of it, and between its steps.

    Every exponent is a difference of cumulative sums in float64 and none is positive, however strong the
    decays; between a step and later ones the decay is zero.
    """
    dtype = log_decay.dtype
    # Minus infinity minus itself is no number, and this fades as completely.
    log_decay = log_decay.clamp_min(FADED)
    G = log_decay.to(dtype if log_decay.device.type == "mps" else torch.float64).cumsum(-2)
    last = G[..., -1:, :]
    size = G.shape[-2]
    future = torch.ones(size, size, dtype=torch.bool, device=G.device).triu(1)
    between = (G - G.mT).to(dtype).masked_fill(future, -torch.inf).exp()
    return G.to(dtype).exp(), (last - G).to(dtype).exp(), last.to(dtype).exp(), between


def _chunks(x: Tensor, size: int) -> Tensor:
    """``(batch, L, heads, channels)`` in chunks of time: ``(batch, chunks, heads, size, channels)``.

    A step that is padded to fill the last chunk writes nothing and decays nothing.
    """
    missing = -x.shape[1] % size
    padded = pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
    return padded.reshape(x.shape[0], -1, size, *x.shape[2:]).transpose(2, 3).contiguous()
