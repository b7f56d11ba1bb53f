"""Reducers that keep some states by another rule than balancing.

Give one to ``Compressor(reduction=...)`` or ``compress(reduction=...)``. They serve layers that are one
diagonal system; a layer of many refuses what they make, by name.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressm.adapters import CompressibleLayer, LayerBalancing, SelectsStates, Weighting
from compressm.compression.reducers import Needs
from compressm.lti import (
    Balancing,
    DiagonalSystem,
    ModalScore,
    Realization,
    Reduction,
    balance,
    modal_scores,
    select_states,
)

_LEAST = 1e-9  # of the largest HSV: below it balanced directions are rounding


@dataclass(frozen=True)
class Ranking:
    """States of a system in an order of preference, to be cut anywhere.

    Attributes:
        system: The system.
        indices: All its states, the ones to keep first.
        hankel_singular_values: What ranked them, descending.
    """

    system: DiagonalSystem
    indices: Tensor
    hankel_singular_values: Tensor

    def truncate(self, order: int | None = None, *, keep: int | None = None) -> Reduction:
        """Keep the first ``order`` (or ``keep``, which is the same here) states as they are."""
        count = order if keep is None else keep
        if count is None:
            raise TypeError("truncate: give order or keep")
        return select_states(self.system, self.indices[:count])


class ModalStates:
    """Keep the modes with the highest score; their basis is left alone.

    Args:
        score: "h2" (AIRE-Prune's energy), "hinf" (LAST's) or "magnitude", see
            :func:`compressm.lti.modal_scores`.
    """

    needs: Needs = "nothing"
    realization: Realization = "complex"

    def __init__(self, score: ModalScore = "h2") -> None:
        self.score: ModalScore = score

    @property
    def name(self) -> str:
        """The score, too."""
        return f"modal {self.score}"

    def balance(self, layer: CompressibleLayer, signals: Weighting) -> Ranking:
        """Rank the layer's modes."""
        del signals
        system = layer.system()
        scores = modal_scores(system, self.score)
        indices = torch.argsort(scores, descending=True, stable=True)
        return Ranking(system, indices, scores[indices])


class RandomStates:
    """Keep modes by chance, of selective and attention layers states.

    Args:
        seed: Of its own generator: the global random state is neither read nor changed.
    """

    name = "random"
    needs: Needs = "nothing"
    realization: Realization = "complex"

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def balance(self, layer: CompressibleLayer, signals: Weighting) -> LayerBalancing:
        """Shuffle the layer's modes. All count the same."""
        if isinstance(layer.adapter, SelectsStates):
            return layer.select("random", signals, self._generator)
        system = layer.system()
        indices = torch.randperm(system.state_dim, generator=self._generator)
        return Ranking(system, indices, torch.ones(system.state_dim, dtype=torch.float64))

    def state_dict(self) -> dict[str, Tensor]:
        """Where the generator stands, for a checkpoint."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Draw on where :meth:`state_dict` was taken."""
        self._generator.set_state(state["generator"])


class SmallestStates:
    """Keep the balanced states with the smallest Hankel singular values: what an ablation expects to fail.

    Args:
        realization: The form to balance.
    """

    name = "smallest"
    needs: Needs = "nothing"

    def __init__(self, realization: Realization = "complex") -> None:
        self.realization: Realization = realization

    def balance(self, layer: CompressibleLayer, signals: Weighting) -> Balancing:
        """Balance the layer and turn the order round, above the level of rounding."""
        del signals
        balancing = balance(layer.system(), self.realization)
        values = balancing.hankel_singular_values
        rank = min(balancing.rank, int((values > _LEAST * values[0]).sum()))
        turned = values.clone()
        turned[:rank] = values[:rank].flip(0)
        turned[rank:] = 0.0
        return replace(
            balancing,
            hankel_singular_values=turned,
            rank=rank,
            right=balancing.right[:, :rank].flip(1),
            left=balancing.left[:rank].flip(0),
            guaranteed=False,
        )
