"""Programs: several kernels, one after the other, on one sequence after the other.

Kernels that each go over a whole batch leave to the next what no cache holds. A worker that takes one
sequence through all of them finds what it has just made in its own core's cache, and meets the other workers
only at the end. Python is asked once for a program, not once for a kernel.

A program knows sizes alone: it is made once for a shape, and run on the addresses of each call.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from compressm.scan.runtime.blas import gemm_addresses, processor_has
from compressm.scan.runtime.compiled import Kernel, stored
from compressm.scan.runtime.team import run_kernel

_MODULE = "compressm.scan.runtime.program_kernels"
_RUN, _CLEAR = Kernel(_MODULE, "run"), Kernel(_MODULE, "clear")
_COPY, _ADD = Kernel(_MODULE, "copy"), Kernel(_MODULE, "add")
_NARROW, _ADD_NARROW = Kernel(_MODULE, "narrow"), Kernel(_MODULE, "add_narrow")
_GATHER, _PRODUCT = Kernel(_MODULE, "gather"), stored(_MODULE, "product")
_LONGEST = 62
"""Words of a kernel behind worker and workers at most."""
_LINE = 64  # bytes
_FLOAT = 4


class Place(NamedTuple):
    """An address in a kernel's words: ``offset`` bytes behind where an operand begins for an item."""

    operand: int
    offset: int = 0

    def plus(self, offset: int) -> "Place":
        """So many bytes further."""
        return self._replace(offset=self.offset + offset)


Word = int | Place


class Matrix(NamedTuple):
    """``rows`` by ``columns`` numbers at a place, whose rows are ``width`` numbers apart.

    Turned, what lies there is its transpose.
    """

    place: Place
    rows: int
    columns: int
    width: int
    turned: bool = False

    @property
    def T(self) -> "Matrix":
        """The transpose, which lies where the matrix does."""
        return self._replace(rows=self.columns, columns=self.rows, turned=not self.turned)

    def some_rows(self, first: int, count: int, number: int) -> "Matrix":
        """``count`` of its rows from ``first`` on; a number has so many bytes."""
        gap = 1 if self.turned else self.width
        return self._replace(place=self.place.plus(first * gap * number), rows=count)


class Parts(NamedTuple):
    """So many parts, floats of ``gap`` apart, that are to be summed."""

    place: Place
    number: int
    gap: int


class Gathered(NamedTuple):
    """Where sums of parts go, times a factor and, where given, a rate for each, which lie as the sums do."""

    out: Place
    factor: Place
    rates: Place | None = None


