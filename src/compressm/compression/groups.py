"""Parameter groups as the paper trains them: the dynamics slower, and without weight decay."""

from typing import Any

from torch import nn

from compressm.adapters import find_layers


def parameter_groups(
    model: nn.Module, *, lr: float, ssm_lr_factor: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Two groups for an optimiser: all parameters, and those of the state-space dynamics.

    The dynamics of an LRU are ``nu``, ``theta``, ``gamma_log`` and ``B``; ``C`` and ``D`` are in the main
    group (CompreSSM, appendix on training details). Each group carries a ``"name"``, "main" or "ssm".

    Args:
        model: Any model with layers that compressm knows.
        lr: Learning rate of the main group.
        ssm_lr_factor: Learning rate of the dynamics as a multiple of ``lr``.
        weight_decay: Decay of the main group; the dynamics have none.

    Raises:
        ValueError: If a number is negative or the model has no known layer.
    """
    for name, value in (("lr", lr), ("ssm_lr_factor", ssm_lr_factor), ("weight_decay", weight_decay)):
        if value < 0:
            raise ValueError(f"parameter_groups: {name} is {value}; it must not be negative")
    dynamics = [
        layer.parameter(name) for layer in find_layers(model) for name in layer.adapter.ssm_parameters
    ]
    in_dynamics = {id(parameter) for parameter in dynamics}
    main = [parameter for parameter in model.parameters() if id(parameter) not in in_dynamics]
    return [
        {"name": "main", "params": main, "lr": lr, "weight_decay": weight_decay},
        {"name": "ssm", "params": dynamics, "lr": lr * ssm_lr_factor, "weight_decay": 0.0},
    ]
