"""What ranks the states of a layer and makes a smaller one: the place where methods differ."""

from typing import Literal, Protocol, cast, get_args

from compressm.adapters import WEIGHTINGS, CompressibleLayer, LayerBalancing, Weighting
from compressm.adapters.weighting import WeightingKind
from compressm.lti import Realization

Needs = Literal["nothing", "inputs", "gradients"]
"""What a reducer has to know of a layer's signals: nothing, inputs, or also gradients of its outputs."""


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


def find_reducer(reduction: str | Reducer, realization: Realization) -> Reducer:
    """The method for a name: "balanced", or what balancing takes from the data.

    Raises:
        ValueError: If the name or the realization is unknown, with the names there are.
    """
    if not isinstance(reduction, str):
        return reduction
    if reduction == "balanced":
        return Balanced("none", realization)
    known = [kind for kind in WEIGHTINGS if kind != "none"]
    if reduction not in known:
        raise ValueError(f"reduction is {reduction!r}; choose one of balanced, {', '.join(known)}")
    return Balanced(cast(WeightingKind, reduction), realization)
