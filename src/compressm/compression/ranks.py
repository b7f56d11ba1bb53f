"""How many states to keep: rules from spectra to sizes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from compressm.lti import energy_rank


@dataclass(frozen=True)
class Spectrum:
    """What a rule sees of a layer.

    Attributes:
        name: The layer's name in the model.
        hankel_singular_values: Descending; ``N`` of them in complex form, ``2N`` in real form.
        state_dim: States now.
        initial_state_dim: States before the first cut.
    """

    name: str
    hankel_singular_values: Tensor
    state_dim: int
    initial_state_dim: int


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to keep of a layer: a number of states (``order``) or of Hankel singular values (``keep``)."""

    order: int | None = None
    keep: int | None = None

    def __post_init__(self) -> None:
        if (self.order is None) == (self.keep is None):
            raise ValueError(f"give either order or keep, not order={self.order} and keep={self.keep}")


class RankRule(ABC):
    """Chooses what to keep of every layer at an attempt; it sees all layers at once."""

    @abstractmethod
    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:
        """One target for each spectrum at attempt ``attempt`` of ``attempts`` (counted from 1)."""

    def accepts(self, old: int, new: int) -> bool:
        """Whether going from ``old`` to ``new`` states is worth a cut."""
        return new < old

    def check(self, state_dims: dict[str, int]) -> None:
        """Refuse layers, by name and size, that the rule cannot serve.

        Raises:
            ValueError: Naming the layer and the remedy.
        """
        del state_dims


@dataclass(frozen=True, kw_only=True)
class EnergyRank(RankRule):
    """The paper's rule: the fewest states whose HSVs sum to ``1 - tolerance`` of the total.

    A layer is left alone unless fewer than ``threshold`` of its states would remain.

    Args:
        tolerance: Share of the sum of Hankel singular values that may go, in ``[0, 1)``.
        threshold: Largest share of states left at which a cut is made.

    Raises:
        ValueError: If an argument is outside its range.
    """

    tolerance: float
    threshold: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"EnergyRank: tolerance is {self.tolerance}; it must be in [0, 1)")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"EnergyRank: threshold is {self.threshold}; it must be in (0, 1]")

    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:  # noqa: ARG002 - the energy at this moment decides, whatever the attempt
        """The energy rank of each spectrum."""
        return [Target(keep=energy_rank(s.hankel_singular_values, self.tolerance)) for s in spectra]

    def accepts(self, old: int, new: int) -> bool:
        """Whether fewer than ``threshold`` of the states remain."""
        return new < self.threshold * old


@dataclass(frozen=True)
class FixedRank(RankRule):
    """Every layer ends with ``rank`` states; attempt ``j`` of ``c`` goes to ``round(n (r/n)^(j/c))``.

    Args:
        rank: States ``r`` of every layer after the last attempt.

    Raises:
        ValueError: If the rank is below 1.
    """

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"FixedRank: rank is {self.rank}; a layer keeps at least 1 state")

    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:
        """The size on the geometric path from the initial size to ``rank``."""
        return [_on_path(s, self.rank / s.initial_state_dim, attempt, attempts) for s in spectra]

    def check(self, state_dims: dict[str, int]) -> None:
        """Refuse layers that have fewer than ``rank`` states."""
        for name, size in state_dims.items():
            if size < self.rank:
                raise ValueError(
                    f"FixedRank: rank is {self.rank}, but layer {name!r} has only {size} states; "
                    f"choose a rank of at most {size}"
                )


@dataclass(frozen=True)
class FractionRank(RankRule):
    """Every layer ends with ``fraction`` of its initial states, on the same geometric path as `FixedRank`.

    Args:
        fraction: Share of the initial states that remain after the last attempt, in ``(0, 1]``; at least one
            state always does.

    Raises:
        ValueError: If the fraction is outside ``(0, 1]``.
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"FractionRank: fraction is {self.fraction}; it must be in (0, 1]")

    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:
        """The size on the geometric path from the initial size to its fraction."""
        return [_on_path(s, self.fraction, attempt, attempts) for s in spectra]


def _on_path(spectrum: Spectrum, fraction: float, attempt: int, attempts: int) -> Target:
    size = round(spectrum.initial_state_dim * fraction ** (attempt / attempts))
    return Target(order=min(max(size, 1), spectrum.state_dim))
