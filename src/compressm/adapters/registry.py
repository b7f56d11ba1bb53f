"""Layers of a model that have an adapter: the registry, and the search."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import torch
from torch import Tensor, nn

from compressm.adapters.base import (
    BalancesItself,
    Criterion,
    HasSystem,
    KeepsSizes,
    LayerAdapter,
    LayerBalancing,
    SelectsStates,
)
from compressm.adapters.weighting import Weighting
from compressm.lti import DiagonalSystem, Realization

# For linear time-invariant layers: what measured best on sequential MNIST, and what needs no data.
_PREFERRED = ("states", "balanced")


@dataclass(frozen=True)
class CompressibleLayer:
    """A layer of a model that has an adapter."""

    name: str
    module: nn.Module
    adapter: LayerAdapter

    @property
    def kind(self) -> str:
        """The layer's class."""
        return type(self.module).__name__

    @property
    def state_dim(self) -> int:
        """States as they are now."""
        return self.adapter.state_dim(self.module)

    @property
    def preferred_reductions(self) -> tuple[str, ...]:
        """Reductions from the best on, by name."""
        preferred: tuple[str, ...] = getattr(self.adapter, "preferred_reductions", _PREFERRED)
        return preferred

    @property
    def energy_needs(self) -> Literal["inputs", "gradients"]:
        """Signals that selection by energy looks at."""
        return getattr(self.adapter, "energy_needs", "gradients")

    def parameter(self, name: str) -> Tensor:
        """A parameter or buffer by its dotted name."""
        found: Tensor = attrgetter(name)(self.module)
        return found

    def refresh(self) -> None:
        """Bring plain attributes in line with the parameters, where the layer has such."""
        if isinstance(self.adapter, KeepsSizes):
            self.adapter.refresh(self.module)

    def system(self) -> DiagonalSystem:
        """The layer's linear system.

        Raises:
            ValueError: Naming the layer, if it is no such system, unstable or not finite.
        """
        if not isinstance(self.adapter, HasSystem):
            why = "is not one linear time-invariant system"
            if not isinstance(self.adapter, BalancesItself):
                why = getattr(self.adapter, "why_not_balanced", why)
            raise ValueError(
                f"layer {self.name!r}: a {self.kind} {why}; "
                f"take reduction={' or '.join(map(repr, self.preferred_reductions))}"
            )
        try:
            return self.adapter.system(self.module)
        except ValueError as error:
            raise ValueError(f"layer {self.name!r}: {error}") from error

    def balance(self, realization: Realization, weighting: Weighting) -> LayerBalancing:
        """Balance the layer, weighted by what is known of its signals.

        Raises:
            ValueError: Naming the layer, if it is unstable or not finite, or cannot be weighted so.
        """
        if not isinstance(self.adapter, BalancesItself):
            system = self.system()
            try:
                return weighting.balance(system, realization)
            except ValueError as error:
                raise ValueError(f"layer {self.name!r}: {error}") from error
        try:
            return self.adapter.balance(self.module, realization, weighting)
        except ValueError as error:
            raise ValueError(f"layer {self.name!r}: {error}") from error

    def rank_states(self, realization: Realization) -> LayerBalancing:
        """What is known of the states without data, for a look at the layer: balanced, or their magnitudes.

        Raises:
            ValueError: Naming the layer, if it is unstable or not finite.
        """
        if isinstance(self.adapter, BalancesItself | HasSystem):
            return self.balance(realization, Weighting())
        return self.select("magnitude", Weighting())

    def select(
        self, criterion: Criterion, weighting: Weighting, generator: torch.Generator | None = None
    ) -> LayerBalancing:
        """Rank the layer's own states, to keep some of them as they are.

        Raises:
            ValueError: Naming the layer, if it is of a kind that cannot be served so.
        """
        if not isinstance(self.adapter, SelectsStates):
            raise ValueError(
                f"layer {self.name!r}: the states of a {self.kind} are not selected by {criterion!r}; "
                f"take reduction={' or '.join(map(repr, self.preferred_reductions))}"
            )
        try:
            return self.adapter.select(self.module, criterion, weighting, generator)
        except ValueError as error:
            raise ValueError(f"layer {self.name!r}: {error}") from error


_registry: dict[type[nn.Module], LayerAdapter] = {}
_structures: list[tuple[Callable[[nn.Module], bool], LayerAdapter]] = []


def register(layer_type: type[nn.Module], adapter: LayerAdapter) -> None:
    """Make layers of ``layer_type`` and its subclasses known to compressm.

    Args:
        layer_type: The layer's class. Registering a class again replaces its adapter.
        adapter: Shows what the layer does and writes a smaller one back:
            :class:`compressm.adapters.LTIAdapter` for a linear time-invariant layer, otherwise a
            :class:`compressm.adapters.LayerAdapter` that balances or selects by itself.

    Raises:
        TypeError: If ``layer_type`` is not a class of modules or the adapter lacks a member.
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, nn.Module)):
        raise TypeError(f"register() takes a subclass of torch.nn.Module, not {layer_type!r}")
    members = ["ssm_parameters", "state_dim", "system", "write_back"]
    if isinstance(adapter, BalancesItself | SelectsStates):
        members.remove("system")
    missing = [member for member in members if not hasattr(adapter, member)]
    if missing:
        raise TypeError(f"the adapter {adapter!r} for {layer_type.__name__} lacks {', '.join(missing)}")
    _registry[layer_type] = adapter


def register_structure(matches: Callable[[nn.Module], bool], adapter: LayerAdapter) -> None:
    """Make layers known by what they are made of: other libraries' layers, without importing these.

    A registered class comes first, and of several structures the one that was made known last.
    """
    _structures.insert(0, (matches, adapter))


def find_adapter(module: nn.Module) -> LayerAdapter | None:
    """The adapter of a layer, or None."""
    for base in type(module).__mro__:
        if base in _registry:
            return _registry[base]
    return next((adapter for matches, adapter in _structures if matches(module)), None)


def find_layers(model: nn.Module) -> list[CompressibleLayer]:
    """All layers of ``model`` that have an adapter, in the model's order, each once.

    Raises:
        ValueError: If there is none.
    """
    found = []
    for name, module in model.named_modules():
        adapter = find_adapter(module)
        if adapter is not None:
            found.append(CompressibleLayer(name or type(module).__name__, module, adapter))
    if not found:
        known = ", ".join(sorted(base.__name__ for base in _registry))
        raise ValueError(
            f"{type(model).__name__} has no layer that compressm knows ({known}); "
            "make yours known with compressm.register(YourLayer, adapter)"
        )
    return found
