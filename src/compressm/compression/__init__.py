"""Cutting states: the compressor for training, one-shot compression, ranks, schedules, optimiser state."""

from compressm.compression.compressor import Compressor
from compressm.compression.groups import parameter_groups
from compressm.compression.inspection import LayerInspection, inspect
from compressm.compression.oneshot import compress
from compressm.compression.ranks import EnergyRank, FixedRank, FractionRank, RankRule, Spectrum, Target
from compressm.compression.record import Cut, LayerCut
from compressm.compression.schedule import Schedule

__all__ = [
    "Compressor",
    "Cut",
    "EnergyRank",
    "FixedRank",
    "FractionRank",
    "LayerCut",
    "LayerInspection",
    "RankRule",
    "Schedule",
    "Spectrum",
    "Target",
    "compress",
    "inspect",
    "parameter_groups",
]
