"""What the steps of one chunk contribute to its own outputs: ``sum_{s <= t} (q_t * decay_{ts}) . k_s v_s``.

Decays come from cumulative sums G of their logarithms, in float64: every exponent is ``G_t - G_s`` with
``s <= t``, so none is positive, and none loses digits however strong the decays before it were.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

BASE = 4
"""Steps of a block that has become too small for a matrix product."""


def exp_difference(later: Tensor, earlier: Tensor, dtype: torch.dtype) -> Tensor:
    """``exp(later - earlier)`` of cumulative sums, in ``dtype``: decays over what lies between."""
    return (later - earlier).to(dtype).exp()


def scalar_decay(q: Tensor, k: Tensor, v: Tensor, G: Tensor) -> Tensor:
    """One decay per head and step: all pairs of steps in one product, (..., C, K) with G (..., C, 1)."""
    size = G.shape[-2]
    future = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
    exponent = (G - G.mT).to(q.dtype).masked_fill(future, -torch.inf)
    return ((q @ k.mT) * exponent.exp()) @ v


def vector_decay(q: Tensor, k: Tensor, v: Tensor, G: Tensor) -> Tensor:
    """A decay per key channel, (..., C, K); C is a power of two.

    The second half of the chunk reads the first half by a matrix product, in which each side decays from and
    to the border between them; then both halves do the same in themselves. This is the secondary chunking of
    gated linear attention (Yang et al. 2023, section 4), at all scales.
    """
    size = q.shape[-2]
    y = torch.zeros_like(v)
    while size > BASE:
        half = size // 2
        _, q_late = _halves(q, size)
        k_early, _ = _halves(k, size)
        v_early, _ = _halves(v, size)
        early, late = _halves(G, size)
        border = early[..., -1:, :]
        q_late = q_late * exp_difference(late, border, q.dtype)
        k_early = k_early * exp_difference(border, early, q.dtype)
        y = y + pad((q_late @ k_early.mT) @ v_early, (0, 0, half, 0)).reshape(v.shape)
        size = half
    return y + _pairs(q, k, v, G, size)


def _halves(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First and second halves of blocks of ``size`` steps, each (..., blocks, size / 2, channels)."""
    blocks = x.reshape(*x.shape[:-2], -1, 2, size // 2, x.shape[-1])
    return blocks[..., 0, :, :], blocks[..., 1, :, :]


def _pairs(q: Tensor, k: Tensor, v: Tensor, G: Tensor, size: int) -> Tensor:
    """Pairs of steps inside blocks of ``size``, for each distance from 0 to ``size - 1``."""
    q, k, v, G = (x.reshape(*x.shape[:-2], -1, size, x.shape[-1]) for x in (q, k, v, G))
    y = (q * k).sum(-1, keepdim=True) * v
    for distance in range(1, size):
        late, early = slice(distance, None), slice(None, -distance)
        decay = exp_difference(G[..., late, :], G[..., early, :], q.dtype)
        weight = (q[..., late, :] * k[..., early, :] * decay).sum(-1, keepdim=True)
        y = y + pad(weight * v[..., early, :], (0, 0, distance, 0))
    return y.flatten(-3, -2)
