"""How a layer shows its linear system and takes a smaller one; the way in for users' own layers."""

from compressm.adapters.base import (
    Criterion,
    LayerAdapter,
    LayerBalancing,
    LayerReduction,
    LTIAdapter,
    ParameterUpdate,
    SelectsStates,
)
from compressm.adapters.basis import BasisChange
from compressm.adapters.lru import LRUAdapter
from compressm.adapters.registry import CompressibleLayer, find_layers, register, register_structure
from compressm.adapters.rotation import RotationAdapter
from compressm.adapters.s4d import S4DAdapter
from compressm.adapters.s5 import S5Adapter
from compressm.adapters.weighting import WEIGHTINGS, Weighting
from compressm.layers import LRU, S4D, S5, RotationSSM

register(LRU, LRUAdapter())
register(S5, S5Adapter())
register(S4D, S4DAdapter())
register(RotationSSM, RotationAdapter())

__all__ = [
    "WEIGHTINGS",
    "BasisChange",
    "CompressibleLayer",
    "Criterion",
    "LRUAdapter",
    "LTIAdapter",
    "LayerAdapter",
    "LayerBalancing",
    "LayerReduction",
    "ParameterUpdate",
    "RotationAdapter",
    "S4DAdapter",
    "S5Adapter",
    "SelectsStates",
    "Weighting",
    "find_layers",
    "register",
    "register_structure",
]
