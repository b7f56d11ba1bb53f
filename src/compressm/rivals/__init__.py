"""Other ways to choose states, behind the same interface as ours, to be compared with."""

from compressm.rivals.channelwise import ChannelwiseMamba, channelwise
from compressm.rivals.distillation import DistillationLoss
from compressm.rivals.hankel import HankelRegularizer
from compressm.rivals.hankel_values import differentiable_hankel_values, naive_hankel_values
from compressm.rivals.layer_systems import SystemTensors, layer_systems
from compressm.rivals.recipes import (
    Recipe,
    aire_pruning,
    hankel_truncation,
    last_pruning,
    once_at_the_end,
)
from compressm.rivals.scores import AireStates, LastStates
from compressm.rivals.selection import ModalStates, RandomStates, SmallestStates

__all__ = [
    "AireStates",
    "ChannelwiseMamba",
    "DistillationLoss",
    "HankelRegularizer",
    "LastStates",
    "ModalStates",
    "RandomStates",
    "Recipe",
    "SmallestStates",
    "SystemTensors",
    "aire_pruning",
    "channelwise",
    "differentiable_hankel_values",
    "hankel_truncation",
    "last_pruning",
    "layer_systems",
    "naive_hankel_values",
    "once_at_the_end",
]
