"""Whole rivals: what ranks the states together with the rule that shares a budget among the layers."""

from typing import NamedTuple

from compressm.compression import GlobalBudget, Schedule
from compressm.compression.ranks import RankRule
from compressm.compression.reducers import Balanced, Reducer
from compressm.lti import Realization
from compressm.rivals.scores import AireStates, LastStates


class Recipe(NamedTuple):
    """Arguments of a method, for ``compress`` or :class:`compressm.Compressor` as ``**recipe._asdict()``.

    Attributes:
        rank: The rule.
        reduction: The reducer.
    """

    rank: RankRule
    reduction: Reducer


def last_pruning(total: int) -> Recipe:
    """LAST (NeurIPS 2024): keep the ``total`` states with the best layer-normalised H-infinity scores.

    The state that is largest in its layer scores 1, so every layer keeps one.  LAST masks the others; here
    they are cut.  For layers that are one diagonal system.

    Raises:
        ValueError: If the total is below 1.
    """
    return Recipe(GlobalBudget(total, by="score"), LastStates())


def aire_pruning(total: int) -> Recipe:
    """AIRE-Prune (ICLR 2026): keep the ``total`` states with the best prefix-normalised H2 energies.

    For layers that are one diagonal system.

    Raises:
        ValueError: If the total is below 1.
    """
    return Recipe(GlobalBudget(total, by="score"), AireStates())


def hankel_truncation(total: int, realization: Realization = "real") -> Recipe:
    """The cut after Hankel regularisation (NeurIPS 2025): balanced truncation at one energy level.

    Train with :class:`~compressm.rivals.HankelRegularizer`, then cut once: ``compress(model,
    **hankel_truncation(total)._asdict())`` after training, or in the loop at its last step,
    ``Compressor(model, optimizer, schedule=once_at_the_end(steps), **hankel_truncation(total)._asdict())``.

    Args:
        total: States of all layers together.
        realization: The form that was regularised.

    Raises:
        ValueError: If the total is below 1 or the realization unknown.
    """
    return Recipe(GlobalBudget(total, by="energy"), Balanced("none", realization))


def once_at_the_end(total_steps: int) -> Schedule:
    """A single cut after the last of ``total_steps`` optimiser steps; nothing is retrained.

    Raises:
        ValueError: If there is no step.
    """
    return Schedule(total_steps=total_steps, start=0.0, stop=1.0, cuts=1)
