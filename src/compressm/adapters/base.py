"""What an adapter is: how a layer shows what it does, and takes a smaller form."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from compressm.adapters.weighting import Weighting
from compressm.lti import DiagonalSystem, Realization

Move = Callable[[Tensor], Tensor]


class LayerReduction(Protocol):
    """A smaller form of a layer; :class:`compressm.lti.Reduction` for a layer of one system."""

    @property
    def order(self) -> int:
        """States that are left."""
        ...

    @property
    def kept(self) -> int:
        """Hankel singular values that are left."""
        ...

    @property
    def error(self) -> float | None:
        """H-infinity norm of the difference that the reduction makes; None where it is not computed."""
        ...

    @property
    def error_bound(self) -> float | None:
        """A bound known beforehand; None where none holds."""
        ...

    @property
    def note(self) -> str:
        """Why there are fewer states than asked for; empty otherwise."""
        ...


class LayerBalancing(Protocol):
    """A layer whose states are in an order of importance: balanced, or its own states ranked.

    :class:`compressm.lti.Balancing` for a layer of one system.
    """

    @property
    def hankel_singular_values(self) -> Tensor:
        """What ranks the states: descending, float64."""
        ...

    def truncate(self, order: int | None = None, *, keep: int | None = None) -> LayerReduction:
        """Keep ``order`` states, or ``keep`` Hankel singular values."""
        ...


@dataclass(frozen=True)
class ParameterUpdate:
    """What a cut does to one parameter and to its optimiser moments.

    Attributes:
        value: The new value, in any dtype and on any device; the parameter keeps its own.
        first_moment: Maps a quantity that transforms like the parameter's gradient (momentum, Adam's first
            moment), float64 on the CPU in and out, from the old coordinates to the new ones. None: there is
            no such map, the moments restart.
        second_moment: The same for quantities that transform like the squared gradient.
    """

    value: Tensor
    first_moment: Move | None = None
    second_moment: Move | None = None


class LayerAdapter(Protocol):
    """Joins one type of layer to the reductions.

    What every adapter has. The methods of reduction it serves are those of the protocols it also fulfils:
    :class:`LTIAdapter` or :class:`BalancesItself` for balancing, :class:`SelectsStates` for selection. It may
    have a tuple ``preferred_reductions``, names of reductions from the best on (one that needs signals which
    were not recorded is passed over), ``energy_needs``, "inputs" if that selection looks at no gradients, and
    if its layers keep sizes in plain attributes, :class:`KeepsSizes`. Adapters are pure: they read the layer
    and return values; only the compressor writes.
    """

    @property
    def ssm_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that form the dynamics: they get the SSM learning rate and no decay."""
        ...

    def state_dim(self, layer: Any) -> int:
        """States of the layer as it is now."""
        ...

    def write_back(self, layer: Any, reduction: Any) -> Mapping[str, ParameterUpdate]:
        """The layer's parameters, and buffers if need be, that realise ``reduction``.

        By name, dotted for those of submodules (``"x_proj.weight"``). ``reduction`` is what ``truncate`` of
        the layer's balancing or selection gave; a :class:`compressm.lti.Reduction` for a layer of one system.

        Raises:
            ValueError: If the layer cannot represent it.
        """
        ...


class LTIAdapter(LayerAdapter, Protocol):
    """Joins one type of linear time-invariant layer to :mod:`compressm.lti`.

    Implement the three methods and the attribute for a layer of your own, then
    ``compressm.register(MyLayer, MyAdapter())``.

    A layer that is more than one system (:class:`BalancesItself`) also has
    ``balance(layer, realization, weighting)``, which returns a :class:`LayerBalancing`.
    """

    def system(self, layer: Any) -> DiagonalSystem:
        """The linear map that the layer applies, ``y_k = Re(C x_k) + D u_k``."""
        ...


@runtime_checkable
class HasSystem(Protocol):
    """An adapter of layers that are one linear time-invariant system."""

    def system(self, layer: Any) -> DiagonalSystem:
        """The linear map that the layer applies."""
        ...


@runtime_checkable
class BalancesItself(Protocol):
    """An adapter of layers that are more than one system, or vary with time."""

    def balance(self, layer: Any, realization: Realization, weighting: Weighting) -> LayerBalancing:
        """Balance the layer as a whole.

        Raises:
            ValueError: If the layer cannot be weighted in that way.
        """
        ...


Criterion = Literal["energy", "qr", "magnitude", "random"]
"""What selects states: joint controllability and observability energy of the running layer, strong
rank-revealing QR on activations, norms of weights, or chance."""


@runtime_checkable
class SelectsStates(Protocol):
    """An adapter of layers some of whose states can be kept as they are, and the others dropped."""

    def select(
        self,
        layer: Any,
        criterion: Criterion,
        weighting: Weighting,
        generator: torch.Generator | None = None,
    ) -> LayerBalancing:
        """Rank the layer's own states.

        Args:
            layer: The layer.
            criterion: What ranks them.
            weighting: Recorded inputs and gradients of outputs, as far as the criterion needs them.
            generator: Source of chance for "random".

        Raises:
            ValueError: If the layer does not know the criterion or lacks signals for it.
        """
        ...


@runtime_checkable
class KeepsSizes(Protocol):
    """An adapter of layers that keep sizes in plain attributes beside their parameters."""

    def refresh(self, layer: Any) -> None:
        """Bring these attributes in line with the shapes of the parameters; called after every write."""
        ...
