"""When kernels may be called by themselves, without an operator of PyTorch around them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def observed() -> bool:
    """Whether a compiler, a tracer, a transform of functions or a dispatch mode wants to see operators.

    Where it is false, a node of autograd may call kernels directly: a call of a registered operator, forward
    and backward, takes some 0.2 ms, as long as a small layer's recurrence.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    )


def plain(*tensors: Tensor | None, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> bool:
    """Whether all that are given are of these types on a CPU, and no subclass to whom operators mean more."""
    return all(
        x is None or (type(x) in (Tensor, nn.Parameter) and x.dtype in dtypes and x.is_cpu) for x in tensors
    )


# Not part of PyTorch's interface, nor is there one to ask.
_hooks_of_all: Callable[[], bool] = getattr(nn.modules.module, "_has_any_global_hook", lambda: False)


def bare(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call of a module runs its kind's own ``forward`` and nothing else.

    Not so for subclasses, nor with hooks of its own or of all modules, compiled in place, or with another
    ``forward`` put into the instance.
    """
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    )  # fmt: skip
    changed = module._compiled_call_impl is not None or "forward" in vars(module)
    return type(module) is kind and not (changed or any(hooks) or _hooks_of_all())
