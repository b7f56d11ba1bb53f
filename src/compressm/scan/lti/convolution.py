"""The recurrence as a causal convolution with its impulse response, by FFT over time.

Without a state before the first step, ``y = K * u``; such a state adds ``Re(C lambda^{k+1} x)``. N
counts only in the making of the kernel, but there are ``H P`` products per frequency: the form for few
channels. Time runs contiguously inside the transforms, and frequencies lead in the products, which makes
them a batched matrix product. Gradients are written out; they recompute all spectra from the operands.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.scan.lti.impulse import Powers, left_factors, pull_left, pull_right, right_factors
from compressm.scan.lti.tails import final_state, pull_final_state, pull_state_response, state_response

PART_BYTES = 1 << 22
"""Spectra of one part of a batch, in bytes: beyond the caches, transforms and products slow down."""

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def convolution_forward(
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None, *, reverse: bool, final: bool = True
) -> tuple[Tensor, Tensor]:
    """Outputs (batch, L, P) and final state (batch, 2, N), which costs as much again: zeros if not wanted."""
    length = u.shape[1]
    powers = Powers.of(lam, length)
    size = transform_size(2 * length - 1)
    K = _Kernel.of(B, C, powers, length).spectrum(size)
    # Against time, the convolution becomes a correlation: the kernel's spectrum is conjugated.
    K = (K.conj_physical() if reverse else K).mT
    y = u.new_empty(u.shape[0], length, C.shape[1])
    for part in _parts(u, size, C):
        y[part] = _signal(torch.bmm(_spectrum(u[part], size), K), size, length)
    if state is not None:
        response = state_response(state, C, powers, length)
        y += response.flip(1) if reverse else response
    if not final:
        return y, u.new_zeros(u.shape[0], 2, lam.shape[1])
    return y, final_state(u, state, B, powers, reverse=reverse)


def convolution_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None,
    *, reverse: bool,
) -> Gradients:  # fmt: skip
    """Gradients of u, lambda, B, C and the initial state from those of outputs and final state."""
    (batch, length, _), N = u.shape, lam.shape[1]
    powers = Powers.of(lam, length)
    sums = _Sums.zeros(batch, N, B, C)
    grad_u = torch.zeros_like(u) if grad_y is None else _pull_outputs(grad_y, u, B, C, powers, sums, reverse)
    if grad_y is not None and state is not None:
        against = grad_y.flip(1) if reverse else grad_y
        sums.add(**pull_state_response(against, state, C, powers))
    if grad_final is not None:
        more, pulled = pull_final_state(grad_final, u, state, B, powers, reverse=reverse)
        grad_u += more
        sums.add(**pulled)
    return grad_u, *sums.real_pairs(u.dtype)


def transform_size(least: int) -> int:
    """The smallest of ``2^a 3^b 5^c 7^d``, a >= 5, that is at least ``least``: fast in every library."""
    best = 32
    while best < least:
        best *= 2
    for odd in (3, 5, 7, 9, 15, 21, 25, 27, 35, 45, 49):
        size = 32 * odd
        while size < least:
            size *= 2
        best = min(best, size)
    return best


@dataclass
class _Sums:
    """Gradients of lambda, B, C and the initial state while terms arrive, complex128."""

    lam: Tensor
    B: Tensor
    C: Tensor
    state: Tensor

    @classmethod
    def zeros(cls, batch: int, N: int, B: Tensor, C: Tensor) -> "_Sums":
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.complex128, device=B.device)

        return cls(lam=zeros(N), B=zeros(N, B.shape[2]), C=zeros(C.shape[1], N), state=zeros(batch, N))

    def add(self, **terms: Tensor) -> None:
        for name, term in terms.items():
            getattr(self, name).add_(term)

    def real_pairs(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        lam, B, C = (torch.stack((g.real, g.imag)).to(dtype) for g in (self.lam, self.B, self.C))
        return lam, B, C, torch.stack((self.state.real, self.state.imag), dim=1).to(dtype)


@dataclass(frozen=True)
class _Kernel:
    """The impulse response as the product of its factors: (count * P, step * H)."""

    left: Tensor
    right: Tensor
    steps: tuple[int, int]
    channels: tuple[int, int]
    length: int

    @classmethod
    def of(cls, B: Tensor, C: Tensor, powers: Powers, length: int) -> "_Kernel":
        left, right = left_factors(C, powers.coarse), right_factors(B, powers.fine)
        steps = powers.coarse.shape[0], powers.fine.shape[0]
        return cls(left=left, right=right, steps=steps, channels=(C.shape[1], B.shape[2]), length=length)

    def spectrum(self, size: int) -> Tensor:
        """(frequencies, P, H)."""
        (count, step), (P, H) = self.steps, self.channels
        taps = (self.left @ self.right.T).view(count, P, step, H).permute(1, 3, 0, 2).reshape(P, H, -1)
        return _frequencies_first(torch.fft.rfft(taps[..., : self.length], n=size))

    def pull(self, grad_spectrum: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Gradients of the factors, in float64, from that of the spectrum (frequencies, P, H).

        Signals with a mean put almost all energy of this correlation into frequency zero, and the factors of
        oscillating states cancel it again: in float32 the transform's rounding alone would cost two digits.
        """
        (count, step), (P, H) = self.steps, self.channels
        wide = grad_spectrum.permute(1, 2, 0).to(torch.complex128, memory_format=torch.contiguous_format)
        taps = torch.fft.irfft(wide, n=size)[..., : self.length]
        padded = torch.nn.functional.pad(taps, (0, count * step - self.length))
        product = padded.view(P, H, count, step).permute(2, 0, 3, 1).reshape(count * P, step * H)
        left: Tensor = product @ self.right.double()
        right: Tensor = product.T @ self.left.double()
        return left, right


