"""Functions that Triton kernels of several recurrences need."""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def sigmoid(x):
    """``1 / (1 + exp(-x))``."""
    return tl.fdiv(1.0, 1.0 + tl.exp2(x * -LOG2_E))
