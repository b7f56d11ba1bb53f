"""How a layer shows its linear system and takes a smaller one; the way in for users' own layers."""

from compressm.adapters.base import (
    CompressibleLayer,
    LayerBalancing,
    LayerReduction,
    LTIAdapter,
    ParameterUpdate,
    find_layers,
    register,
)
from compressm.adapters.basis import BasisChange
from compressm.adapters.lru import LRUAdapter
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
    "LRUAdapter",
    "LTIAdapter",
    "LayerBalancing",
    "LayerReduction",
    "ParameterUpdate",
    "RotationAdapter",
    "S4DAdapter",
    "S5Adapter",
    "Weighting",
    "find_layers",
    "register",
]
