"""The programs of a Mamba layer on a CPU: what every sequence passes, forward and backward."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

from compressm.layers import rms_norm as norm
from compressm.layers.mamba_gradients import Part, Sums
from compressm.layers.mamba_sizes import Sizes
from compressm.scan.runtime.program import Matrix, Place, Program, Word
from compressm.scan.selective import cpu as recurrence
from compressm.scan.selective.layout import chunks_of
from compressm.scan.short_convolution import cpu as convolution

_FLOAT = 4


class Rows(NamedTuple):
    """Places of what both passes read for each step, and matrices of parameters."""

    given: Place
    u: Matrix
    xz: Matrix
    x: Matrix
    chosen: Matrix
    delta: Matrix
    y: Matrix
    plain: Place
    before: Place
    in_weight: Matrix
    select: Matrix
    dt_weight: Matrix
    out_weight: Matrix
    filters: list[Word]  # weight, bias and window
    channels: dict[str, Place]  # bias, A, D and weight of the recurrence
    norm: list[Word]  # weight of the norm, eps, and what it divides by

    @classmethod
    def of(
        cls,
        program: Program,
        s: Sizes,
        given: Place,
        take: Callable[[int, int], Place],
        *,
        keep: bool,
        prefix: str = "",
    ) -> "Rows":
        """Of a layer whose inputs are at ``given`` and whose operands' names begin with ``prefix``.

        ``take`` gives memory for rows; with ``keep`` also for what the backward pass alone reads.
        """

        def operand(name: str, per_item: int = 0) -> Place:
            return program.operand(prefix + name, per_item=per_item)

        def rows(width: int) -> Matrix:
            return Matrix(take(s.L * width, s.number), s.L, width, width)

        def weight(name: str, rows: int, columns: int) -> Matrix:
            return Matrix(operand(name), rows, columns, columns)

        same = not (s.narrowed or s.normed)
        return cls(
            given=given,
            u=Matrix(given, s.L, s.H, s.H) if same else rows(s.H),
            xz=rows(2 * s.d),
            x=rows(s.d),
            chosen=rows(s.chosen),
            delta=rows(0 if s.low else s.d),
            y=rows(s.d),
            plain=take(s.L * s.d if keep else 0, s.number),
            before=take(chunks_of(s.L) * s.N * s.d if keep else 0, _FLOAT),
            in_weight=weight("in_weight", 2 * s.d, s.H),
            select=weight("select", s.chosen, s.d),
            dt_weight=weight("dt_weight", s.d, s.rank),
            out_weight=weight("out_weight", s.H, s.d),
            filters=[operand("filters"), operand("filter_bias"), operand("window", s.past)],
            channels={name: operand(name) for name in ("bias", "A", "D", "low_weight")},
            norm=[operand("norm_weight"), operand("eps"), take(s.L if s.normed else 0, _FLOAT)],
        )

    def recurrence(self, s: Sizes) -> tuple[list[Word], list[Word]]:
        """Operands of the recurrence, and the words of time steps of low rank."""
        of, at = self.channels, self.chosen.place
        B, C = at.plus(s.rank * s.number), at.plus((s.rank + s.N) * s.number)
        z = self.xz.place.plus(s.d * s.number)
        operands: list[Word] = [self.x.place, self.delta.place, of["bias"], of["A"], B, C, of["D"], z]
        return operands, [s.low, at, 0, s.chosen, of["low_weight"]]


def _multiply(
    program: Program,
    s: Sizes,
    wide: Place | None,
    a: Matrix,
    b: Matrix,
    c: Matrix,
    *,
    accumulate: bool = False,
) -> None:
    """``c = a b`` or ``c += a b`` with rows of their type, some at a time in float32 if it is another."""
    if wide is None:
        program.multiply(a, b, c, s.dtype, accumulate=accumulate)
        return
    for first in range(0, c.rows, s.wide_steps):
        few, to = (x.some_rows(first, min(s.wide_steps, c.rows - first), s.number) for x in (a, c))
        program.multiply(few, b, to._replace(place=wide), s.dtype)
        program.narrow(wide, to.place, to.rows * to.columns, accumulate=accumulate)


@lru_cache(maxsize=64)
def forward_program(s: Sizes, keep: bool) -> Program:
    """From inputs to outputs; with ``keep`` what the backward program starts from is kept."""
    program = Program()
    given = program.operand("given", per_item=s.given_bytes)
    at = Rows.of(program, s, given, program.kept if keep else program.room, keep=keep)
    final = program.operand("final", per_item=s.past)
    carry = program.operand("carry", per_item=s.carried * _FLOAT)
    out = Matrix(program.operand("out", per_item=s.L * s.H * s.out_number), s.L, s.H, s.H)
    add_forward(program, s, at, final, carry, out, keep=keep)
    return program


def add_forward(
    program: Program, s: Sizes, at: Rows, final: Place, carry: Place, out: Matrix, *, keep: bool
) -> None:
    """Let items pass a layer next.

    Args:
        program: Where to.
        s: Its sizes.
        at: Its rows and operands.
        final: Where the convolution's last inputs go.
        carry: The state before the first step, which becomes that after the last.
        out: Where outputs go, ``(L, H)``.
        keep: Whether what the backward pass reads is wanted.
    """
    wide = program.room(s.wide_steps * max(2 * s.d, s.chosen), _FLOAT) if s.half else None
    multiply = partial(_multiply, program, s, wide)
    if s.normed:
        weight, eps, scale = at.norm
        normed = program.room(s.L * s.H, _FLOAT) if s.narrowed else at.u.place
        program.add(norm.FORWARD, [s.L, s.H, at.given, weight, eps, normed, scale])
        if s.narrowed:
            program.narrow(normed, at.u.place, s.L * s.H)
    elif s.narrowed:
        program.narrow(at.given, at.u.place, s.L * s.H)
    multiply(at.u, at.in_weight.T, at.xz)
    program.add(convolution.FORWARD[s.dtype], [*s.convolution, at.xz.place, *at.filters, at.x.place, final])
    multiply(at.x, at.select.T, at.chosen)
    if not s.low:
        multiply(at.chosen._replace(columns=s.rank), at.dt_weight.T, at.delta)
    operands, low = at.recurrence(s)
    program.add(
        recurrence.FORWARD[s.dtype],
        recurrence.forward_words(
            s.recurrence, operands, [at.y.place, at.plain, carry, at.before], s.strides, low,
            softplus=True, gated=True, keep=keep,
        ),
    )  # fmt: skip
    if s.normed:
        program.copy(at.given, out.place, s.L * s.H)
        program.multiply(at.y, at.out_weight.T, out, s.dtype, accumulate=True)
    else:
        multiply(at.y, at.out_weight.T, out)


class Pulled(NamedTuple):
    """Places of gradients: what the backward pass begins with and what it makes.

    Args:
        out: Of the outputs.
        final: Of the final window, read if ``told``.
        window: Of the window before the first step.
        carry: Of the last state, which becomes that of the first.
        u: Of the inputs; not where ``out`` is.
        sums: Where a worker's sums begin.
        told: Whether there is a gradient of the final window.
    """

    out: Place
    final: Place
    window: Place
    carry: Place
    u: Place
    sums: Place
    told: bool


@lru_cache(maxsize=64)
def backward_program(s: Sizes, told: bool) -> Program:
    """From gradients of outputs to all others; ``told``: whether there is one of the final window."""
    program, sums = Program(), Sums.of(s)
    at = Rows.of(program, s, program.operand("given", per_item=s.given_bytes), program.kept, keep=True)
    pulled = Pulled(
        out=program.operand("grad_out", per_item=s.L * s.H * s.out_number),
        final=program.operand("grad_final", per_item=s.past),
        window=program.operand("grad_window", per_item=s.past),
        carry=program.operand("carry", per_item=s.carried * _FLOAT),
        u=program.operand("grad_u", per_item=s.given_bytes),
        sums=program.sums(sums.end),
        told=told,
    )
    add_backward(program, s, at, sums, pulled)
    return program


def add_backward(program: Program, s: Sizes, at: Rows, sums: Sums, pulled: Pulled) -> None:
    """Let items pass a layer's backward pass next, which adds to the parts ``sums`` of a worker's sums."""
    given, total = pulled.out, pulled.sums
    grad_u = Matrix(pulled.u, s.L, s.H, s.H)
    wide = program.room(s.wide_steps * max(s.d, s.H), _FLOAT) if s.half else None
    rounded = s.normed and s.half
    grad_out = Matrix(program.room(s.L * s.H, s.number) if rounded else given, s.L, s.H, s.H)
    grad_normed = Matrix(program.room(s.L * s.H if s.normed else 0, _FLOAT), s.L, s.H, s.H)
    grad_x, grad_y = (Matrix(program.room(s.L * s.d, s.number), s.L, s.d, s.d) for _ in range(2))
    grad_xz = Matrix(program.room(s.L * 2 * s.d, s.number), s.L, 2 * s.d, 2 * s.d)
    grad_delta = Matrix(program.room(0 if s.low else s.L * s.d, s.number), s.L, s.d, s.d)
    # Gradients of what inputs choose, float32 as the recurrence adds them up, then as products read them.
    grown = Matrix(program.room(s.chosen * s.padded, _FLOAT), s.chosen, s.L, s.padded)
    turned = grown if wide is None else grown._replace(place=program.room(s.chosen * s.padded, s.number))

    def add_up(a: Matrix, b: Matrix, part: Part) -> None:
        c = Matrix(total.plus(part.start * _FLOAT), a.rows, b.columns, b.columns)
        program.multiply(a, b, c, s.dtype, accumulate=True)

    multiply = partial(_multiply, program, s, wide)
    if rounded:
        program.narrow(given, grad_out.place, s.L * s.H)
    multiply(grad_out, at.out_weight, grad_y)
    add_up(grad_out.T, at.y, sums.out_weight)
    program.clear(grown.place, s.chosen * s.padded)
    operands, low = at.recurrence(s)
    first = (s.rank - s.low) * s.padded * _FLOAT  # rows of what the recurrence does not make
    program.add(
        recurrence.BACKWARD[s.dtype],
        recurrence.backward_words(
            s.recurrence, operands,
            [
                at.plain, at.before, grad_y.place, grad_x.place, grad_delta.place,
                grad_xz.place.plus(s.d * s.number), grown.place.plus(first),
                total.plus(sums.channels.start * _FLOAT), pulled.carry,
            ],
            [*s.strides, 0, 2 * s.d], low, softplus=True, gated=True, groups=1,
        ),
    )  # fmt: skip
    if not s.low:
        program.multiply(at.dt_weight.T, grad_delta.T, grown._replace(rows=s.rank), s.dtype)
        add_up(grad_delta.T, at.chosen._replace(columns=s.rank), sums.dt_weight)
    if wide is not None:
        program.narrow(grown.place, turned.place, s.chosen * s.padded)
    add_up(turned, at.x, sums.select)
    multiply(turned.T, at.select, grad_x, accumulate=True)
    strides: list[Word] = [0, s.d, 0, 2 * s.d, int(pulled.told)]
    made = [
        grad_x.place, pulled.final, grad_xz.place, total.plus(sums.filters.start * _FLOAT), pulled.window
    ]  # fmt: skip
    program.add(convolution.BACKWARD[s.dtype], [*s.convolution, *strides, at.xz.place, *at.filters, *made])
    add_up(grad_xz.T, at.u, sums.in_weight)
    if s.normed:
        weight, _, scale = at.norm
        program.multiply(grad_xz, at.in_weight, grad_normed, s.dtype)
        program.add(
            norm.BACKWARD,
            [
                s.L, s.H, 1, grad_normed.place, at.given, weight, scale, grad_u.place,
                total.plus(sums.norm_weight.start * _FLOAT),
            ],
        )  # fmt: skip
        program.copy(given, grad_u.place, s.L * s.H, accumulate=True)
    elif s.narrowed or not s.half:
        program.multiply(grad_xz, at.in_weight, grad_u, s.dtype)
    else:
        multiply(grad_xz, at.in_weight, grad_u)