def _pull_outputs(
    grad_y: Tensor, u: Tensor, B: Tensor, C: Tensor, powers: Powers, sums: _Sums, reverse: bool
) -> Tensor:
    """Gradient of u through the outputs; those of lambda, B and C go to ``sums``."""
    length = u.shape[1]
    size = transform_size(2 * length - 1)
    kernel = _Kernel.of(B, C, powers, length)
    K = kernel.spectrum(size)
    against, grad_K, grad_u = K if reverse else K.conj_physical(), torch.zeros_like(K), torch.empty_like(u)
    for part in _parts(u, size, C):
        G, U = _spectrum(grad_y[part], size), _spectrum(u[part], size)
        grad_u[part] = _signal(torch.bmm(G, against), size, length)
        # A correlation of gradient and input: one of the two is conjugated, whichever comes later.
        late, early = (G.conj_physical(), U) if reverse else (G, U.conj_physical())
        grad_K.baddbmm_(late.mT, early)
    grad_left, grad_right = kernel.pull(grad_K, size)
    fine, coarse = powers.slopes()
    grad_C, lam_left = pull_left(grad_left, C, powers.coarse, coarse)
    grad_B, lam_right = pull_right(grad_right, B, powers.fine, fine)
    sums.add(C=grad_C, B=grad_B, lam=lam_left + lam_right)
    return grad_u


def _parts(u: Tensor, size: int, C: Tensor) -> list[slice]:
    """Slices of the batch whose spectra take at most ``PART_BYTES``."""
    batch, bytes_each = u.shape[0], size * max(u.shape[2], C.shape[1]) * u.element_size()
    count = -(-batch // max(1, PART_BYTES // bytes_each))
    each = -(-batch // count)
    return [slice(first, min(first + each, batch)) for first in range(0, batch, each)]


def _spectrum(signal: Tensor, size: int) -> Tensor:
    """(batch, L, channels) to (frequencies, batch, channels)."""
    return _frequencies_first(torch.fft.rfft(signal.mT.contiguous(), n=size))


def _signal(spectrum: Tensor, size: int, length: int) -> Tensor:
    """(frequencies, batch, channels) to (batch, L, channels), a view."""
    signal: Tensor = torch.fft.irfft(spectrum.permute(1, 2, 0).contiguous(), n=size)
    return signal[..., :length].mT


def _frequencies_first(spectrum: Tensor) -> Tensor:
    return spectrum.permute(2, 0, 1).contiguous()
