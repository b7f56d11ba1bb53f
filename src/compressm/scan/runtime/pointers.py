"""What kernels are written with: the compiler's settings, the worker's number, and addresses of arrays.

Imports Numba: only modules of kernels import this one.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from compressm.scan.runtime.team import TEAM_SYMBOL, WORKER_SYMBOL

Function = TypeVar("Function", bound=Callable[..., Any])

_thread_number = types.ExternalFunction(WORKER_SYMBOL, types.int32())
_team_size = types.ExternalFunction(TEAM_SYMBOL, types.int32())


def compiled(function: Function) -> Function:
    """A part of a kernel. Products and sums may fuse to one instruction; nothing else may be reordered."""
    part: Function = njit(error_model="numpy", fastmath={"contract"})(function)
    return part


def _pointer_to(scalar: Any) -> Any:
    def pointer(typing_context: Any, address: Any) -> Any:
        del typing_context

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(scalar)(address), generate

    # The name becomes part of the symbols of whatever is compiled with this function as an argument. Under
    # one name, kernels of two dtypes put on disk by two processes would be confused in a third.
    pointer.__name__ = pointer.__qualname__ = f"{scalar}_pointer"
    return intrinsic(pointer)


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def call(typing_context: Any, kernel: Any, words: Any) -> Any:
    """Call the kernel at one address with its arguments at another."""
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature
        pointer = context.get_value_type(types.CPointer(types.int64))
        function = ir.FunctionType(ir.VoidType(), [pointer]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], function), [builder.inttoptr(arguments[1], pointer)])
        return context.get_dummy_value()

    return types.void(kernel, words), generate


int64_pointer = _pointer_to(types.int64)
float32_pointer = _pointer_to(types.float32)
float64_pointer = _pointer_to(types.float64)
uint16_pointer = _pointer_to(types.uint16)
uint8_pointer = _pointer_to(types.uint8)


@compiled
def worker(words: Any) -> Any:
    """This worker's number and the number of workers, from the first two words of a kernel's arguments."""
    if words[0] >= 0:
        return words[0], words[1]
    return types.int64(_thread_number()), types.int64(_team_size())
