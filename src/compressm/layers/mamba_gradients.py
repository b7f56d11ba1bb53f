"""Where programs of a Mamba layer put gradients of its parameters: each core its sums, then all together."""

from functools import lru_cache
from math import prod
from typing import NamedTuple

from torch import Tensor

from compressm.layers.mamba_sizes import Sizes
from compressm.scan.runtime.program import Gathered, Parts, Place, Program
from compressm.scan.runtime.widths import LANES

_FLOAT = 4


class Part(NamedTuple):
    """A part of a worker's sums: where it begins, in floats, and its shape."""

    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, sums: Tensor) -> Tensor:
        """The part of a tensor of sums."""
        return sums.as_strided(self.shape, self.strides, self.start)


class _Taking:
    """Gives parts, one behind the other, each from whole vectors on."""

    def __init__(self, start: int) -> None:
        self.end = start

    def __call__(self, *shape: int) -> Part:
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        part = Part(self.end, shape, strides)
        self.end += -(-prod(shape) // LANES) * LANES
        return part


class Sums(NamedTuple):
    """What a worker adds up: gradients of parameters, those of filters and channels in the kernels' order."""

    in_weight: Part
    filters: Part  # and their bias
    select: Part
    dt_weight: Part
    channels: Part  # of A, of the time steps' weights if of low rank, of D and of their bias
    out_weight: Part
    norm_weight: Part
    end: int

    @classmethod
    def of(cls, s: Sizes, start: int = 0) -> "Sums":
        """One behind the other from ``start`` on."""
        part = _Taking(start)
        return cls(
            in_weight=part(2 * s.d, s.H),
            filters=part(s.K + 1, s.d),
            select=part(s.chosen, s.d),
            dt_weight=part(0 if s.low else s.d, s.rank),
            channels=part(s.d // LANES, s.N + s.low + 2, LANES),
            out_weight=part(s.H, s.d),
            norm_weight=part(s.H),
            end=part.end,
        )


class Gradients(NamedTuple):
    """Gradients of a layer's parameters, of the shapes that these have, one behind the other."""

    in_weight: Part
    filters: Part
    filter_bias: Part
    select: Part
    dt_weight: Part
    dt_bias: Part
    A_log: Part
    D: Part
    out_weight: Part
    norm_weight: Part
    end: int

    @classmethod
    def of(cls, s: Sizes, start: int = 0) -> "Gradients":
        """From ``start`` on."""
        take = _Taking(start)
        return cls(
            in_weight=take(2 * s.d, s.H),
            filters=take(s.d, 1, s.K),
            filter_bias=take(s.d),
            select=take(s.chosen, s.d),
            dt_weight=take(s.d, s.rank),
            dt_bias=take(s.d),
            A_log=take(s.d, s.N),
            D=take(s.d),
            out_weight=take(s.H, s.d),
            norm_weight=take(s.H),
            end=take.end,
        )


def add_gathering(program: Program, s: Sizes, sums: Sums, parts: Parts, to: Gathered, rates: Place) -> None:
    """Gradients of a layer's parameters next, from what all workers have added up.

    Args:
        program: Where to.
        s: Sizes of the layer.
        sums: Where its parts of the sums begin.
        parts: All workers' sums.
        to: Where gradients go, from the beginning of :class:`Gradients` on that begin at 0.
        rates: A, as the layer's other programs read it.
    """
    to_parts = Gradients.of(s)

    def gather(
        source: Part, block: tuple[int, int, int], rows: tuple[int, int], out: Part, by: Place | None = None
    ) -> None:
        here = parts._replace(place=parts.place.plus(source.start * _FLOAT))
        program.gather(here, block, rows, to._replace(out=to.out.plus(out.start * _FLOAT), rates=by))

    for name in ("in_weight", "select", "out_weight", "norm_weight"):
        source = getattr(sums, name)
        gather(source, (1, 1, prod(source.shape)), (0, 1), getattr(to_parts, name))
    filters, channels = (1, s.K + 1, s.d), (s.d // LANES, s.N + s.low + 2, LANES)
    gather(sums.filters, filters, (0, s.K), to_parts.filters)
    gather(sums.filters, filters, (s.K, 1), to_parts.filter_bias)
    gather(sums.channels, channels, (0, s.N), to_parts.A_log, rates)
    if s.low:
        gather(sums.channels, channels, (s.N, s.low), to_parts.dt_weight)
    else:
        gather(sums.dt_weight, (1, 1, s.d * s.rank), (0, 1), to_parts.dt_weight)
    gather(sums.channels, channels, (s.N + s.low, 1), to_parts.D)
    gather(sums.channels, channels, (s.N + s.low + 1, 1), to_parts.dt_bias)


@lru_cache(maxsize=64)
def gathering_program(s: Sizes, workers: int) -> Program:
    """From the sums of workers, rates and a factor to gradients of the parameters, ``flat``."""
    program, sums = Program(), Sums.of(s)
    parts = Parts(program.operand("sums"), workers, sums.end)
    to = Gathered(program.operand("flat"), program.operand("factor"))
    add_gathering(program, s, sums, parts, to, program.operand("A"))
    return program
