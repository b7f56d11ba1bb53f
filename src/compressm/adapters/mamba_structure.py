"""What a Mamba layer is made of, in this library and in others: how to know one, and its parts.

``mamba_ssm.Mamba``, Transformers' mixers of Mamba, FalconMamba and Jamba and mambapy's block have the same
parameters under the same names as :class:`compressm.layers.Mamba`. They differ in norms over the states of
``B`` and ``C``, and in attributes that repeat sizes.
"""

import copy
from typing import Any, Literal

from torch import nn

Part = Literal["dt", "B", "C"]
PARTS: tuple[Part, ...] = ("dt", "B", "C")
"""What rows of ``x_proj`` make, in their order."""

_NORMS: dict[Part, tuple[str, ...]] = {
    "dt": ("dt_layernorm",),
    "B": ("b_layernorm", "B_layernorm"),
    "C": ("c_layernorm", "C_layernorm"),
}
_ESSENTIAL = frozenset(
    {"in_proj.weight", "conv1d.weight", "x_proj.weight", "dt_proj.weight", "A_log", "D", "out_proj.weight"}
)
_KNOWN = (
    _ESSENTIAL
    | {"in_proj.bias", "conv1d.bias", "dt_proj.bias", "out_proj.bias"}
    | {f"{name}.weight" for names in _NORMS.values() for name in names}
)


def is_mamba(module: nn.Module) -> bool:
    """Whether a module is a layer of Mamba's first kind: by names and shapes of its parameters.

    One that has other parameters, too (a second direction, adapters for fine-tuning), is none: a cut would
    leave them behind.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    if not (_ESSENTIAL <= shapes.keys() <= _KNOWN) or len(shapes["A_log"]) != 2:
        return False
    inner, states = shapes["A_log"]
    outer, rank = shapes["out_proj.weight"][0], shapes["dt_proj.weight"][-1]
    expected = {
        "in_proj.weight": (2 * inner, outer),
        "x_proj.weight": (rank + 2 * states, inner),
        "dt_proj.weight": (inner, rank),
        "D": (inner,),
        "out_proj.weight": (outer, inner),
    }
    filters = shapes["conv1d.weight"]
    return filters[:2] == (inner, 1) and all(shapes[name] == shape for name, shape in expected.items())


def norm_name(layer: nn.Module, part: Part) -> str | None:
    """Name of the norm over ``dt``, ``B`` or ``C``; None if the layer has none."""
    return next((name for name in _NORMS[part] if getattr(layer, name, None) is not None), None)


def is_normalized(layer: nn.Module) -> bool:
    """Whether ``B`` or ``C`` is normalised over the states."""
    return norm_name(layer, "B") is not None or norm_name(layer, "C") is not None


def time_step_rank(layer: Any) -> int:
    """Rows of ``x_proj`` that belong to ``dt``; those of ``B`` and then ``C`` follow."""
    rank: int = layer.dt_proj.weight.shape[1]
    return rank


def refresh_sizes(layer: Any) -> None:
    """Bring attributes that repeat the number of states in line with ``A_log``.

    mambapy's blocks read it off a config that all blocks share: a block of another size gets its own copy.
    """
    states = layer.A_log.shape[1]
    for name in ("ssm_state_size", "d_state"):
        if isinstance(getattr(layer, name, None), int):
            setattr(layer, name, states)
    if hasattr(layer.x_proj, "out_features"):
        layer.x_proj.out_features = layer.x_proj.weight.shape[0]
    if getattr(getattr(layer, "config", None), "d_state", states) != states:
        layer.config = copy.copy(layer.config)
        layer.config.d_state = states
