"""Cuts in training: three lines around a loop."""

import time
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from compressm.adapters import find_layers
from compressm.compression.cutting import Realization, check_realization, plan_cut
from compressm.compression.optimizer_state import OptimizerState, check_mode, find_optimizer
from compressm.compression.ranks import RankRule
from compressm.compression.record import Cut
from compressm.compression.schedule import Schedule


class Compressor:
    """Shrinks the state-space layers of a model while it trains (CompreSSM, arXiv 2510.02823).

    Call :meth:`step` after every optimiser step. At the schedule's attempts it computes the Hankel singular
    values of each layer, asks the rank rule for a size, truncates the balanced layer and writes it back; the
    optimiser's state moves along. Parameters stay the same objects, in the same groups: learning-rate
    schedulers, gradient clipping and ``optimizer.state_dict()`` go on as before.

    Args:
        model: Any model with layers that compressm knows (``compressm.register`` adds yours).
        optimizer: The optimiser of these layers, several of them, or None.
        rank: How many states to keep.
        schedule: When to cut.
        realization: "real" balances the map that is used, ``Re(C x)``; "complex" is the published form.
        optimizer_state: "transport" moves moments into the new coordinates, "reset" restarts them, "slice"
            keeps their first entries, as the method's reference implementation does.

    Attributes:
        records: All attempts so far.

    Raises:
        ValueError: If an argument is unknown, the rule cannot serve a layer, or a layer's parameter that
            requires a gradient is in none of the optimisers.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        rank: RankRule,
        schedule: Schedule,
        realization: Realization = "real",
        optimizer_state: OptimizerState = "transport",
    ) -> None:
        check_realization(realization)
        check_mode(optimizer_state)
        self._layers = find_layers(model)
        if optimizer is None:
            self._optimizers: tuple[Optimizer, ...] = ()
        else:
            self._optimizers = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
        self._check_ownership()
        self._initial = {layer.name: layer.state_dim for layer in self._layers}
        rank.check(self._initial)
        self.rank, self.schedule = rank, schedule
        self.realization, self.optimizer_state = realization, optimizer_state
        self.records: list[Cut] = []
        self._step = 0

    def step(self) -> Cut | None:
        """Count one optimiser step, and cut if the schedule says so.

        Returns:
            A record at every attempt, whether or not a layer changed; otherwise None.

        Raises:
            ValueError: Naming the layer, if one is unstable or not finite. Nothing was changed then.
        """
        self._step += 1
        steps = self.schedule.steps
        if self._step not in steps:
            return None
        began = time.perf_counter()
        attempt = steps.index(self._step) + 1
        plan = plan_cut(
            self._layers,
            self.rank,
            attempt=attempt,
            attempts=len(steps),
            initial_state_dims=self._initial,
            realization=self.realization,
            optimizers=self._optimizers,
            optimizer_state=self.optimizer_state,
        )
        plan.apply()
        record = Cut(
            step=self._step,
            attempt=attempt,
            attempts=len(steps),
            seconds=time.perf_counter() - began,
            layers=plan.layers,
        )
        self.records.append(record)
        return record

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, the initial sizes and all records, in plain numbers and lists."""
        return {
            "step": self._step,
            "initial_state_dims": dict(self._initial),
            "records": [record.to_dict() for record in self.records],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. The model must already have the sizes of that moment.

        Raises:
            ValueError: If the state is of a model with other layers or sizes, or lacks an entry.
        """
        missing = {"step", "initial_state_dims", "records"} - state.keys()
        if missing:
            raise ValueError(f"the compressor's state lacks {', '.join(sorted(missing))}")
        if state["initial_state_dims"].keys() != self._initial.keys():
            raise ValueError(
                f"the compressor's state is of layers {sorted(state['initial_state_dims'])}, "
                f"this model has {sorted(self._initial)}"
            )
        records = [Cut.from_dict(record) for record in state["records"]]
        expected = (
            {cut.name: cut.new for cut in records[-1].layers} if records else state["initial_state_dims"]
        )
        for layer in self._layers:
            if layer.state_dim != expected[layer.name]:
                raise ValueError(
                    f"layer {layer.name!r} has {layer.state_dim} states, but had {expected[layer.name]} "
                    "when the compressor's state was saved; load the model of that moment first"
                )
        self._step, self.records = state["step"], records
        self._initial = dict(state["initial_state_dims"])

    def _check_ownership(self) -> None:
        if not self._optimizers:
            return
        for layer in self._layers:
            for name, parameter in layer.module.named_parameters(recurse=False):
                if parameter.requires_grad and find_optimizer(self._optimizers, parameter) is None:
                    raise ValueError(
                        f"parameter {name!r} of layer {layer.name!r} is in none of the optimiser's groups: "
                        "it would not train. Give the optimiser model.parameters(), or freeze it with "
                        "requires_grad_(False)"
                    )
