"""What becomes of an optimiser's memory when a parameter changes its size and its coordinates.

``transport`` moves moments into the new coordinates where the cut gives a map for them and restarts the
others; ``reset`` restarts all of them; ``slice`` keeps the first entries in the old coordinates, as the
method's reference implementation does, for comparison.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.adapters import ParameterUpdate

OptimizerState = Literal["transport", "reset", "slice"]

# Which entries of torch's optimisers transform like a gradient, and which like its square.
FIRST_MOMENTS = frozenset({"exp_avg", "momentum_buffer", "grad_avg"})
SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"})


def check_mode(mode: str) -> None:
    """Refuse an unknown treatment.

    Raises:
        ValueError: Naming the choices.
    """
    if mode not in get_args(OptimizerState):
        raise ValueError(f"optimizer_state is {mode!r}; choose one of {', '.join(get_args(OptimizerState))}")


def plan_state(
    optimizer: Optimizer, parameter: nn.Parameter, update: ParameterUpdate, mode: OptimizerState
) -> dict[str, Any]:
    """The optimiser's entry for ``parameter`` after ``update``; nothing is written.

    An empty entry restarts the parameter: optimisers fill it at their next step, bias correction included.

    Raises:
        ValueError: If the entry holds something of the parameter's shape that compressm has no rule for.
    """
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    if not state or mode == "reset":
        return {}
    if mode == "transport" and (update.first_moment is None or update.second_moment is None):
        return {}
    moved = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.shape != parameter.shape or value.dim() == 0:
            moved[key] = value
        elif mode == "slice":
            moved[key] = value[tuple(slice(size) for size in update.value.shape)].clone()
        elif key in FIRST_MOMENTS:
            moved[key] = _apply(update.first_moment, value)
        elif key in SECOND_MOMENTS:
            moved[key] = _apply(update.second_moment, value)
        else:
            raise ValueError(
                f"{type(optimizer).__name__} keeps {key!r} for a parameter that is to be cut, and compressm "
                "does not know how it transforms; use optimizer_state='reset'"
            )
    return moved


def find_optimizer(optimizers: Iterable[Optimizer], parameter: nn.Parameter) -> Optimizer | None:
    """The optimiser that holds ``parameter``, or None."""
    for optimizer in optimizers:
        if any(parameter is p for group in optimizer.param_groups for p in group["params"]):
            return optimizer
    return None


def replace_value(parameter: nn.Parameter, value: Tensor) -> None:
    """Give ``parameter`` a value of another shape; the object stays, in every list that holds it.

    Optimisers, parameter groups, gradient clipping and users' own lists refer to the object, so none of them
    can be left behind with a stale one. The gradient, of the old shape, is dropped.
    """
    value = value.to(parameter.device, parameter.dtype).contiguous()
    # A living graph (last step's loss, say) keeps the parameter's gradient accumulator, which remembers the
    # old shape; autograd renews it only when the type changes. So pass through another type.
    other = torch.float32 if parameter.dtype == torch.float64 else torch.float64
    parameter.data = value.to(other)
    parameter.data = value
    parameter.grad = None


def _apply(move: Callable[[Tensor], Tensor] | None, moment: Tensor) -> Tensor:
    if move is None:
        raise ValueError("a moment cannot move without a map")
    return move(moment.detach().to("cpu", torch.float64)).to(moment.device, moment.dtype).contiguous()
