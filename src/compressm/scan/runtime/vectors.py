"""Vectors of float32 as values of Numba kernels: arithmetic on ``LANES`` neighbours at once.

Numba leaves vectors to LLVM's loop vectoriser, which cannot be told to keep a state in registers over a loop
in time. LLVM's own vector types can, on every processor: a vector that is wider than the machine's registers
becomes several of them. This gives kernels that type, with the few operations a recurrence needs.

Memory may hold float32 or bfloat16, which is an array of uint16 here: whatever reads it widens, whatever
writes to it rounds to nearest even, and arithmetic is float32's.

Imports Numba: only modules of kernels import this one.
"""

import inspect
import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features, llvm_version_info
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from compressm.scan.runtime.widths import DOUBLE, HALF, LANES, OCTET


class _VectorType(types.Type):  # type: ignore[misc, unused-ignore]
    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float32x{lanes}")

    @property
    def llvm(self) -> ir.Type:
        return ir.VectorType(ir.FloatType(), self.lanes)


@register_model(_VectorType)  # type: ignore[untyped-decorator, unused-ignore]
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc, unused-ignore]
    def __init__(self, manager: Any, kind: _VectorType) -> None:
        super().__init__(manager, kind, kind.llvm)


VECTOR, WIDE, PART, SHORT = (_VectorType(lanes) for lanes in (LANES, DOUBLE, HALF, OCTET))

_LINE = 64  # bytes that a cache fetches at once


def _arithmetic(function: Callable[..., Any], instruction: str) -> None:
    """Let ``function`` of two vectors be an LLVM instruction that may fuse with its neighbours."""

    def typing(context: Any) -> Any:
        del context
        return lambda a, b: a if a == b and isinstance(a, _VectorType) else None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return getattr(builder, instruction)(*arguments, flags=("contract",))

    type_callable(function)(typing)
    for kind in (VECTOR, WIDE, PART, SHORT):
        lower_builtin(function, kind, kind)(generate)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")


class _Code(NamedTuple):
    """Where an operation writes its instructions."""

    context: Any
    builder: Any
    signature: Any

    def address(self, array: Any, index: Any, kind: ir.Type) -> Any:
        """The address of ``array[index]``, for a ``kind``; ``array`` is the call's first argument."""
        array_type = self.signature.args[0]
        data = self.context.make_array(array_type)(self.context, self.builder, value=array).data
        return self.builder.bitcast(self.builder.gep(data, [index]), kind.as_pointer())

    @property
    def halves(self) -> bool:
        """Whether the call's first argument holds bfloat16."""
        return bool(self.signature.args[0].dtype == types.uint16)


