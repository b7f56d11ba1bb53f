"""What ranks the states of a layer and makes a smaller one: the place where methods differ."""

from collections.abc import Sequence
from typing import Literal, Protocol, cast, get_args

import torch

from compressm.adapters import WEIGHTINGS, CompressibleLayer, Criterion, LayerBalancing, Weighting
from compressm.adapters.weighting import WeightingKind
from compressm.lti import Realization

Needs = Literal["nothing", "inputs", "gradients"]
"""What a reducer has to know of a layer's signals: nothing, inputs, or also gradients of its outputs.

In ascending order."""


class Reducer(Protocol):
    """A method of reduction; one of your own goes where a name of ours goes."""

    @property
    def name(self) -> str:
        """How records and reports call it."""
        ...

    @property
    def realization(self) -> Realization:
        """The form of the system that it works on."""
        ...

    @property
    def needs(self) -> Needs:
        """What must be recorded before it can run."""
        ...

    def balance(self, layer: CompressibleLayer, signals: Weighting) -> LayerBalancing:
        """Rank the layer's states.

        Args:
            layer: The layer.
            signals: What was recorded, as far as :attr:`needs` asks for it; its ``kind`` is "none".

        Raises:
            ValueError: Naming the layer, if it is unstable, not finite, or of a kind that the method cannot
                serve.
        """
        ...


class Balanced:
    """Balanced truncation.

    Args:
        weighting: What it takes from the data; see :class:`compressm.adapters.Weighting`.
        realization: "real" balances the map that is used, ``Re(C x)``; "complex" is the published form.

    Raises:
        ValueError: If an argument is unknown.
    """

    def __init__(self, weighting: WeightingKind = "none", realization: Realization = "real") -> None:
        if realization not in get_args(Realization):
            raise ValueError(
                f"realization is {realization!r}; choose one of {', '.join(get_args(Realization))}"
            )
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting is {weighting!r}; choose one of {', '.join(WEIGHTINGS)}")
        self.weighting: WeightingKind = weighting
        self.realization: Realization = realization

    @property
    def name(self) -> str:
        """The weighting; "balanced" if there is none."""
        return "balanced" if self.weighting == "none" else self.weighting

    @property
    def needs(self) -> Needs:
        """Inputs for the weightings by data, and gradients for two of them."""
        needs: dict[WeightingKind, Needs] = {
            "none": "nothing",
            "states": "inputs",
            "gradients": "gradients",
            "covariance": "gradients",
        }
        return needs[self.weighting]

    def balance(self, layer: CompressibleLayer, signals: Weighting) -> LayerBalancing:
        """Balance the layer's linear system with the Gramians that the weighting asks for."""
        weighting = Weighting(self.weighting, signals.inputs, signals.gradients)
        return layer.balance(self.realization, weighting)


class Selected:
    """Keep some of a layer's states as they are and drop the others.

    Args:
        criterion: What ranks them; which criteria a kind of layer knows, its adapter says.
        seed: For the criterion "random", of a generator of its own.
        energy_needs: What the criterion "energy" looks at; some kinds of layer need inputs alone.

    Raises:
        ValueError: If the criterion is unknown.
    """

    realization: Realization = "real"

    def __init__(self, criterion: Criterion, seed: int = 0, energy_needs: Needs = "gradients") -> None:
        if criterion not in get_args(Criterion):
            raise ValueError(f"criterion is {criterion!r}; choose one of {', '.join(get_args(Criterion))}")
        self.criterion: Criterion = criterion
        self._energy_needs: Needs = energy_needs
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def name(self) -> str:
        """The criterion."""
        return self.criterion

    @property
    def needs(self) -> Needs:
        """Gradients or inputs for energies, inputs for activations, nothing for the others."""
        needs: dict[Criterion, Needs] = {"energy": self._energy_needs, "qr": "inputs"}
        return needs.get(self.criterion, "nothing")

    def balance(self, layer: CompressibleLayer, signals: Weighting) -> LayerBalancing:
        """Rank the layer's states."""
        return layer.select(self.criterion, signals, self._generator)


def find_reducer(reduction: str, realization: Realization, energy_needs: Needs = "gradients") -> Reducer:
    """The method for a name: "balanced", what balancing takes from the data, or what selects states.

    Raises:
        ValueError: If the name or the realization is unknown, with the names there are.
    """
    weighted = [kind for kind in WEIGHTINGS if kind != "none"]
    if reduction == "balanced" or reduction in weighted:
        kind = "none" if reduction == "balanced" else cast(WeightingKind, reduction)
        return Balanced(kind, realization)
    if reduction in get_args(Criterion):
        return Selected(cast(Criterion, reduction), energy_needs=energy_needs)
    raise ValueError(
        f"reduction is {reduction!r}; choose one of balanced, {', '.join((*weighted, *get_args(Criterion)))}"
    )


def find_reducers(
    reduction: str | Reducer | None,
    realization: Realization,
    layers: Sequence[CompressibleLayer],
    available: Needs = "gradients",
) -> list[Reducer]:
    """A method for every layer.

    Args:
        reduction: The same for all; None for what each kind of layer prefers.
        realization: The form to balance.
        layers: The layers.
        available: What is known of the signals, or can be recorded: a preferred method that needs more is
            passed over.

    Raises:
        ValueError: If the name or the realization is unknown, or, naming the layer, if nothing can serve it
            with what is known.
    """
    if reduction is None:
        return [_preferred(layer, realization, available) for layer in layers]
    if isinstance(reduction, str):
        return [find_reducer(reduction, realization, layer.energy_needs) for layer in layers]
    return [reduction] * len(layers)


def _preferred(layer: CompressibleLayer, realization: Realization, available: Needs) -> Reducer:
    known = get_args(Needs)
    for name in layer.preferred_reductions:
        reducer = find_reducer(name, realization, layer.energy_needs)
        if known.index(reducer.needs) <= known.index(available):
            return reducer
    raise ValueError(
        f"layer {layer.name!r}: a {layer.kind} cannot be reduced without data; give calibration=batches, for "
        f"reduction={' or '.join(map(repr, layer.preferred_reductions))}"
    )