class Program:
    """Kernels in the order in which each item passes them."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._per_item: list[int] = []  # bytes, for one operand after the other
        self._stages: list[str] = []
        self._table = array("q")
        self._memory = (self.operand(""), self.operand("kept"), self.operand(""))
        # Bytes of a worker's own memory, of what is kept of an item, and of a worker's sums.
        self._sizes = [0, 0, 0]
        self._room = 0  # bytes of a worker's own memory at most

    def operand(self, name: str, *, per_item: int = 0) -> Place:
        """A tensor of :meth:`run`, which has so many bytes for each item."""
        self._names.append(name)
        self._per_item.append(per_item)
        return Place(len(self._names) - 1)

    def room(self, count: int, number: int) -> Place:
        """Memory of each worker's own for ``count`` numbers of so many bytes, on lines of the cache."""
        return self._take(0, count, number)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """What :meth:`room` gives within is free again behind: it holds nothing between the stages there."""
        before = self._sizes[0]
        yield
        self._sizes[0] = before

    def kept(self, count: int, number: int) -> Place:
        """The same in an operand ``"kept"``, which has :attr:`kept_bytes` for each item.

        Programs that ask for the same in the same order find there what the other has left.
        """
        return self._take(1, count, number)

    def sums(self, count: int) -> Place:
        """Float32 numbers of each worker, zero when it begins, whose sum over workers :meth:`run` returns."""
        return self._take(2, count, _FLOAT)

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of its kernels, in their order."""
        return tuple(self._stages)

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept of an item."""
        return self._sizes[1]

    def add(self, kernel: Kernel, words: Sequence[Word]) -> None:
        """Let items pass a kernel next, ``words`` being those behind worker and workers."""
        if len(words) > _LONGEST:
            raise ValueError(f"a kernel of a program takes {_LONGEST} words, not {len(words)}")
        self._table.extend((kernel.address, len(words)))
        for word in words:
            self._table.extend((word.offset, word.operand) if isinstance(word, Place) else (word, -1))
        self._stages.append(kernel.name)

    def multiply(
        self, a: Matrix, b: Matrix, c: Matrix, dtype: torch.dtype, *, accumulate: bool = False
    ) -> None:
        """``c = a b``, or ``c += a b``; a and b are of ``dtype``, c is float32 and not turned."""
        sizes = (a.rows, b.columns, a.columns, int(accumulate))
        operands = (a.place, a.width, int(a.turned), b.place, b.width, int(b.turned), c.place, c.width)
        self.add(_PRODUCT[dtype], [*operands, *sizes])

    def narrow(self, source: Place, out: Place, count: int, *, accumulate: bool = False) -> None:
        """Round float32 numbers to bfloat16, or add them to those that are there."""
        self.add(_ADD_NARROW if accumulate else _NARROW, [count, source, out])

    def copy(self, source: Place, out: Place, count: int, *, accumulate: bool = False) -> None:
        """Copy float32 numbers, or add them to those that are there."""
        self.add(_ADD if accumulate else _COPY, [count, source, out])

    def clear(self, place: Place, count: int) -> None:
        """Make float32 numbers zero."""
        self.add(_CLEAR, [count, place])

    def gather(self, parts: Parts, block: tuple[int, int, int], rows: tuple[int, int], to: Gathered) -> None:
        """Sum over ``parts`` what lies lane by lane, and write it in the order of a matrix's rows.

        Args:
            parts: What is summed.
            block: Blocks, rows of each, and lanes of each row, which lie in this order.
            rows: The first of a block's rows that are wanted, and how many.
            to: Where ``(blocks lanes, rows wanted)`` goes.
        """
        words: list[Word] = [parts.number, parts.gap, parts.place, *block, *rows]
        rates: list[Word] = [int(to.rates is not None), 0 if to.rates is None else to.rates]
        self.add(_GATHER, [*words, *rates, to.factor, to.out])

    def run(
        self,
        operands: Mapping[str, Tensor | None],
        items: int,
        workers: int,
        *,
        stages: int | None = None,
    ) -> Tensor:
        """Take ``items`` through all kernels.

        Each worker takes neighbours, and has the memory of its number below ``workers``.

        Args:
            operands: By the names given to :meth:`operand`; None where no kernel reads what is there.
            items: Sequences.
            workers: Threads at most.
            stages: How many of the first kernels items pass, to learn how long each takes; all if None.

        Returns:
            What each worker has added up in :meth:`sums`, ``(workers, floats)``, one part behind the other as
            they were asked for.
        """
        room, (_, kept, summed) = self._room, self._sizes
        own = torch.empty(workers * room, dtype=torch.uint8, device="cpu")
        sums = torch.empty(workers, summed // _FLOAT, dtype=torch.float32, device="cpu")
        tensors = (own, operands.get("kept"), sums, *(operands[name] for name in self._names[3:]))
        addresses = array("q", [0 if x is None else x.data_ptr() for x in tensors])
        per_item = array("q", [0, kept, 0, *self._per_item[3:]])
        per_worker = array("q", [room, 0, summed, *(0 for _ in self._per_item[3:])])
        tables = (self._table, addresses, per_item, per_worker)
        words = [
            items,
            len(self._stages) if stages is None else stages,
            *(x.buffer_info()[0] for x in tables),
        ]
        run_kernel(_RUN, [*words, _LONGEST, sums.data_ptr(), sums.shape[1], workers], workers)
        return sums

    def _take(self, which: int, count: int, number: int) -> Place:
        at = self._memory[which].plus(self._sizes[which])
        self._sizes[which] += -(-count * number // _LINE) * _LINE
        self._room = max(self._room, self._sizes[0])
        return at


def sum_of(sums: Tensor) -> Tensor:
    """What all workers have added up, in memory of its own."""
    # PyTorch's sum over so short an axis takes five times as long. Whoever holds the result, as gradients are
    # held until the next step, must not hold the memory of all workers.
    total, *others = sums.unbind(0)
    for index, other in enumerate(others):
        total = total.add_(other) if index else total + other
    return total


def can_multiply(dtype: torch.dtype) -> bool:
    """Whether programs multiply numbers of ``dtype``, and by instructions for it: emulated, it is no gain."""
    found = gemm_addresses()
    if dtype == torch.bfloat16:
        return found is not None and "gemm_bf16bf16f32_" in found and processor_has("amx_bf16")
    return found is not None and dtype == torch.float32
