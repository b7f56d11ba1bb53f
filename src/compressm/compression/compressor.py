"""Cuts in training: three lines around a loop."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from compressm.adapters import find_layers
from compressm.compression import snapshot
from compressm.compression.autoschedule import AutoSchedule
from compressm.compression.cutting import balance_layers, plan_cut
from compressm.compression.guard import Gentler, Rollback, Watch
from compressm.compression.optimizer_state import OptimizerState, check_mode, find_optimizer
from compressm.compression.ranks import FixedRank, RankRule, check_rule
from compressm.compression.record import Cut, LayerCut, Undone
from compressm.compression.reducers import Reducer, find_reducers
from compressm.compression.schedule import CutSchedule, Observation, Schedule
from compressm.compression.signals import BATCHES, SignalRecorder
from compressm.compression.snapshot import Stateful
from compressm.compression.target import TargetMetric
from compressm.compression.tracking import HSVTracker
from compressm.lti import Realization


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
        schedule: When to cut: :class:`Schedule` by step, or :class:`AutoSchedule` when the layers are ready.
        realization: "real" balances the map that is used, ``Re(C x)``; "complex" is the published form.
        reduction: What ranks and reduces the states. "states" balances with the states that the inputs of the
            last steps drive; "balanced" with the system's own Gramians, as published, which have an error
            bound; "gradients" and "covariance" are other weightings by data
            (:class:`compressm.adapters.Weighting`). "energy", "qr", "magnitude" and "random" select states of
            selective and attention layers (:class:`compressm.compression.Selected`). Or a
            :class:`~compressm.compression.Reducer`. None takes for each kind of layer what measured best.
        optimizer_state: "transport" moves moments into the new coordinates, "reset" restarts them, "slice"
            keeps their first entries, as the method's reference implementation does.
        guard: Takes back cuts that hurt.
        stateful: What the guard has to put back besides model, optimisers and random numbers, by name:
            scheduler, gradient scaler, data order, your loop's own counter; objects with ``state_dict`` and
            ``load_state_dict``.
        track_every: Steps between checks of the Hankel singular values by :attr:`tracker`; None for those
            alone that the schedule asks for. A check costs about as much as a cut.

    Attributes:
        reducers: What reduces each layer.
        records: All attempts so far.
        tracker: Follows the Hankel singular values; its ``records`` are for reports.

    Raises:
        TypeError: If the rank is no rule.
        ValueError: If an argument is unknown, the rule cannot serve a layer, or a layer's parameter that
            requires a gradient is in none of the optimisers.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        rank: RankRule,
        schedule: CutSchedule,
        realization: Realization = "real",
        reduction: str | Reducer | None = None,
        optimizer_state: OptimizerState = "transport",
        guard: Rollback | None = None,
        stateful: Mapping[str, Stateful] | None = None,
        track_every: int | None = None,
    ) -> None:
        check_mode(optimizer_state)
        self._model, self._layers = model, find_layers(model)
        self.reducers = find_reducers(reduction, realization, self._layers)
        if optimizer is None:
            self._optimizers: tuple[Optimizer, ...] = ()
        else:
            self._optimizers = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
        self._check_ownership()
        self._initial = {layer.name: layer.state_dim for layer in self._layers}
        check_rule(rank, self._initial)
        self.rank, self.schedule, self.optimizer_state = rank, schedule, optimizer_state
        self._watch = None if guard is None else Watch(guard)
        self._stateful = dict(stateful or {})
        if guard is not None and isinstance(schedule, Schedule):
            _check_patience(guard, schedule)
        if track_every is not None and track_every < 1:
            raise ValueError(f"track_every is {track_every}; it must be at least 1, or None")
        self.track_every, self.tracker = (
            track_every,
            _make_tracker(schedule, self.reducers[0].realization, rank),
        )
        self.records: list[Cut] = []
        self._step = 0
        self._recorder = SignalRecorder(self._layers, [reducer.needs for reducer in self.reducers])
        self._look_ahead()

    @property
    def steps_done(self) -> int:
        """Optimiser steps that count: less than calls of :meth:`step` if the guard took some back."""
        return self._step

    @property
    def finished(self) -> bool:
        """Whether no cut can come any more, and none be taken back: the layers keep their sizes."""
        return self.schedule.finished(self._step) and (self._watch is None or self._watch.pending is None)

    @property
    def wants_metric(self) -> bool:
        """Whether the next call of :meth:`step` needs the metric, for the guard."""
        if self._watch is None:
            return False
        return self.schedule.possible(self._step + 1) or self._watch.due(self._step + 1)

    def step(self, metric: float | None = None) -> Cut | None:
        """Count one optimiser step, and cut if the schedule says so.

        Args:
            metric: How good the model is now, for the guard (at least where :attr:`wants_metric`) and for
                a schedule that looks at it, like the training loss for :class:`AutoSchedule`.

        Returns:
            A record at every attempt, whether or not a layer changed, and where the guard took a cut back
            (``record.undid``); otherwise None.

        Raises:
            RuntimeError: If the guard has no metric, or no signals were recorded where the reduction needs
                them. Nothing was changed then.
            ValueError: Naming the layer, if one is unstable or not finite. Nothing was changed then.
        """
        self._step += 1
        record = None
        if self._watch is not None:
            self._watch.observe(metric)
            if self._watch.due(self._step):
                record = self._judge(self._watch)
        if record is None:
            self._track()
            attempt = self.schedule.due(self._step, Observation(metric=metric, tracker=self.tracker))
            if attempt is not None:
                record = self._attempt(attempt)
        self._look_ahead()
        return record

    def _track(self) -> None:
        """Check the Hankel singular values, of the layers as such, where somebody asked for it."""
        own = self.track_every is not None and self._step % self.track_every == 0
        if own or self.schedule.needs_tracking(self._step):
            self.tracker.observe(
                self._step,
                {layer.name: layer.rank_states(self.tracker.realization) for layer in self._layers},
            )

    def _attempt(self, attempt: int) -> Cut:
        if self._watch is None:
            return self._cut(self.rank, attempt)
        # A schedule that does not know the guard's patience may ask for a cut while one is on trial.
        undone = self._judge(self._watch)
        if undone is not None:
            return undone
        before = self._watch.mean("before the cut")
        return self._guarded_cut(self._watch, self.rank, attempt, 0, before, self._take_snapshot())

    def _cut(self, rule: RankRule, attempt: int, undid: Undone | None = None) -> Cut:
        began = time.perf_counter()
        attempts = self.schedule.attempts
        plan_for = partial(
            plan_cut,
            self._layers,
            balance_layers(self._layers, self.reducers, self._recorder),
            reducers=self.reducers,
            attempt=attempt,
            attempts=attempts,
            initial_state_dims=self._initial,
            optimizers=self._optimizers,
            optimizer_state=self.optimizer_state,
        )
        if isinstance(rule, TargetMetric):
            plan = rule.search(plan_for, last=attempt == attempts)
        else:
            plan = plan_for(rule)
        plan.apply()
        record = Cut(
            step=self._step,
            attempt=attempt,
            attempts=attempts,
            seconds=time.perf_counter() - began,
            layers=plan.layers,
            recompilations=self._recompilations(plan.layers),
            undid=undid,
        )
        self.records.append(record)
        return record

    def _recompilations(self, cuts: Sequence[LayerCut]) -> int:
        """How many compiled parts of the model hold a layer of another size now."""
        compiled = [
            name
            for name, module in self._model.named_modules()
            # What torch.compile returns for a module, and what Module.compile() leaves in it.
            if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        ]
        changed = [cut.name for cut in cuts if cut.new != cut.old]
        return sum(
            any(part in ("", name) or name.startswith(f"{part}.") for name in changed) for part in compiled
        )

    def _guarded_cut(
        self,
        watch: Watch,
        rule: RankRule,
        attempt: int,
        retry: int,
        before: float,
        saved: Mapping[str, Any],
        undid: Undone | None = None,
    ) -> Cut:
        record = self._cut(rule, attempt, undid)
        if record.changed:
            watch.begin(step=self._step, attempt=attempt, retry=retry, before=before, snapshot=saved)
            return self._conclude("pending")
        return record

    def _judge(self, watch: Watch) -> Cut | None:
        """The verdict on the pending cut: None if it is kept, else the record of what was done instead."""
        pending, guard = watch.pending, watch.guard
        if pending is None:
            return None
        before, after = pending["before"], watch.mean("after the cut")
        watch.pending = None
        if guard.allows(before, after):
            self._conclude("kept")
            return None
        undone = self._conclude("undone")
        undid = Undone(
            step=self._step,
            before=before,
            after=after,
            tolerance=guard.tolerance,
            sizes={layer.name: layer.new for layer in undone.layers},
            reason=f"{self._step - undone.step} steps after the cut at step {undone.step} the metric is "
            f"{after:.6g}, and it was {before:.6g}: worse by more than {guard.tolerance:g}",
        )
        saved, retry = pending["snapshot"], pending["retry"] + 1
        snapshot.restore(saved["training"], self._model, self._optimizers, self._stateful)
        for layer in self._layers:
            layer.refresh()
        self._recorder.load_state_dict(saved["signals"])
        self.schedule.load_state_dict(saved["schedule"])
        self.tracker.load_state_dict(saved["tracker"])
        self._step = pending["step"]
        tried = {layer.name: (layer.old, layer.new) for layer in undone.layers}
        rule = Gentler(tried, 0.5 if retry <= guard.retries else 0.0)
        return self._guarded_cut(watch, rule, pending["attempt"], retry, before, saved, undid)

    def _conclude(self, verdict: str) -> Cut:
        """Write a verdict into the latest record."""
        self.records[-1] = replace(self.records[-1], verdict=verdict)
        return self.records[-1]

    def _take_snapshot(self) -> dict[str, Any]:
        return {
            "training": snapshot.take(self._model, self._optimizers, self._stateful),
            "signals": self._recorder.state_dict(),
            "schedule": self.schedule.state_dict(),
            "tracker": self.tracker.state_dict(),
        }

    def _look_ahead(self) -> None:
        """Record signals where an attempt is near, and leave the model after the last."""
        if self.finished:
            self._recorder.close()
            return
        near = range(self._step + 1, self._step + 1 + BATCHES)
        self._recorder.switch(on=any(self.schedule.possible(step) for step in near))

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, initial sizes, records, recorded signals and the guard's pending cut.

        Plain numbers, strings, lists and dicts, and tensors.
        """
        return {
            "step": self._step,
            "initial_state_dims": dict(self._initial),
            "records": [record.to_dict() for record in self.records],
            "signals": self._recorder.state_dict(),
            "schedule": self.schedule.state_dict(),
            "tracker": self.tracker.state_dict(),
            "guard": None if self._watch is None else self._watch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. The model must already have the sizes of that moment.

        Raises:
            ValueError: If the state is of a model with other layers or sizes, or lacks an entry.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(f"the compressor's state lacks {', '.join(sorted(missing))}")
        if state["initial_state_dims"].keys() != self._initial.keys():
            raise ValueError(
                f"the compressor's state is of layers {sorted(state['initial_state_dims'])}, "
                f"this model has {sorted(self._initial)}"
            )
        if (state["guard"] is None) != (self._watch is None):
            saved, here = ("without", "with") if state["guard"] is None else ("with", "without")
            raise ValueError(
                f"the compressor's state was saved {saved} a guard, and this compressor was made {here} one"
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
        if self._watch is not None:
            self._watch.load_state_dict(state["guard"])
        self._recorder.load_state_dict(state["signals"])
        self.schedule.load_state_dict(state["schedule"])
        self.tracker.load_state_dict(state["tracker"])

    def _check_ownership(self) -> None:
        if not self._optimizers:
            return
        for layer in self._layers:
            for name, parameter in layer.module.named_parameters():
                if parameter.requires_grad and find_optimizer(self._optimizers, parameter) is None:
                    raise ValueError(
                        f"parameter {name!r} of layer {layer.name!r} is in none of the optimiser's groups: "
                        "it would not train. Give the optimiser model.parameters(), or freeze it with "
                        "requires_grad_(False)"
                    )


def _make_tracker(schedule: CutSchedule, realization: Realization, rank: RankRule) -> HSVTracker:
    """A tracker for the cut that the rule will make, looking back as far as the schedule asks."""
    states = rank.rank if isinstance(rank, FixedRank) and isinstance(rank.rank, int) else None
    if isinstance(schedule, AutoSchedule):
        return schedule.tracker(realization=realization, states=states)
    return HSVTracker(realization=realization, states=states)


def _check_patience(guard: Rollback, schedule: Schedule) -> None:
    """Refuse verdicts that would fall on or after the next attempt or the end of training."""
    ends = (*schedule.steps[1:], schedule.total_steps)
    for step, end in zip(schedule.steps, ends, strict=True):
        if step + guard.patience > end:
            what = "the next attempt" if end != schedule.total_steps else "the end of training"
            raise ValueError(
                f"Rollback: with patience={guard.patience} the verdict on the cut at step {step} would come "
                f"after {what} at step {end}; take a patience of at most {end - step}, or fewer cuts"
            )
