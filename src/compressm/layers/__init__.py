"""State-space layers: every one maps (batch, L, H) to (batch, L, H), and may have any number of states."""

from compressm.layers.base import StateSpaceLayer
from compressm.layers.lru import LRU

__all__ = ["LRU", "StateSpaceLayer"]
