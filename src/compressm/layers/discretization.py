"""From continuous time to steps and back: zero-order hold and the bilinear transform, mode by mode.

``x' = a x + b u`` with step ``dt`` becomes ``x_k = λ x_{k-1} + f b u_k``. Everything here is float64,
whatever the layer's own type: vectors of ``N`` numbers cost nothing, and ``1 - |λ|`` keeps its digits.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Discretization = Literal["zoh", "bilinear"]

FASTEST_DECAY = 50.0
"""A mode with ``-log|λ|`` beyond this forgets its input at once in any precision."""


class Discrete(NamedTuple):
    """A discretised diagonal system, float64.

    Attributes:
        log_modulus: ``log|λ|``.
        angle: ``arg λ``, not wrapped.
        factor_re: Real part of ``f``, by which the input matrix is multiplied.
        factor_im: Its imaginary part.
    """

    log_modulus: Tensor
    angle: Tensor
    factor_re: Tensor
    factor_im: Tensor

    def eigenvalues(self) -> Tensor:
        """``λ`` as a real pair, ``(2, ...)``."""
        modulus = torch.exp(self.log_modulus)
        return torch.stack((modulus * torch.cos(self.angle), modulus * torch.sin(self.angle)))

    def log_eigenvalues(self) -> Tensor:
        """``log λ``, complex128."""
        return torch.complex(self.log_modulus, self.angle)

    def factor(self) -> Tensor:
        """``f``, complex128."""
        return torch.complex(self.factor_re, self.factor_im)


def initial_log_dt(layer: str, count: int, dt_min: float, dt_max: float) -> Tensor:
    """Logarithms of steps drawn log-uniformly from ``[dt_min, dt_max]``.

    Raises:
        ValueError: Unless ``0 < dt_min <= dt_max``; it names the layer.
    """
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"{layer}: dt_min={dt_min} and dt_max={dt_max} must satisfy 0 < dt_min <= dt_max")
    low, high = math.log(dt_min), math.log(dt_max)
    return low + (high - low) * torch.rand(count)


def check_discretization(layer: str, method: str) -> None:
    """Refuse an unknown method.

    Raises:
        ValueError: Naming the layer and the choices.
    """
    if method not in get_args(Discretization):
        choices = ", ".join(get_args(Discretization))
        raise ValueError(f"{layer}: discretization is {method!r}; choose one of {choices}")


def discretize(log_A_real: Tensor, A_imag: Tensor, log_dt: Tensor, method: Discretization) -> Discrete:
    """Discretise ``a = -exp(log_A_real) + i A_imag`` with steps ``exp(log_dt)``; differentiable.

    ``"zoh"``: ``λ = exp(a dt)``, ``f = (λ - 1) / a``, exact for inputs that are constant over a step.
    ``"bilinear"``: ``λ = (1 + a dt/2) / (1 - a dt/2)``, ``f = dt / (1 - a dt/2)``.
    """
    real, imag = -torch.exp(log_A_real.double()), A_imag.double()
    dt = torch.exp(log_dt.double())
    return (_zero_order_hold if method == "zoh" else _bilinear)(real, imag, dt)


def continuous_eigenvalues(
    log_eigenvalues: Tensor, dt: Tensor, method: Discretization
) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`discretize`: ``(log_A_real, A_imag)`` of given ``log λ``, complex128.

    Decay is limited to :data:`FASTEST_DECAY`, and angles are taken in ``[-pi, pi]``. A negative real ``λ``
    has ``A_imag = pi / dt`` under zero-order hold, where no real ``a`` gives it.
    """
    decay = (-log_eigenvalues.real).clamp(max=FASTEST_DECAY)
    angle = log_eigenvalues.imag
    angle = torch.where(angle.abs() > math.pi, torch.remainder(angle + math.pi, 2 * math.pi) - math.pi, angle)
    if method == "zoh":
        return torch.log(decay / dt), angle / dt
    # a dt = 2 (λ - 1) / (λ + 1), with |1 + λ|² summed from squares: it may be as small as (1 - |λ|)².
    modulus = torch.exp(-decay)
    near = torch.expm1(-decay).square() + 4.0 * modulus * torch.cos(0.5 * angle).square()
    sine = torch.where(angle.abs() == math.pi, 0.0, torch.sin(angle))
    return torch.log(-2.0 * torch.expm1(-2.0 * decay) / (near * dt)), 4.0 * modulus * sine / (near * dt)


def _zero_order_hold(real: Tensor, imag: Tensor, dt: Tensor) -> Discrete:
    a, b = real * dt, imag * dt
    modulus = torch.exp(a)
    # λ - 1 without cancellation: both terms of its real part are negative.
    rise = torch.expm1(a) - 2.0 * modulus * torch.sin(0.5 * b).square()
    turn = modulus * torch.sin(b)
    square = real.square() + imag.square()
    return Discrete(a, b, (rise * real + turn * imag) / square, (turn * real - rise * imag) / square)


def _bilinear(real: Tensor, imag: Tensor, dt: Tensor) -> Discrete:
    a, b = real * dt, imag * dt
    below = (1.0 - 0.5 * a).square() + 0.25 * b.square()
    above = ((1.0 + 0.5 * a).square() + 0.25 * b.square()).clamp(min=math.exp(-2.0 * FASTEST_DECAY))
    # |λ|² = above / below = 1 + 2a / below: the first form keeps the digits of small |λ|, the second of those
    # near 1.
    excess = 2.0 * a / below
    small = excess < -0.5
    log_square = torch.where(
        small, torch.log(above) - torch.log(below), torch.log1p(torch.where(small, 0.0, excess))
    )
    real_part = 1.0 - 0.25 * (a.square() + b.square())
    # arg 0 is 0, and so must its gradient be.
    angle = torch.atan2(b, torch.where((real_part == 0.0) & (b == 0.0), 1.0, real_part))
    return Discrete(0.5 * log_square, angle, dt * (1.0 - 0.5 * a) / below, 0.5 * dt * b / below)
