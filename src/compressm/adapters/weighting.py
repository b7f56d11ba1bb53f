"""Balance a layer by the signals that really pass through it.

The Gramians of a system take its input for white noise and all its outputs for equally important. Recorded
inputs of a layer, and gradients of the loss by its outputs, say what is really excited and what really
matters. Measured on sequential MNIST, the states that a layer really visits matter most by far: at 8 of 256
states and without retraining, a cut keeps 82 to 86 % accuracy of 89 where the system's own Gramians keep 14
to 43 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from compressm.adapters.parameters import pair
from compressm.lti import (
    Balancing,
    DiagonalSystem,
    Realization,
    balance,
    controllability_factor,
    observability_factor,
)
from compressm.lti.hermitian import mirrored, outer_products
from compressm.scan import lti_states

WeightingKind = Literal["none", "states", "gradients", "covariance"]
WEIGHTINGS: tuple[str, ...] = get_args(WeightingKind)

MAX_ROWS = 1 << 14
"""About so many time steps enter an empirical Gramian: neighbouring states tell the same, so of more steps
only every second, third, ... is taken.

Measured on MNIST's pixels and random layers (96 states, 8 and 64 channels, cut to 12 and 24): half as many
move a cut's error on other images by at most 0.8 %, other recorded images by up to 4 %."""


@dataclass(frozen=True)
class Weighting:
    """What a reduction may know of a layer's signals.

    ``none``: nothing; the Gramians are the system's own and the error bound holds. ``states``: the
    controllability Gramian is that of the states which recorded inputs drive, ``P = E[x x^T]``.
    ``gradients``: the observability Gramian, too, is empirical, ``Q = E[w w^T]`` of the adjoint states
    ``w_k = conj(lambda) w_{k+1} + C^H g_k``. ``covariance``: the system's Gramians with ``B`` and ``C``
    weighted by static covariances, ``B E[u u^T]^{1/2}`` and ``E[g g^T]^{1/2} C``.

    Attributes:
        kind: One of these.
        inputs: Recorded inputs, each ``(sequences, L, H)``.
        gradients: Gradients of the loss by the outputs, each ``(sequences, L, P)``; only needed for
            ``gradients``, and used by ``covariance`` where they are given.
    """

    kind: WeightingKind = "none"
    inputs: Sequence[Tensor] = ()
    gradients: Sequence[Tensor] = ()

    def __post_init__(self) -> None:
        if self.kind not in WEIGHTINGS:
            raise ValueError(f"weighting is {self.kind!r}; choose one of {', '.join(WEIGHTINGS)}")

    def channel(self, index: int) -> Weighting:
        """What it knows of one channel, for layers of single-input single-output systems."""
        here = slice(index, index + 1)
        return replace(
            self,
            inputs=[u[..., here] for u in self.inputs],
            gradients=[g[..., here] for g in self.gradients],
        )

    def balance(self, system: DiagonalSystem, realization: Realization) -> Balancing:
        """Balance one system with what is known.

        Raises:
            ValueError: If signals that the kind needs were not recorded, or hold values that are not finite.
        """
        if self.kind == "none":
            return balance(system, realization)
        if self.kind == "covariance":
            return balance(
                system,
                realization,
                controllability=controllability_factor(
                    system, realization, input_factor=_covariance_root("inputs", self._recorded("inputs"))
                ),
                observability=observability_factor(
                    system,
                    realization,
                    output_factor=_covariance_root("gradients", self.gradients) if self.gradients else None,
                ),
            )
        empirical = self.kind == "gradients"
        return balance(
            system,
            realization,
            controllability=state_factor(system, self._recorded("inputs"), realization),
            observability=adjoint_factor(system, self._recorded("gradients"), realization)
            if empirical
            else None,
        )

    def _recorded(self, name: Literal["inputs", "gradients"]) -> Sequence[Tensor]:
        signals: Sequence[Tensor] = getattr(self, name)
        if not signals:
            raise ValueError(f"weighting {self.kind!r} needs recorded {name}, and there are none")
        return signals


