"""The impulse response ``K_k = Re(C Lambda^k B)`` as one matrix product, and its gradients.

With ``k = a m + b`` the response factorises, ``K_{am+b} = Re((C Lambda^{am}) (Lambda^b B))``: about
``2 sqrt(L)`` powers of lambda instead of L, and a real product of the stacks of left and right factors.
Powers are formed in float64 and rounded once.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Powers:
    """Powers of lambda in complex128: ``fine[b] = lambda^b``, b < m, ``coarse[a] = lambda^{am}``, a < count.

    ``base`` is lambda itself.
    """

    base: Tensor
    fine: Tensor
    coarse: Tensor

    @classmethod
    def of(cls, lam: Tensor, length: int) -> "Powers":
        """Enough powers for the exponents ``0 .. length - 1``; ``lam`` is a real pair (2, N)."""
        value = torch.complex(lam[0].double(), lam[1].double())
        step = math.ceil(math.sqrt(length))
        fine = _powers(value, step)
        return cls(base=value, fine=fine, coarse=_powers(fine[-1] * value, -(-length // step)))

    def power(self, k: int) -> Tensor:
        """``lambda^k`` for one k up to the length these powers were made for."""
        count, step = self.coarse.shape[0], self.fine.shape[0]
        a = min(k // step, count - 1)
        b = k - a * step
        return self.coarse[a] * (self.fine[b] if b < step else self.fine[-1] * self.base)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """Derivatives of fine and coarse by lambda: ``b lambda^{b-1}`` and ``a m lambda^{am-1}``."""
        step, count = self.fine.shape[0], self.coarse.shape[0]
        index = torch.arange(max(step, count), dtype=torch.float64, device=self.fine.device)[:, None]
        fine, coarse = torch.zeros_like(self.fine), torch.zeros_like(self.coarse)
        fine[1:] = index[1:step] * self.fine[:-1]
        coarse[1:] = index[1:count] * step * (self.coarse[:-1] * self.fine[-1])
        return fine, coarse


def _powers(value: Tensor, count: int) -> Tensor:
    """``value^0 .. value^{count - 1}``, (count, N), by doubling: exact zeros and ones stay exact."""
    powers = torch.ones(1, *value.shape, dtype=value.dtype, device=value.device)
    factor = value
    while powers.shape[0] < count:
        powers = torch.cat((powers, powers * factor))
        factor = factor * factor
    return powers[:count]


def left_factors(C: Tensor, powers: Tensor) -> Tensor:
    """``C Lambda^k`` for each power, as real rows ``[Re, -Im]``: (count * P, 2 N) in C's dtype."""
    product = torch.complex(C[0].double(), C[1].double()) * powers[:, None]
    return torch.cat((product.real, -product.imag), dim=-1).flatten(0, 1).to(C.dtype)


def right_factors(B: Tensor, powers: Tensor) -> Tensor:
    """``Lambda^k B`` for each power, as real rows ``[Re, Im]`` of B's transpose: (count * H, 2 N)."""
    product = torch.complex(B[0].double(), B[1].double()).T * powers[:, None]
    return torch.cat((product.real, product.imag), dim=-1).flatten(0, 1).to(B.dtype)


def pull_left(grad: Tensor, C: Tensor, powers: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of C (complex, (P, N)) and lambda (complex, (N,)) from that of :func:`left_factors`."""
    N = powers.shape[1]
    blocks = grad.view(powers.shape[0], -1, 2 * N).double()
    g = torch.complex(blocks[..., :N], -blocks[..., N:])
    grad_C = torch.einsum("apn,an->pn", g, powers.conj())
    grad_lam = (
        torch.einsum("apn,an->pn", g, slopes.conj()) * torch.complex(C[0].double(), -C[1].double())
    ).sum(0)
    return grad_C, grad_lam


def pull_right(grad: Tensor, B: Tensor, powers: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of B (complex, (N, H)) and lambda (complex, (N,)) from that of :func:`right_factors`."""
    N = powers.shape[1]
    blocks = grad.view(powers.shape[0], -1, 2 * N).double()
    g = torch.complex(blocks[..., :N], blocks[..., N:])
    grad_B = torch.einsum("bhn,bn->nh", g, powers.conj())
    grad_lam = (
        torch.einsum("bhn,bn->nh", g, slopes.conj()) * torch.complex(B[0].double(), -B[1].double())
    ).sum(1)
    return grad_B, grad_lam
