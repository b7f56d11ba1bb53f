"""Cutting states: the compressor for training, one-shot compression, ranks, schedules, optimiser state."""

from compressm.compression.autoschedule import AutoSchedule
from compressm.compression.budget import GlobalBudget
from compressm.compression.compressor import Compressor
from compressm.compression.groups import parameter_groups
from compressm.compression.guard import Rollback
from compressm.compression.inspection import LayerInspection, inspect
from compressm.compression.oneshot import compress
from compressm.compression.ranks import (
    EnergyRank,
    ErrorBoundRank,
    FixedRank,
    FractionRank,
    RankRule,
    Spectrum,
    Target,
)
from compressm.compression.record import Cut, LayerCut, Undone
from compressm.compression.reducers import Balanced, Reducer, Selected
from compressm.compression.schedule import CutSchedule, Observation, Schedule
from compressm.compression.target import TargetMetric
from compressm.compression.tracking import HSVTracker, TrackRecord

__all__ = [
    "AutoSchedule",
    "Balanced",
    "Compressor",
    "Cut",
    "CutSchedule",
    "EnergyRank",
    "ErrorBoundRank",
    "FixedRank",
    "FractionRank",
    "GlobalBudget",
    "HSVTracker",
    "LayerCut",
    "LayerInspection",
    "Observation",
    "RankRule",
    "Reducer",
    "Rollback",
    "Schedule",
    "Selected",
    "Spectrum",
    "Target",
    "TargetMetric",
    "TrackRecord",
    "Undone",
    "compress",
    "inspect",
    "parameter_groups",
]
