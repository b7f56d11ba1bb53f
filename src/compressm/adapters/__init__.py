"""How a layer shows its linear system and takes a smaller one; the way in for users' own layers."""

from compressm.adapters.base import CompressibleLayer, LTIAdapter, ParameterUpdate, find_layers, register
from compressm.adapters.basis import BasisChange
from compressm.adapters.lru import LRUAdapter
from compressm.layers import LRU

register(LRU, LRUAdapter())

__all__ = [
    "BasisChange",
    "CompressibleLayer",
    "LRUAdapter",
    "LTIAdapter",
    "ParameterUpdate",
    "find_layers",
    "register",
]
