"""How a layer shows its linear system and takes a smaller one; the way in for users' own layers."""

from compressm.adapters.attention import AttentionAdapter
from compressm.adapters.attention_structure import is_delta_rule, is_gated_attention
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
from compressm.adapters.mamba import MambaAdapter, SelectsMambaStates
from compressm.adapters.mamba2 import Mamba2Adapter
from compressm.adapters.mamba2_structure import is_mamba2
from compressm.adapters.mamba_structure import is_mamba, is_normalized
from compressm.adapters.registry import CompressibleLayer, find_layers, register, register_structure
from compressm.adapters.retnet import RetNetAdapter
from compressm.adapters.rotation import RotationAdapter
from compressm.adapters.s4d import S4DAdapter
from compressm.adapters.s5 import S5Adapter
from compressm.adapters.weighting import WEIGHTINGS, Weighting
from compressm.layers import (
    LRU,
    S4D,
    S5,
    DeltaNet,
    GatedDeltaNet,
    GatedLinearAttention,
    Mamba,
    Mamba2,
    RetNet,
    RotationSSM,
)

register(LRU, LRUAdapter())
register(S5, S5Adapter())
register(S4D, S4DAdapter())
register(RotationSSM, RotationAdapter())
register(Mamba, MambaAdapter())
register_structure(is_mamba, MambaAdapter())
register_structure(lambda module: is_mamba(module) and is_normalized(module), SelectsMambaStates())
register(Mamba2, Mamba2Adapter())
register(GatedLinearAttention, AttentionAdapter(gated_keys=True))
register(RetNet, RetNetAdapter())
register(DeltaNet, AttentionAdapter())
register(GatedDeltaNet, AttentionAdapter("A_log", "dt_bias"))
register_structure(is_mamba2, Mamba2Adapter())
register_structure(is_gated_attention, AttentionAdapter(gated_keys=True))
register_structure(is_delta_rule, AttentionAdapter())

__all__ = [
    "WEIGHTINGS",
    "AttentionAdapter",
    "BasisChange",
    "CompressibleLayer",
    "Criterion",
    "LRUAdapter",
    "LTIAdapter",
    "LayerAdapter",
    "LayerBalancing",
    "LayerReduction",
    "Mamba2Adapter",
    "MambaAdapter",
    "ParameterUpdate",
    "RetNetAdapter",
    "RotationAdapter",
    "S4DAdapter",
    "S5Adapter",
    "SelectsStates",
    "Weighting",
    "find_layers",
    "register",
    "register_structure",
]
