"""The adapter protocol, its registry, and the search for layers in a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

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
    """A layer in balanced coordinates; :class:`compressm.lti.Balancing` for a layer of one system."""

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


class LTIAdapter(Protocol):
    """Joins one type of linear time-invariant layer to :mod:`compressm.lti`.

    Implement the three methods and the attribute for a layer of your own, then
    ``compressm.register(MyLayer, MyAdapter())``. Adapters are pure: they read the layer and return values;
    only the compressor writes.

    A layer that is more than one system (:class:`BalancesItself`) also has
    ``balance(layer, realization, weighting)``, which returns a :class:`LayerBalancing`.
    """

    @property
    def ssm_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that form the dynamics: they get the SSM learning rate and no decay."""
        ...

    def state_dim(self, layer: Any) -> int:
        """States of the layer as it is now."""
        ...

    def system(self, layer: Any) -> DiagonalSystem:
        """The linear map that the layer applies, ``y_k = Re(C x_k) + D u_k``."""
        ...

    def write_back(self, layer: Any, reduction: Any) -> Mapping[str, ParameterUpdate]:
        """The layer's parameters, and buffers if need be, by name, that realise ``reduction.system``.

        ``reduction`` is a :class:`compressm.lti.Reduction`, unless the adapter balances by itself.

        Raises:
            ValueError: If the layer cannot represent that system.
        """
        ...


@runtime_checkable
class BalancesItself(Protocol):
    """An adapter of layers that are more than one system."""

    def balance(self, layer: Any, realization: Realization, weighting: Weighting) -> LayerBalancing:
        """Balance the layer as a whole.

        Raises:
            ValueError: If the layer cannot be weighted in that way.
        """
        ...


@dataclass(frozen=True)
class CompressibleLayer:
    """A layer of a model that has an adapter."""

    name: str
    module: nn.Module
    adapter: LTIAdapter

    @property
    def state_dim(self) -> int:
        """States as they are now."""
        return self.adapter.state_dim(self.module)

    def system(self) -> DiagonalSystem:
        """The layer's linear system.

        Raises:
            ValueError: Naming the layer, if it is unstable or not finite.
        """
        try:
            return self.adapter.system(self.module)
        except ValueError as error:
            raise ValueError(f"layer {self.name!r}: {error}") from error

    def balance(self, realization: Realization, weighting: Weighting) -> LayerBalancing:
        """Balance the layer, weighted by what is known of its signals.

        Raises:
            ValueError: Naming the layer, if it is unstable or not finite, or cannot be weighted so.
        """
        try:
            if isinstance(self.adapter, BalancesItself):
                return self.adapter.balance(self.module, realization, weighting)
            return weighting.balance(self.adapter.system(self.module), realization)
        except ValueError as error:
            raise ValueError(f"layer {self.name!r}: {error}") from error


_registry: dict[type[nn.Module], LTIAdapter] = {}


def register(layer_type: type[nn.Module], adapter: LTIAdapter) -> None:
    """Make layers of ``layer_type`` and its subclasses known to compressm.

    Args:
        layer_type: The layer's class. Registering a class again replaces its adapter.
        adapter: Shows the layer's system and writes a smaller one back.

    Raises:
        TypeError: If ``layer_type`` is not a class of modules or the adapter lacks a member of
            :class:`LTIAdapter`.
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, nn.Module)):
        raise TypeError(f"register() takes a subclass of torch.nn.Module, not {layer_type!r}")
    members = ("ssm_parameters", "state_dim", "system", "write_back")
    missing = [member for member in members if not hasattr(adapter, member)]
    if missing:
        raise TypeError(f"the adapter {adapter!r} for {layer_type.__name__} lacks {', '.join(missing)}")
    _registry[layer_type] = adapter


def find_layers(model: nn.Module) -> list[CompressibleLayer]:
    """All layers of ``model`` that have an adapter, in the model's order, each once.

    Raises:
        ValueError: If there is none.
    """
    found = []
    for name, module in model.named_modules():
        adapter = next((_registry[base] for base in type(module).__mro__ if base in _registry), None)
        if adapter is not None:
            found.append(CompressibleLayer(name or type(module).__name__, module, adapter))
    if not found:
        known = ", ".join(sorted(base.__name__ for base in _registry))
        raise ValueError(
            f"{type(model).__name__} has no layer that compressm knows ({known}); "
            "make yours known with compressm.register(YourLayer, adapter)"
        )
    return found
