"""State-space layers: every one maps (batch, L, H) to (batch, L, H), and may have any number of states."""

from compressm.layers.base import StateSpaceLayer
from compressm.layers.delta_net import DeltaNet, GatedDeltaNet
from compressm.layers.gla import GatedLinearAttention
from compressm.layers.linear_attention import LinearAttentionLayer
from compressm.layers.lru import LRU
from compressm.layers.mamba import Mamba
from compressm.layers.mamba2 import Mamba2
from compressm.layers.modal import ModalLayer
from compressm.layers.retnet import RetNet
from compressm.layers.rotation import RotationSSM
from compressm.layers.s4d import S4D
from compressm.layers.s5 import S5
from compressm.layers.windowed import WindowedLayer

__all__ = [
    "LRU",
    "S4D",
    "S5",
    "DeltaNet",
    "GatedDeltaNet",
    "GatedLinearAttention",
    "LinearAttentionLayer",
    "Mamba",
    "Mamba2",
    "ModalLayer",
    "RetNet",
    "RotationSSM",
    "StateSpaceLayer",
    "WindowedLayer",
]
