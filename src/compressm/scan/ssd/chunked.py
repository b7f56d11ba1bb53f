"""Linear attention in chunks of time: matrix products inside chunks, states carried from one to the next."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from compressm.scan.ssd.within import exp_difference, scalar_decay, vector_decay

FLOOR = -1e3
"""Logarithms below this count as this: its exponential is 0 in any type, and sums of it stay numbers."""


def chunked_scan(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, *, scale: float, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Outputs and final state; differentiable by autograd.

    A step that is padded to fill the last chunk has no key and decays nothing, so it leaves the state alone.
    """
    batch, L, heads, _ = q.shape
    size = min(chunk_size, 1 << (L - 1).bit_length())
    log_decay = log_decay[..., None] if log_decay.ndim == 3 else log_decay
    q, k, v, log_decay = (_chunks(x, size) for x in (q * scale, k, v, log_decay))
    # float64 keeps the differences of long sums; where it does not exist, the operands' own type must do.
    wide = q.dtype if q.device.type == "mps" else torch.float64
    G = log_decay.clamp_min(FLOOR).to(wide).cumsum(-2)
    y = (scalar_decay if G.shape[-1] == 1 else vector_decay)(q, k, v, G)
    entering, final = _states(k, v, G, state)
    y = y + (q * exp_difference(G, torch.zeros_like(G), q.dtype)) @ entering
    return y.transpose(2, 3).reshape(batch, -1, heads, v.shape[-1])[:, :L], final


def _chunks(x: Tensor, size: int) -> Tensor:
    """(batch, L, heads, channels) in chunks of time: (batch, chunks, heads, size, channels)."""
    missing = -x.shape[1] % size
    padded = pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
    chunks = padded.reshape(x.shape[0], -1, size, *x.shape[2:])
    return chunks.transpose(2, 3).contiguous()


def _states(k: Tensor, v: Tensor, G: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """States before each chunk, (batch, chunks, heads, K, V), and after the last."""
    total = G[..., -1:, :]
    made = (k * exp_difference(total, G, k.dtype)).mT @ v
    decay = total.to(k.dtype).exp().mT
    S = torch.zeros_like(made[:, 0]) if state is None else state
    entering: list[Tensor] = []
    for made_here, decay_here in zip(made.unbind(1), decay.unbind(1), strict=True):
        entering.append(S)
        S = decay_here * S + made_here
    return torch.stack(entering, dim=1), S