def _operation(typed: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """An operation of kernels: ``typed`` gives its signature, the function decorated writes its code."""

    def decorate(write: Callable[..., Any]) -> Any:
        def definition(typing_context: Any, *kinds: Any) -> Any:
            del typing_context

            def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                return write(_Code(context, builder, signature), *values)

            return typed(*kinds), generate

        definition.__name__, definition.__doc__ = write.__name__, write.__doc__
        # Numba reads a call's arguments off the signature, whose first parameter is its own.
        definition.__signature__ = inspect.signature(write)  # type: ignore[attr-defined]
        return intrinsic(definition)

    return decorate


class _Half(ir.Type):  # type: ignore[misc, unused-ignore]
    """LLVM's bfloat16, which llvmlite has no name for."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Half)

    def __hash__(self) -> int:
        return hash(_Half)


@cache
def _rounds_by_itself() -> bool:
    """Whether the processor that is compiled for rounds to bfloat16, and LLVM is recent enough to let it.

    In one instruction instead of eight; numbers below 2^-126 become zero in it.
    """
    chosen = config.CPU_NAME is not None or config.CPU_FEATURES is not None
    return not chosen and llvm_version_info[0] >= 18 and bool(get_host_cpu_features().get("avx512bf16"))


def _integers(values: Sequence[int]) -> ir.Constant:
    kind = ir.IntType(32)
    return ir.Constant(ir.VectorType(kind, len(values)), [kind(value) for value in values])


def _of_width(kind: ir.Type, bits: int) -> ir.Type:
    """The type of as many integers of ``bits`` as ``kind`` has numbers."""
    integer = ir.IntType(bits)
    return ir.VectorType(integer, kind.count) if isinstance(kind, ir.VectorType) else integer


def _constant(kind: ir.Type, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _read(code: _Code, array: Any, index: Any, kind: ir.Type) -> Any:
    """A float32 number or vector, from memory of the array's type."""
    if not code.halves:
        return code.builder.load(code.address(array, index, kind), align=4)
    halves, words = _of_width(kind, 16), _of_width(kind, 32)
    wide = code.builder.zext(code.builder.load(code.address(array, index, halves), align=2), words)
    return code.builder.bitcast(code.builder.shl(wide, _constant(words, 16)), kind)


def _write(code: _Code, array: Any, index: Any, value: Any) -> None:
    """Write a float32 number or vector to memory of the array's type."""
    kind, builder = value.type, code.builder
    if not code.halves:
        builder.store(value, code.address(array, index, kind), align=4)
        return
    halves, words = _of_width(kind, 16), _of_width(kind, 32)
    if isinstance(kind, ir.VectorType) and _rounds_by_itself():
        narrow = builder.bitcast(builder.fptrunc(value, ir.VectorType(_Half(), kind.count)), halves)
        builder.store(narrow, code.address(array, index, halves), align=2)
        return
    bits = builder.bitcast(value, words)
    odd = builder.and_(builder.lshr(bits, _constant(words, 16)), _constant(words, 1))
    rounded = builder.add(bits, builder.add(odd, _constant(words, 0x7FFF)))
    # What is not a number must not round up to infinity, or past it.
    unordered = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(unordered, _constant(words, 0x7FC00000), rounded)
    narrow = builder.trunc(builder.lshr(rounded, _constant(words, 16)), halves)
    builder.store(narrow, code.address(array, index, halves), align=2)


def _spread(code: _Code, scalar: Any) -> Any:
    kind = code.signature.return_type
    undefined = ir.Constant(kind.llvm, ir.Undefined)
    first = code.builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return code.builder.shuffle_vector(first, undefined, _integers([0] * kind.lanes))


@_operation(lambda array, _: VECTOR(array, types.int64))
def load(code: _Code, array: Any, index: Any) -> Any:
    """LANES neighbours of a contiguous array, from ``index`` on."""
    return _read(code, array, index, VECTOR.llvm)


@_operation(lambda array, _: WIDE(array, types.int64))
def load_double(code: _Code, array: Any, index: Any) -> Any:
    """DOUBLE neighbours of a contiguous array, from ``index`` on."""
    return _read(code, array, index, WIDE.llvm)


@_operation(lambda array, _: PART(array, types.int64))
def load_part(code: _Code, array: Any, index: Any) -> Any:
    """HALF neighbours of a contiguous array, from ``index`` on."""
    return _read(code, array, index, PART.llvm)


@_operation(lambda array, _: SHORT(array, types.int64))
def load_octet(code: _Code, array: Any, index: Any) -> Any:
    """OCTET neighbours of a contiguous array, from ``index`` on."""
    return _read(code, array, index, SHORT.llvm)


@_operation(lambda array, _, value: types.void(array, types.int64, value))
def store(code: _Code, array: Any, index: Any, value: Any) -> Any:
    """Write a vector of any length to a contiguous array, from ``index`` on."""
    _write(code, array, index, value)
    return code.context.get_dummy_value()


def _prefetch(code: _Code, array: Any, index: Any, *, write: bool) -> Any:
    byte, word, to_all_caches, data = ir.IntType(8), ir.IntType(32), 3, 1
    kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
    function = cgutils.get_or_insert_function(code.builder.module, kind, "llvm.prefetch.p0")
    for start in range(0, LANES, _LINE // (2 if code.halves else 4)):
        at = code.builder.add(index, ir.Constant(index.type, start))
        settings = word(int(write)), word(to_all_caches), word(data)
        code.builder.call(function, [code.address(array, at, byte), *settings])
    return code.context.get_dummy_value()


@_operation(lambda array, _: types.void(array, types.int64))
def prefetch(code: _Code, array: Any, index: Any) -> Any:
    """LANES neighbours from ``index`` on, which may lie behind the array, will be read."""
    return _prefetch(code, array, index, write=False)


@_operation(lambda array, _: types.void(array, types.int64))
def prefetch_to_write(code: _Code, array: Any, index: Any) -> Any:
    """LANES neighbours from ``index`` on, which may lie behind the array, will be written."""
    return _prefetch(code, array, index, write=True)


@_operation(lambda array, _: types.float32(array, types.int64))
def item(code: _Code, array: Any, index: Any) -> Any:
    """``array[index]``; ``index`` is not negative."""
    return _read(code, array, index, ir.FloatType())


@_operation(lambda array, *_: types.void(array, types.int64, types.float32))
def put(code: _Code, array: Any, index: Any, value: Any) -> Any:
    """``array[index] = value``; ``index`` is not negative."""
    _write(code, array, index, value)
    return code.context.get_dummy_value()


@_operation(lambda _: VECTOR(types.float32))
def spread(code: _Code, scalar: Any) -> Any:
    """A vector with ``scalar`` in every lane."""
    return _spread(code, scalar)


@_operation(lambda array, _: VECTOR(array, types.int64))
def spread_item(code: _Code, array: Any, index: Any) -> Any:
    """A vector with ``array[index]`` in every lane; ``index`` is not negative."""
    return _spread(code, _read(code, array, index, ir.FloatType()))


@_operation(lambda array, _: WIDE(array, types.int64))
def spread_item_double(code: _Code, array: Any, index: Any) -> Any:
    """A double vector with ``array[index]`` in every lane; ``index`` is not negative."""
    return _spread(code, _read(code, array, index, ir.FloatType()))


@_operation(lambda array, _: PART(array, types.int64))
def spread_item_part(code: _Code, array: Any, index: Any) -> Any:
    """A part with ``array[index]`` in every lane; ``index`` is not negative."""
    return _spread(code, _read(code, array, index, ir.FloatType()))


@_operation(lambda array, _: SHORT(array, types.int64))
def spread_item_octet(code: _Code, array: Any, index: Any) -> Any:
    """An octet with ``array[index]`` in every lane; ``index`` is not negative."""
    return _spread(code, _read(code, array, index, ir.FloatType()))


@_operation(lambda *_: VECTOR(VECTOR, VECTOR, VECTOR, VECTOR))
def below(code: _Code, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """``yes`` in lanes where ``a < b``, else ``no``; that, too, where one of them is not a number."""
    return code.builder.select(code.builder.fcmp_ordered("<", a, b), yes, no)


@_operation(lambda *_: VECTOR(VECTOR, VECTOR))
def add_exponent(code: _Code, value: Any, exponent: Any) -> Any:
    """``value 2^k``, k being the integer in the low bits of ``exponent``."""
    integers = ir.VectorType(ir.IntType(32), LANES)
    bits, k = (code.builder.bitcast(x, integers) for x in (value, exponent))
    shifted = code.builder.shl(k, _integers([23] * LANES))
    return code.builder.bitcast(code.builder.add(bits, shifted), VECTOR.llvm)


@_operation(lambda whole: PART(whole))
def fold(code: _Code, whole: Any) -> Any:
    """The sum of a vector's parts; a part is its own."""
    if code.signature.args[0] == PART:
        return whole
    first, *others = (
        code.builder.shuffle_vector(whole, whole, _integers(range(start, start + HALF)))
        for start in range(0, code.signature.args[0].lanes, HALF)
    )
    for other in others:
        first = code.builder.fadd(first, other, flags=("contract",))
    return first


@_operation(lambda array, _: PART(array, types.int64))
def sum_lanes(code: _Code, array: Any, index: Any) -> Any:
    """Lane j is the sum over the lanes of part j, of HALF parts in ``array`` from ``index`` on.

    A tree: each level halves the number of parts by putting the sums of one into the lanes that the other no
    longer needs.
    """
    builder, word = code.builder, ir.IntType(64)
    parts = [
        builder.load(code.address(array, builder.add(index, word(j * HALF)), PART.llvm), align=4)
        for j in range(HALF)
    ]
    width = HALF
    while len(parts) > 1:
        count, half = len(parts) // 2, width // 2
        low = [lane % width < half for lane in range(HALF)]
        stay = _integers([lane if is_low else HALF + lane for lane, is_low in enumerate(low)])
        move = _integers([lane + half if is_low else HALF + lane - half for lane, is_low in enumerate(low)])
        parts = [
            builder.fadd(builder.shuffle_vector(a, b, stay), builder.shuffle_vector(a, b, move))
            for a, b in zip(parts[:count], parts[count:], strict=True)
        ]
        width = half
    return parts[0]
