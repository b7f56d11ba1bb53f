"""State-space layers: every one maps (batch, L, H) to (batch, L, H), and may have any number of states."""

from compressm.layers.base import StateSpaceLayer
from compressm.layers.lru import LRU
from compressm.layers.modal import ModalLayer
from compressm.layers.rotation import RotationSSM
from compressm.layers.s4d import S4D
from compressm.layers.s5 import S5

__all__ = ["LRU", "S4D", "S5", "ModalLayer", "RotationSSM", "StateSpaceLayer"]
