"""The least that a step can cost: its matrix products, and the bytes it must move."""

from collections.abc import Callable
from functools import singledispatch
from typing import NamedTuple

import torch

from compressm.bench.cases import (
    AttentionCase,
    Case,
    ChannelsCase,
    ClassifierCase,
    LtiCase,
    MambaCase,
    SelectiveCase,
)

FLOAT = 4  # bytes of a float32
_ADAMW = 8  # floats a parameter costs: gradient written and read; value and two moments read and written


class Product(NamedTuple):
    """A layer's product of ``(rows, inner)`` and ``(inner, columns)``, made ``times`` times a step."""

    rows: int
    inner: int
    columns: int
    times: int

    @property
    def flop(self) -> int:
        """Floating-point operations, forward and the two products of the backward pass."""
        return 6 * self.rows * self.inner * self.columns * self.times


class Work(NamedTuple):
    """What no implementation of a step can save.

    Attributes:
        products: Matrix products that the layer's definition asks for (none where there is none).
        bytes: Operands read and results written once by the forward pass and once by the backward pass,
            of every block and of the optimiser, everything between them kept in registers.
    """

    products: tuple[Product, ...]
    bytes: int

    @property
    def flop(self) -> int:
        """Floating-point operations of the products, forward and backward."""
        return sum(product.flop for product in self.products)


@singledispatch
def work(case: Case) -> Work:
    """The least work of a step of a case.

    Raises:
        TypeError: If the kind of case is unknown.
    """
    raise TypeError(f"no count of work for a {type(case).__name__}")


@work.register
def _(case: ClassifierCase) -> Work:
    H, N, rows = case.H, case.N, case.tokens
    products = (
        Product(rows, H, 2 * N, case.layers),  # B, real and imaginary parts
        Product(rows, 2 * N, H, case.layers),  # C
        Product(rows, H, 2 * H, case.layers),  # GLU
    )
    parameters = case.layers * (4 * N * H + 3 * N + H + 2 * H * (H + 1))
    parameters += H * (case.input_dim + 1) + case.classes * (H + 1)
    signals = case.layers * 5 * rows * H  # x read, x written; x and its gradient read, a gradient written
    return Work(products, FLOAT * (signals + _ADAMW * parameters))


@work.register
def _(case: SelectiveCase) -> Work:
    # u and delta in, y out; u, delta and y's gradient in, two gradients out. B and C likewise.
    return Work((), FLOAT * case.tokens * (8 * case.d + 6 * case.N))


@work.register
def _(case: MambaCase) -> Work:
    rows, hidden, inner = case.tokens, case.hidden, 2 * case.hidden
    rank = -(-hidden // 16)
    products = (
        Product(rows, hidden, 2 * inner, case.layers),
        Product(rows, inner, rank + 2 * case.N, case.layers),
        Product(rows, rank, inner, case.layers),
        Product(rows, inner, hidden, case.layers),
        Product(rows, hidden, case.vocabulary, 1),
    )
    weights = sum(p.inner * p.columns * p.times for p in products[:4]) + hidden * case.vocabulary
    parameters = weights + case.layers * inner * (case.N + 7)
    return Work(products, FLOAT * (case.layers * 5 * rows * hidden + _ADAMW * parameters))


@work.register
def _(case: AttentionCase) -> Work:
    decays = case.K if case.per_channel else 1
    operands = 2 * case.K + case.V + decays
    return Work((), FLOAT * case.tokens * case.heads * (3 * operands + 2 * case.V))


@work.register
def _(case: ChannelsCase) -> Work:
    return Work((), FLOAT * case.tokens * case.channels * 5)


@work.register
def _(case: LtiCase) -> Work:
    rows = case.tokens
    products = (Product(rows, case.H, 2 * case.N, 1), Product(rows, 2 * case.N, case.H, 1))
    return Work(products, FLOAT * 5 * rows * case.H)


def products_alone(needed: Work, device: str) -> Callable[[], object]:
    """A step of nothing but the matrix products, in buffers that are made once."""
    sets = [
        (_buffers(p.rows, p.inner, p.columns, device), _buffers(p.rows, p.inner, p.columns, device), p.times)
        for p in needed.products
    ]

    def run() -> None:
        for (x, weight, y), (like_x, like_weight, like_y), times in sets:
            for _ in range(times):
                torch.mm(x, weight.T, out=like_y)
                torch.mm(y, weight, out=like_x)
                torch.mm(y.T, x, out=like_weight)

    return run


def _buffers(rows: int, inner: int, columns: int, device: str) -> tuple[torch.Tensor, ...]:
    sizes = ((rows, inner), (columns, inner), (rows, columns))
    return tuple(torch.randn(size, device=device) for size in sizes)
