"""Mamba layers, ours and others', and the way back into their parameters.

A smaller layer is one of the same kind: rows of ``x_proj`` for ``B`` and ``C`` and columns of ``A_log``, on
stock kernels.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressm.adapters.base import Criterion, Move, ParameterUpdate
from compressm.adapters.mamba_structure import Part, norm_name, refresh_sizes, time_step_rank
from compressm.adapters.parameters import double
from compressm.adapters.selection import Selection, SelectionReduction
from compressm.adapters.selective_signals import adjoint_moments, state_moments
from compressm.adapters.weighting import Weighting
from compressm.lti import Realization
from compressm.lti.warped import WarpedBalancing, WarpedReduction, balance_warped, warped_gramians

PRIOR = 0.1
"""Weight of what the parameters alone tell of observability, beside what gradients tell of it.

Gradients fade where a loss is nearly zero: those of a trained model come from the few steps that it gets
wrong, and what all others need is hardly in them."""


class SelectsMambaStates:
    """Selection of a Mamba layer's states: all that serves where ``B`` or ``C`` is normalised over them.

    A norm over ``r`` of ``N`` states sees another mean square. Rows of ``x_proj`` are divided by
    ``sqrt(N/r)``, which is what the norm's epsilon needs, and its weight is multiplied by it. A norm without
    a weight leaves that factor to ``out_proj``, and ``D`` is divided by it: the same map, in the same
    parameters.
    """

    ssm_parameters = ("A_log", "D", "dt_proj.bias")
    preferred_reductions: tuple[str, ...] = ("energy", "magnitude")
    why_not_balanced = "normalises B and C over the states, and no change of basis passes through a norm"

    def state_dim(self, layer: Any) -> int:
        """States of every channel."""
        states: int = layer.A_log.shape[1]
        return states

    def refresh(self, layer: Any) -> None:
        """Bring the attributes of other libraries' layers that repeat sizes in line with the parameters."""
        refresh_sizes(layer)

    @torch.no_grad()
    def select(
        self,
        layer: Any,
        criterion: Criterion,
        weighting: Weighting,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """Rank the layer's states, the same for all channels.

        "energy": root mean square over channels of ``sqrt(E[h^2] E[g^2])``, from states and adjoint states of
        the running layer. "magnitude": the same from norms of the rows of ``W_B`` and ``W_C`` and from the
        rates, as white inputs would have it. "random": by chance.

        Raises:
            ValueError: If the criterion is another one, or needs signals that were not recorded.
        """
        if criterion == "random":
            return Selection.random(1, self.state_dim(layer), generator)
        if criterion == "magnitude":
            # B and C share one kernel 1 / -2a in every channel.
            rates = torch.exp(double(layer.A_log))
            rows = [_rows(layer, part).norm(dim=1) for part in ("B", "C")]
            return Selection.by_scores(rows[0] * rows[1] * (0.5 / rates).square().mean(dim=0).sqrt())
        if criterion == "energy":
            reached = state_moments(layer, weighting.inputs).energies
            seen = adjoint_moments(layer, weighting.inputs, weighting.gradients).energies
            return Selection.by_scores((reached * seen).mean(dim=0).sqrt())
        raise ValueError(
            f"the states of a {type(layer).__name__} are not selected by {criterion!r}; take 'energy', "
            "'magnitude' or 'random'"
        )

    @torch.no_grad()
    def write_back(self, layer: Any, reduction: Any) -> Mapping[str, ParameterUpdate]:
        """Parameters with the selected states; all moments move exactly.

        Raises:
            TypeError: If the reduction is no selection.
        """
        if not isinstance(reduction, SelectionReduction):
            raise TypeError(
                f"a {type(layer).__name__} takes a SelectionReduction, not a {type(reduction).__name__}"
            )
        index = reduction.indices[0]
        basis = torch.eye(reduction.states, dtype=torch.float64)[index]
        factor = math.sqrt(reduction.states / reduction.order)
        norms = {part: norm_name(layer, part) for part in _PARTS}
        scales = {part: 1.0 if norm is None else 1.0 / factor for part, norm in norms.items()}
        updates = {
            "x_proj.weight": _projected(layer, basis, scales),
            "A_log": _moved(layer.A_log, lambda x: x[:, index]),
        }
        gain = 1.0
        for norm in filter(None, norms.values()):
            name, weight = f"{norm}.weight", getattr(getattr(layer, norm), "weight", None)
            if isinstance(weight, nn.Parameter):
                updates[name] = _moved(weight, lambda x: x[index], factor)
                continue
            gain *= factor
            if weight is not None:  # a constant for kernels that ask for a weight
                updates[name] = ParameterUpdate(double(weight)[index])
        if gain != 1.0:
            updates["out_proj.weight"] = _moved(layer.out_proj.weight, lambda x: x, gain)
            updates["D"] = _moved(layer.D, lambda x: x, 1.0 / gain)
        return updates


class MambaAdapter(SelectsMambaStates):
    """Joins Mamba layers to Galerkin projection in warped time, :mod:`compressm.lti.warped`, and selection.

    The projection folds into ``x_proj`` and ``A_log`` and is exact where states are never reached or never
    seen, or rates are equal. Measured on a character language model, without retraining: 128 states go to 16
    at 0.8 % of the loss with both Gramians from data, where selection by energy costs 8 %
    (`experiments/text.toml`).
    """

    preferred_reductions = ("gradients", "states", "balanced")

    @torch.no_grad()
    def balance(self, layer: Any, realization: Realization, weighting: Weighting) -> WarpedBalancing:
        """Balance all channels together; the layer is real, so that both realizations are one.

        Raises:
            ValueError: If signals that the kind needs were not recorded or are not finite, or the kind is
                "covariance".
        """
        del realization
        if weighting.kind == "covariance":
            raise ValueError(
                "covariances of inputs and outputs do not weight a selective layer, whose B and C vary with "
                "its inputs; take reduction='gradients' or 'states'"
            )
        rates = -torch.exp(double(layer.A_log))
        P, Q = warped_gramians(rates, *(_rows(layer, part) for part in _PARTS))
        if weighting.kind in ("states", "gradients"):
            P = state_moments(layer, weighting.inputs).gramian
        if weighting.kind == "gradients":
            seen = adjoint_moments(layer, weighting.inputs, weighting.gradients).gramian
            Q = _with_prior(seen, Q, P)
        return balance_warped(P, Q, rates)

    @torch.no_grad()
    def write_back(self, layer: Any, reduction: Any) -> Mapping[str, ParameterUpdate]:
        """Parameters of the smaller layer.

        Of a projection, first moments of the rows of ``B`` and ``C`` move as their gradients do, second ones
        by the squared entries, and those of ``A_log`` restart; of a selection, all move exactly.

        Raises:
            TypeError: If the reduction is of another kind of layer.
        """
        if not isinstance(reduction, WarpedReduction):
            return super().write_back(layer, reduction)
        rates = reduction.rates(torch.exp(double(layer.A_log)))
        return {
            "x_proj.weight": _projected(layer, reduction.basis, dict.fromkeys(_PARTS, 1.0)),
            "A_log": ParameterUpdate(torch.log(rates)),
        }


_PARTS: tuple[Part, Part] = ("B", "C")


def _with_prior(Q: Tensor, prior: Tensor, P: Tensor) -> Tensor:
    """``Q`` and :data:`PRIOR` times one that would see as much of the states that are reached, ``P``."""
    told, expected = torch.trace(P @ Q), torch.trace(P @ prior)
    if expected <= 0:
        return Q
    return Q + PRIOR * told / expected * prior if told > 0 else prior


def _rows(layer: Any, part: Part) -> Tensor:
    """``W_B`` or ``W_C``, ``(N, d)``, with the weight of the norm that follows, if there is one."""
    states, rank = layer.A_log.shape[1], time_step_rank(layer)
    first = rank + (states if part == "C" else 0)
    rows = double(layer.x_proj.weight)[first : first + states]
    norm = norm_name(layer, part)
    weight = None if norm is None else getattr(getattr(layer, norm), "weight", None)
    return rows if weight is None else rows * double(weight)[:, None]


def _projected(layer: Any, basis: Tensor, scales: Mapping[Part, float]) -> ParameterUpdate:
    """``x_proj`` with ``Z W_B`` and ``Z W_C``, each times a number, and the moments that go with it."""
    rank = time_step_rank(layer)
    sizes = [rank, basis.shape[1], basis.shape[1]]

    def apply(rows: Tensor, on_B: Tensor, on_C: Tensor) -> Tensor:
        dt, B, C = torch.split(rows, sizes)
        return torch.cat((dt, on_B @ B, on_C @ C))

    on_values = [scales[part] * basis for part in _PARTS]
    on_gradients = [basis / scales[part] for part in _PARTS]
    squares = [matrix.square() for matrix in on_gradients]
    return ParameterUpdate(
        apply(double(layer.x_proj.weight), *on_values),
        lambda moment: apply(moment, *on_gradients),
        lambda moment: apply(moment, *squares),
    )


def _moved(parameter: Tensor, take: Move, factor: float = 1.0) -> ParameterUpdate:
    """A part of a parameter, times a number, with moments that go with it."""
    return ParameterUpdate(
        factor * take(double(parameter)),
        lambda moment: take(moment) / factor,
        lambda moment: take(moment) / factor**2,
    )
