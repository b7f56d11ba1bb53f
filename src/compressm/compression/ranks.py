"""How many states to keep: rules from spectra to sizes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from compressm.lti import energy_rank, error_bound_rank


@dataclass(frozen=True)
class Spectrum:
    """What a rule sees of a layer.

    Attributes:
        name: The layer's name in the model.
        hankel_singular_values: Descending; ``N`` of them in complex form, ``2N`` in real form.
        state_dim: States now.
        initial_state_dim: States before the first cut.
        reduction: The method that ranked the states.
    """

    name: str
    hankel_singular_values: Tensor
    state_dim: int
    initial_state_dim: int
    reduction: str = "balanced"

    def states(self, keep: int) -> int:
        """About how many states ``keep`` values make: in real form two values are one complex state."""
        return max(1, -(-keep * self.state_dim // len(self.hankel_singular_values)))


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to keep of a layer: a number of states (``order``) or of Hankel singular values (``keep``)."""

    order: int | None = None
    keep: int | None = None

    def __post_init__(self) -> None:
        if (self.order is None) == (self.keep is None):
            raise ValueError(f"give either order or keep, not order={self.order} and keep={self.keep}")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Which sizes a layer may take.

    Args:
        multiple_of: Round sizes up to multiples of this, as kernels on a GPU like them (8, 16). A layer that
            has fewer states keeps what it has.
        minimum: Least number of states.
        maximum: Largest number of states, whatever the rule says.

    Raises:
        ValueError: If an argument is below 1 or the minimum above the maximum.
    """

    multiple_of: int = 1
    minimum: int = 1
    maximum: int | None = None

    def __post_init__(self) -> None:
        for name in ("multiple_of", "minimum"):
            if getattr(self, name) < 1:
                raise ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)}; it is at least 1")
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(
                f"{type(self).__name__}: maximum is {self.maximum}, below the minimum of {self.minimum}"
            )

    def fitted(self, spectrum: Spectrum, target: Target) -> Target:
        """The target at an allowed size."""
        if self.multiple_of == 1 and self.minimum == 1 and self.maximum is None:
            return target
        order = target.order if target.keep is None else spectrum.states(target.keep)
        order = max(order or 1, self.minimum)
        if self.maximum is not None:
            order = min(order, self.maximum)
        order = -(-order // self.multiple_of) * self.multiple_of
        return Target(order=min(order, spectrum.state_dim))


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


def check_rule(rank: RankRule, state_dims: dict[str, int]) -> None:
    """Refuse what is no rule, and layers that a rule cannot serve.

    Raises:
        TypeError: Saying what to give in place of a number.
        ValueError: Naming the layer and the remedy.
    """
    if not isinstance(rank, RankRule):
        raise TypeError(f"rank is {rank!r}; give a rule, such as compressm.FixedRank(12) for 12 states")
    rank.check(state_dims)


@dataclass(frozen=True, kw_only=True)
class EnergyRank(Sizes, RankRule):
    """The paper's rule: the fewest states whose HSVs sum to ``1 - tolerance`` of the total.

    A layer is left alone unless fewer than ``threshold`` of its states would remain.

    Args:
        tolerance: Share of the sum of Hankel singular values that may go, in ``[0, 1)``.
        threshold: Largest share of states left at which a cut is made.
        multiple_of: See :class:`Sizes`, also for ``minimum`` and ``maximum``.

    Raises:
        ValueError: If an argument is outside its range.
    """

    tolerance: float
    threshold: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"EnergyRank: tolerance is {self.tolerance}; it must be in [0, 1)")
        _check_threshold(self, self.threshold)

    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:
        """The energy rank of each spectrum at this moment, whatever the attempt."""
        del attempt, attempts
        return [
            self.fitted(s, Target(keep=energy_rank(s.hankel_singular_values, self.tolerance)))
            for s in spectra
        ]

    def accepts(self, old: int, new: int) -> bool:
        """Whether fewer than ``threshold`` of the states remain."""
        return new < self.threshold * old


@dataclass(frozen=True, kw_only=True)
class ErrorBoundRank(Sizes, RankRule):
    """The fewest states for which twice the sum of the discarded HSVs is at most ``tolerance * sigma_1``.

    With ``reduction="balanced"`` that is a guarantee: the layer's map changes by at most that much, in the
    H-infinity norm. With a reduction weighted by data it is a rule of thumb in weighted coordinates.

    Args:
        tolerance: Largest bound, relative to the largest Hankel singular value; positive.
        threshold: Largest share of states left at which a cut is made.
        multiple_of: See :class:`Sizes`, also for ``minimum`` and ``maximum``.

    Raises:
        ValueError: If an argument is outside its range.
    """

    tolerance: float
    threshold: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tolerance > 0:
            raise ValueError(f"ErrorBoundRank: tolerance is {self.tolerance}; it must be positive")
        _check_threshold(self, self.threshold)

    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:
        """The rank that the bound allows each spectrum at this moment, whatever the attempt."""
        del attempt, attempts
        return [
            self.fitted(s, Target(keep=max(1, error_bound_rank(s.hankel_singular_values, self.tolerance))))
            for s in spectra
        ]

    def accepts(self, old: int, new: int) -> bool:
        """Whether fewer than ``threshold`` of the states remain."""
        return new < self.threshold * old


@dataclass(frozen=True)
class FixedRank(Sizes, RankRule):
    """Every layer ends with ``rank`` states; attempt ``j`` of ``c`` goes to ``round(n (r/n)^(j/c))``.

    Args:
        rank: States ``r`` after the last attempt: one number for all layers, or a table by the layers' names,
            which leaves other layers alone.
        multiple_of: See :class:`Sizes`, also for ``minimum`` and ``maximum``.

    Raises:
        ValueError: If a rank is below 1.
    """

    rank: int | Mapping[str, int]

    def __post_init__(self) -> None:
        super().__post_init__()
        for rank in (self.rank,) if isinstance(self.rank, int) else self.rank.values():
            if rank < 1:
                raise ValueError(f"FixedRank: rank is {rank}; a layer keeps at least 1 state")

    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:
        """The size on the geometric path from the initial size to the rank."""
        return [
            self.fitted(s, _on_path(s, self._final(s) / s.initial_state_dim, attempt, attempts))
            for s in spectra
        ]

    def check(self, state_dims: dict[str, int]) -> None:
        """Refuse layers that have fewer states than their rank, and names that no layer has."""
        if not isinstance(self.rank, int) and (unknown := sorted(self.rank.keys() - state_dims.keys())):
            raise ValueError(
                f"FixedRank: there is no layer {unknown[0]!r}; the layers are {', '.join(sorted(state_dims))}"
            )
        for name, size in state_dims.items():
            rank = self.rank if isinstance(self.rank, int) else self.rank.get(name, size)
            if size < rank:
                raise ValueError(
                    f"FixedRank: rank is {rank}, but layer {name!r} has only {size} states; "
                    f"choose a rank of at most {size}"
                )

    def _final(self, spectrum: Spectrum) -> int:
        if isinstance(self.rank, int):
            return self.rank
        return self.rank.get(spectrum.name, spectrum.initial_state_dim)


@dataclass(frozen=True)
class FractionRank(Sizes, RankRule):
    """Every layer ends with ``fraction`` of its initial states, on the same geometric path as `FixedRank`.

    Args:
        fraction: Share of the initial states that remain after the last attempt, in ``(0, 1]``; at least one
            state always does.
        multiple_of: See :class:`Sizes`, also for ``minimum`` and ``maximum``.

    Raises:
        ValueError: If the fraction is outside ``(0, 1]``.
    """

    fraction: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"FractionRank: fraction is {self.fraction}; it must be in (0, 1]")

    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:
        """The size on the geometric path from the initial size to its fraction."""
        return [self.fitted(s, _on_path(s, self.fraction, attempt, attempts)) for s in spectra]


def _on_path(spectrum: Spectrum, fraction: float, attempt: int, attempts: int) -> Target:
    size = round(spectrum.initial_state_dim * fraction ** (attempt / attempts))
    return Target(order=min(max(size, 1), spectrum.state_dim))


def _check_threshold(rule: RankRule, threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(f"{type(rule).__name__}: threshold is {threshold}; it must be in (0, 1]")
