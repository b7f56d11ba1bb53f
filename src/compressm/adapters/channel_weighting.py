"""Balance many single-input single-output channels by the signals that pass through each of them.

The same as :meth:`compressm.adapters.Weighting.balance` channel by channel; but the states of many channels
are computed in one run, and all that follows is done in batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from compressm.adapters.parameters import pair
from compressm.adapters.weighting import MAX_ROWS, Weighting
from compressm.lti import Balancing, Realization
from compressm.lti.siso import balance_channels
from compressm.scan import lti_states

_STATES_TOGETHER = 256  # of neighbouring channels, in one run


def balance_weighted_channels(
    log_A: Tensor, B: Tensor, C: Tensor, realization: Realization, weighting: Weighting
) -> tuple[Balancing, ...]:
    """Balance ``H`` systems of one input and one output each with what is known of their signals.

    Args:
        log_A: Logarithms of the eigenvalues, complex128 ``(H, N)``.
        B: Input matrices, complex128 ``(H, N)``.
        C: Output matrices, complex128 ``(H, N)``.
        realization: The form to balance.
        weighting: Signals have ``H`` channels, one for each system.

    Raises:
        ValueError: If a system is unstable or not finite, or signals that the kind needs were not recorded or
            are not finite.
    """
    if weighting.kind == "none":
        return balance_channels(log_A, B, C, realization)
    inputs = _recorded(weighting, "inputs")
    if weighting.kind == "covariance":
        scale = _root_mean_square(inputs)
        if weighting.gradients:
            scale = scale * _root_mean_square(_recorded(weighting, "gradients"))
        plain = balance_channels(log_A, B, C, realization)
        return tuple(_scaled(b, float(k)) for b, k in zip(plain, scale, strict=True))
    R = _roots(inputs, log_A, B, realization, reverse=False)
    L = None
    if weighting.kind == "gradients":
        # The adjoint states are driven through C^H with conjugate eigenvalues, against time.
        gradients = _recorded(weighting, "gradients")
        L = _roots(gradients, log_A.conj(), C.conj(), realization, reverse=True)
    return balance_channels(log_A, B, C, realization, controllability=R, observability=L)


def _recorded(weighting: Weighting, name: Literal["inputs", "gradients"]) -> Sequence[Tensor]:
    signals: Sequence[Tensor] = getattr(weighting, name)
    if not signals:
        raise ValueError(f"weighting {weighting.kind!r} needs recorded {name}, and there are none")
    if not all(bool(torch.isfinite(signal).all()) for signal in signals):
        raise ValueError(f"recorded {name} hold values that are not finite")
    return [signal.detach().to("cpu", torch.promote_types(signal.dtype, torch.float32)) for signal in signals]


def _root_mean_square(signals: Sequence[Tensor]) -> Tensor:
    """Of every channel, float64 ``(H,)``."""
    rows = torch.cat([signal.double().flatten(0, 1) for signal in signals])
    return rows.square().mean(dim=0).sqrt()


def _scaled(balancing: Balancing, scale: float) -> Balancing:
    """With one input and one output a covariance is a number, in front of everything."""
    root = math.sqrt(scale)
    return replace(
        balancing,
        hankel_singular_values=scale * balancing.hankel_singular_values,
        rank=balancing.rank if scale > 0.0 else 0,
        noise=scale * balancing.noise,
        right=root * balancing.right,
        left=root * balancing.left,
        guaranteed=False,
    )


def _roots(
    signals: Sequence[Tensor], log_A: Tensor, into: Tensor, realization: Realization, *, reverse: bool
) -> Tensor:
    """Square roots of ``E[x x^H]`` of every channel's states: ``(H, 2N, 2N)`` or ``(H, N, N)``."""
    signals = _thinned(signals)
    step = max(1, _STATES_TOGETHER // log_A.shape[1])
    moments = [
        _moments(
            [signal[..., start : start + step] for signal in signals],
            torch.exp(log_A[start : start + step]),
            into[start : start + step],
            realization,
            reverse=reverse,
        )
        for start in range(0, len(log_A), step)
    ]
    values, vectors = torch.linalg.eigh(torch.cat(moments))
    # Rounding may have made a moment slightly indefinite.
    roots: Tensor = vectors * values.clamp(min=0).sqrt()[:, None, :]
    return roots


def _thinned(signals: Sequence[Tensor]) -> Sequence[Tensor]:
    """Every second, third, ... sequence, so that about :data:`MAX_ROWS` steps are run.

    A channel has few states to tell apart, and running all recorded sequences through every channel would
    cost more than all the rest of a cut.
    """
    step = max(1, sum(signal.shape[0] * signal.shape[1] for signal in signals) // MAX_ROWS)
    return [signal[::step] for signal in signals]


def _moments(
    signals: Sequence[Tensor], A: Tensor, into: Tensor, realization: Realization, *, reverse: bool
) -> Tensor:
    """``E[x x^H]`` of a few channels, which run as one system whose input matrix is block diagonal."""
    channels, states = A.shape
    real = realization == "real"
    size = states * (2 if real else 1)
    total = torch.zeros(channels, size, size, dtype=torch.float64 if real else torch.complex128)
    stride = max(1, sum(signal.shape[0] * signal.shape[1] for signal in signals) // MAX_ROWS)
    spread = (torch.eye(channels, dtype=into.dtype)[:, None, :] * into[:, :, None]).flatten(0, 1)
    count = 0
    for u in signals:
        x = lti_states(u, pair(A.flatten()).to(u.dtype), pair(spread).to(u.dtype), reverse=reverse)
        x = x.flatten(0, 1)[::stride].double().reshape(-1, 2, channels, states)
        columns = x.permute(2, 0, 1, 3).flatten(2)  # (channels, rows, [Re x, Im x])
        if not real:
            columns = torch.complex(*columns.tensor_split(2, dim=2))
        total += columns.mT @ columns.conj()
        count += x.shape[0]
    return total / count
