"""One cut, in two halves: compute everything, then write everything.

The first half reads the model and may fail (an unstable layer, an optimiser without a rule); the second only
assigns. So a failed cut leaves model and optimiser as they were.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.optim import Optimizer

from compressm.adapters import CompressibleLayer, LayerBalancing, ParameterUpdate
from compressm.compression.optimizer_state import OptimizerState, find_optimizer, plan_state, replace_value
from compressm.compression.ranks import RankRule, Spectrum, Target
from compressm.compression.record import LayerCut
from compressm.compression.reducers import Balanced, Reducer
from compressm.compression.side_by_side import side_by_side
from compressm.compression.signals import SignalRecorder

T = TypeVar("T")


@dataclass(frozen=True)
class _Assignment:
    """A parameter's new value and, if an optimiser holds it, its new entry there."""

    parameter: nn.Parameter
    value: torch.Tensor
    optimizer: Optimizer | None
    state: dict[str, Any]

    def present(self) -> "_Assignment":
        """The same parameter with what it has now."""
        state = {} if self.optimizer is None else self.optimizer.state.get(self.parameter, {})
        return _Assignment(self.parameter, self.parameter.detach().clone(), self.optimizer, state)


@dataclass(frozen=True)
class CutPlan:
    """A cut that was computed and not yet made."""

    layers: tuple[LayerCut, ...]
    _modules: tuple[CompressibleLayer, ...]
    _assignments: tuple[_Assignment, ...]
    _before: list[_Assignment] = field(default_factory=list, repr=False)

    def apply(self) -> None:
        """Write the new parameters and optimiser entries."""
        self._before[:] = [assignment.present() for assignment in self._assignments]
        self._write(self._assignments)

    def revert(self) -> None:
        """Take :meth:`apply` back, right after it."""
        self._write(self._before)
        self._before.clear()

    def _write(self, assignments: Iterable[_Assignment]) -> None:
        for assignment in assignments:
            replace_value(assignment.parameter, assignment.value)
            if assignment.optimizer is None:
                continue
            if assignment.state:
                assignment.optimizer.state[assignment.parameter] = assignment.state
            else:
                assignment.optimizer.state.pop(assignment.parameter, None)
        for layer in self._modules:
            layer.refresh()


def balance_layers(
    layers: Sequence[CompressibleLayer], reducers: Sequence[Reducer], recorder: SignalRecorder
) -> list[LayerBalancing]:
    """Rank the states of every layer by its method.

    Raises:
        RuntimeError: If signals that the reducer needs were not recorded.
        ValueError: Naming the layer, if one is unstable or not finite.
    """
    tasks = [
        partial(reducer.balance, layer, recorder.signals(layer.name))
        for layer, reducer in zip(layers, reducers, strict=True)
    ]
    return _all(tasks, layers, reducers)


def plan_cut(
    layers: Sequence[CompressibleLayer],
    balancings: Sequence[LayerBalancing],
    rule: RankRule,
    reducers: Sequence[Reducer],
    *,
    attempt: int,
    attempts: int,
    initial_state_dims: Mapping[str, int],
    optimizers: Sequence[Optimizer],
    optimizer_state: OptimizerState,
) -> CutPlan:
    """Ask the rule for sizes and compute what has to change.

    Raises:
        ValueError: If the optimiser state of a layer cannot move.
    """
    spectra = [
        Spectrum(
            layer.name,
            balancing.hankel_singular_values,
            layer.state_dim,
            initial_state_dims[layer.name],
            reducer.name,
        )
        for layer, balancing, reducer in zip(layers, balancings, reducers, strict=True)
    ]
    targets = rule.targets(spectra, attempt, attempts)

    def plan_layer(
        layer: CompressibleLayer, balancing: LayerBalancing, target: Target, reducer: Reducer
    ) -> tuple[LayerCut, list[_Assignment]]:
        cut, updates = _cut_layer(layer, balancing, target, rule, reducer)
        assignments = []
        for name, update in updates.items():
            parameter = cast(nn.Parameter, layer.parameter(name))
            optimizer = find_optimizer(optimizers, parameter)
            state = {} if optimizer is None else plan_state(optimizer, parameter, update, optimizer_state)
            assignments.append(_Assignment(parameter, update.value, optimizer, state))
        return cut, assignments

    tasks = [partial(plan_layer, *one) for one in zip(layers, balancings, targets, reducers, strict=True)]
    planned = _all(tasks, layers, reducers)
    return CutPlan(
        tuple(cut for cut, _ in planned),
        tuple(layers),
        tuple(assignment for _, assignments in planned for assignment in assignments),
    )


def _all(
    tasks: Sequence[Callable[[], T]], layers: Sequence[CompressibleLayer], reducers: Sequence[Reducer]
) -> list[T]:
    """The results of a task for each layer, worked on side by side where layers are independent.

    They are where all that is done is balancing, in main memory: a selection may draw random numbers, in the
    layers' order, a method of a user's own may do anything, and on a GPU a stream belongs to a thread.
    """
    independent = all(type(reducer) is Balanced for reducer in reducers) and all(
        parameter.device.type == "cpu" for layer in layers for parameter in layer.module.parameters()
    )
    return side_by_side(tasks) if independent else [task() for task in tasks]


def _cut_layer(
    layer: CompressibleLayer, balancing: LayerBalancing, target: Target, rule: RankRule, reducer: Reducer
) -> tuple[LayerCut, Mapping[str, ParameterUpdate]]:
    old = layer.state_dim
    values = tuple(balancing.hankel_singular_values.tolist())
    untouched = LayerCut(
        name=layer.name,
        old=old,
        new=old,
        error_bound=0.0,
        error=0.0,
        hankel_singular_values=values,
        kept_values=len(values),
        realization=reducer.realization,
        reduction=reducer.name,
    )
    if target.order is not None and not rule.accepts(old, target.order):
        return untouched, {}
    if target.keep is not None and target.keep >= len(values):
        return untouched, {}
    reduction = balancing.truncate(order=target.order, keep=target.keep)
    if not rule.accepts(old, reduction.order):
        return untouched, {}
    cut = LayerCut(
        name=layer.name,
        old=old,
        new=reduction.order,
        error_bound=reduction.error_bound,
        error=reduction.error,
        hankel_singular_values=values,
        kept_values=reduction.kept,
        realization=reducer.realization,
        reduction=reducer.name,
        note=reduction.note,
    )
    return cut, layer.adapter.write_back(layer.module, reduction)
