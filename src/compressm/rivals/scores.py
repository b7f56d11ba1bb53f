"""Scores of single states that are compared across layers: LAST and AIRE-Prune."""

import torch
from torch import Tensor

from compressm.adapters import CompressibleLayer, Weighting
from compressm.compression.reducers import Needs
from compressm.lti import DiagonalSystem, Realization, modal_scores
from compressm.rivals.selection import Ranking

_LAST_EPSILON = 1e-8  # LAST's own, beside (1 - |l|)^2


class LastStates:
    """Rank modes by their H-infinity norm ``|c_i| |b_i| / sqrt((1 - |l_i|)^2 + 1e-8)`` (LAST, NeurIPS 2024).

    LAST's score of a state is the square of this over the sum of the squares of all states of its layer that
    are at least as large, and one threshold on scores holds for all layers.  This is what
    ``GlobalBudget(total, by="score")`` makes of these norms; :func:`~compressm.rivals.last_pruning` joins the
    two.  Of a bidirectional layer ``|c_i|`` is the mean over both directions.
    """

    name = "last"
    needs: Needs = "nothing"
    realization: Realization = "complex"

    def balance(self, layer: CompressibleLayer, signals: Weighting) -> Ranking:
        """Rank the layer's modes.

        Raises:
            ValueError: Naming the layer, if it is unstable or not finite.
        """
        del signals
        system = layer.system()
        bidirectional = getattr(layer.module, "bidirectional", False)
        directions = system.C.tensor_split(2) if bidirectional else (system.C,)
        output = torch.stack([C.norm(dim=0) for C in directions]).mean(dim=0)
        distance = torch.expm1(system.log_A.real)
        return _ranking(system, system.B.norm(dim=1) * output / torch.sqrt(distance**2 + _LAST_EPSILON))


class AireStates:
    """Rank modes by their H2 norm ``|c_i| |b_i| / sqrt(1 - |l_i|^2)`` (AIRE-Prune, ICLR 2026).

    AIRE-Prune's score of a state is its energy, the square of this, over the sum of energies down to it in
    its layer, and one threshold holds for all layers: ``GlobalBudget(total, by="score")`` on these norms;
    :func:`~compressm.rivals.aire_pruning` joins the two.  Energies of a bidirectional layer's two outputs
    add.
    """

    name = "aire"
    needs: Needs = "nothing"
    realization: Realization = "complex"

    def balance(self, layer: CompressibleLayer, signals: Weighting) -> Ranking:
        """Rank the layer's modes.

        Raises:
            ValueError: Naming the layer, if it is unstable or not finite.
        """
        del signals
        system = layer.system()
        return _ranking(system, torch.sqrt(modal_scores(system, "h2")))


def _ranking(system: DiagonalSystem, norms: Tensor) -> Ranking:
    indices = torch.argsort(norms, descending=True, stable=True)
    return Ranking(system, indices, norms[indices])