def state_factor(system: DiagonalSystem, inputs: Sequence[Tensor], realization: Realization) -> Tensor:
    """A factor of ``E[x x^H]`` over the states that ``inputs`` drive, from zero.

    Args:
        system: The system.
        inputs: Signals ``(sequences, L, H)``.
        realization: The coordinates of the factor: ``(Re x, Im x)`` or ``x``.

    Returns:
        ``(2N, 2N)`` float64 or ``(N, N)`` complex128.

    Raises:
        ValueError: If an input is not finite.
    """
    return _root(_moment("inputs", inputs, system.A, system.B, realization, reverse=False))


def adjoint_factor(system: DiagonalSystem, gradients: Sequence[Tensor], realization: Realization) -> Tensor:
    """A factor of ``E[w w^H]`` over the adjoint states that ``gradients`` drive, against time.

    Shapes, result and errors as in :func:`state_factor`, with outputs for inputs. The factor belongs to the
    observability Gramian ``Q``.
    """
    # C^H g is the gradient of Re(C x) by (Re x, Im x), as a complex number.
    return _root(_moment("gradients", gradients, system.A.conj(), system.C.mH, realization, reverse=True))


def _moment(
    name: str, signals: Sequence[Tensor], A: Tensor, into: Tensor, realization: Realization, *, reverse: bool
) -> Tensor:
    """``E[x x^H]`` over time steps of all signals, float64 or complex128."""
    real = realization == "real"
    size = A.shape[0] * (2 if real else 1)
    # Signals of a GPU stay there, which makes their states many times faster; in double precision, for
    # float32 products there may be set to fewer digits.
    device = signals[0].device if signals[0].device.type == "cuda" else torch.device("cpu")
    total = torch.zeros(size, size, dtype=torch.float64 if real else torch.complex128, device=device)
    stride = max(1, sum(signal.shape[0] * signal.shape[1] for signal in signals) // MAX_ROWS)
    count = 0
    for signal in signals:
        _check_finite(name, signal)
        least = torch.float64 if device.type == "cuda" else torch.float32
        u = signal.to(device, torch.promote_types(signal.dtype, least))
        x = lti_states(u, pair(A).to(u), pair(into).to(u), reverse=reverse)
        x = x.flatten(0, 1)[::stride]
        outer_products(x.flatten(1) if real else torch.complex(x[:, 0], x[:, 1]), total=total)
        count += len(x)
    return (mirrored(total) / count).cpu()


def _root(moment: Tensor) -> Tensor:
    """A square root of a positive semidefinite matrix."""
    size = moment.diagonal().real.clamp(min=0.0).sqrt()
    scale = torch.where(size > 0, size, torch.ones_like(size))
    correlations = moment / scale[:, None] / scale
    # Rounding may have made a singular one slightly indefinite; by as little it is lifted.
    correlations.diagonal().add_(len(moment) * torch.finfo(torch.float64).eps)
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(correlations)
    if not int(failed):
        root = size[:, None] * root  # a silent state stays silent
        return root
    values, vectors = torch.linalg.eigh(moment)
    root = vectors * values.clamp(min=0).sqrt()
    return root


def _covariance_root(name: str, signals: Sequence[Tensor]) -> Tensor:
    width, count = signals[0].shape[-1], 0
    total = torch.zeros(width, width, dtype=torch.float64)
    for signal in signals:
        _check_finite(name, signal)
        rows = signal.detach().cpu().flatten(0, 1)
        outer_products(rows, total=total)
        count += len(rows)
    return _root(mirrored(total) / count)


def _check_finite(name: str, signal: Tensor) -> None:
    # Smallest and largest are not finite if anything is not, and take no mask of the signal's size.
    if signal.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(signal.detach()))).all()):
        raise ValueError(f"recorded {name} hold values that are not finite")
