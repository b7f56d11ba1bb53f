"""Shrink the state of state-space models while they train.

``Compressor`` cuts in training, ``compress`` and ``inspect`` work on a trained model, ``save`` and ``load``
keep a size for each layer, ``register`` makes your own layer known. The systems theory is in
:mod:`compressm.lti`, layers in :mod:`compressm.layers`, models in :mod:`compressm.models`.
"""

from compressm._version import __version__
from compressm.adapters import register
from compressm.compression import (
    AutoSchedule,
    Compressor,
    EnergyRank,
    ErrorBoundRank,
    FixedRank,
    FractionRank,
    GlobalBudget,
    Rollback,
    Schedule,
    TargetMetric,
    compress,
    inspect,
    parameter_groups,
)
from compressm.saving import load, save

__all__ = [
    "AutoSchedule",
    "Compressor",
    "EnergyRank",
    "ErrorBoundRank",
    "FixedRank",
    "FractionRank",
    "GlobalBudget",
    "Rollback",
    "Schedule",
    "TargetMetric",
    "__version__",
    "compress",
    "inspect",
    "load",
    "parameter_groups",
    "register",
    "save",
]
