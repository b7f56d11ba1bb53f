"""Sums of exponentials over time, for many independent channels, in little memory.

A channel's kernel is ``K_l = Re(sum_n r_n λ_n^l)`` for ``l < L``. Written out, the powers are ``H N L``
numbers; here every ``l`` is ``m q + s`` and ``λ^l = λ^{mq} λ^s``, so that two tables of about ``H N sqrt(L)``
numbers and one batched matrix product of them give the kernel, and autograd keeps nothing larger. The tables
are formed in float64 and rounded once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PowerTables:
    """``λ^l`` for ``l = 0 .. L-1`` in two factors. Made by :meth:`of`.

    Attributes:
        length: ``L``.
        coarse: ``λ^{mq}`` as a float64 pair ``(2, H, Q, N)``.
        fine: ``λ^s`` as a pair ``(2, H, N, m)`` in the type of the computation.
    """

    length: int
    coarse: Tensor
    fine: Tensor

    @classmethod
    def of(cls, log_modulus: Tensor, angle: Tensor, length: int, dtype: torch.dtype) -> PowerTables:
        """Tables for ``λ = exp(log_modulus + i angle)``, float64 ``(H, N)``."""
        block = 1 << math.ceil(math.log2(length) / 2)
        count = -(-length // block)
        fine = torch.arange(block, dtype=torch.float64, device=angle.device)
        coarse = block * torch.arange(count, dtype=torch.float64, device=angle.device)[:, None]
        return cls(
            length,
            _powers(log_modulus[:, None, :], angle[:, None, :], coarse),
            _powers(log_modulus[:, :, None], angle[:, :, None], fine).to(dtype),
        )

    def sums(self, weights: Tensor) -> Tensor:
        """``Re(sum_n w_n λ_n^l)``.

        Args:
            weights: ``w`` as a pair ``(2, ..., H, N)``.

        Returns:
            ``(H, ..., L)``.
        """
        moved = weights.movedim(-2, 1)
        between = moved.shape[2:-1]
        rows = moved.reshape(2, moved.shape[1], -1, 1, moved.shape[-1])
        left = _product(rows, self.coarse[:, :, None]).to(self.fine.dtype)  # (2, H, rows, Q, N)
        left = torch.cat((left[0], -left[1]), dim=-1).flatten(1, 2)
        table = left @ torch.cat((self.fine[0], self.fine[1]), dim=1)
        return table.reshape(table.shape[0], *between, -1)[..., : self.length]

    def moments(self, signal: Tensor) -> Tensor:
        """``sum_l λ^{L-1-l} v_l``: what a recurrence driven by ``v`` has reached after ``L`` steps.

        Args:
            signal: ``v``, real ``(H, B, L)``.

        Returns:
            A pair ``(2, B, H, N)``.
        """
        channels, batch, _ = signal.shape
        count, block = self.coarse.shape[2], self.fine.shape[3]
        backward = torch.nn.functional.pad(signal.flip(-1), (0, count * block - self.length))
        table = torch.cat((self.fine[0], self.fine[1]), dim=1)
        inner = backward.reshape(channels, batch * count, block) @ table.mT
        inner = inner.reshape(channels, batch, count, -1)  # real parts, then imaginary parts
        re, im = self.coarse.to(self.fine.dtype)[:, :, None]
        parts = (torch.cat((re, -im), dim=-1), torch.cat((im, re), dim=-1))
        # Summed over time before the halves are added: the large array is read twice and never copied.
        halves = [(inner * part).sum(dim=2).tensor_split(2, dim=-1) for part in parts]
        return torch.stack([first + second for first, second in halves]).movedim(1, 2)


def _powers(log_modulus: Tensor, angle: Tensor, exponent: Tensor) -> Tensor:
    modulus = torch.exp(log_modulus * exponent)
    turned = angle * exponent
    return torch.stack((modulus * torch.cos(turned), modulus * torch.sin(turned)))


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Complex product of pairs."""
    return torch.stack((x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]))
