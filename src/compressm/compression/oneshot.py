"""Compress a trained model, once."""

import time
from collections.abc import Iterable, Sequence
from functools import partial

from torch import nn

from compressm.adapters import CompressibleLayer, find_layers
from compressm.compression.calibration import Batch, Loss, available, replay
from compressm.compression.cutting import balance_layers, plan_cut
from compressm.compression.ranks import RankRule, check_rule
from compressm.compression.record import Cut
from compressm.compression.reducers import Reducer, find_reducers
from compressm.compression.signals import SignalRecorder
from compressm.compression.target import TargetMetric
from compressm.lti import Realization


def compress(
    model: nn.Module,
    *,
    rank: RankRule,
    calibration: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    realization: Realization = "real",
    reduction: str | Reducer | None = None,
) -> nn.Module:
    """Reduce every known layer of ``model`` in place; see :func:`compress_with_record` for the record.

    Args:
        model: Any model with layers that compressm knows.
        rank: How many states to keep; paths over several attempts go to their end at once.
        calibration: A few batches as the model will see them: pairs ``(inputs, targets)``, inputs alone, or
            dicts for ``model(**batch)``; inputs that are a tuple are several arguments. All of a layer's
            inputs are kept while they pass: a few hundred sequences are enough.
        loss: ``loss(output, targets)`` for reductions that need gradients; dicts may do without, if
            ``model(**batch).loss`` is one.
        realization: "real" balances the map that is used, ``Re(C x)``; "complex" is the published form.
        reduction: As for :class:`~compressm.Compressor`; None takes what measured best for each kind of layer
            among those that the calibration batches serve.

    Returns:
        The same model, in the mode (training or evaluation) it was in.

    Raises:
        TypeError: If the rank is no rule.
        ValueError: If the rule cannot serve a layer, a layer is unstable or not finite, the reduction needs
            calibration batches or a loss and has none; the model is unchanged then.
    """
    compress_with_record(
        model, rank=rank, calibration=calibration, loss=loss, realization=realization, reduction=reduction
    )
    return model


def compress_with_record(
    model: nn.Module,
    *,
    rank: RankRule,
    calibration: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    realization: Realization = "real",
    reduction: str | Reducer | None = None,
) -> Cut:
    """Reduce ``model`` in place as :func:`compress` does, and return the record of the cut."""
    began = time.perf_counter()
    layers = find_layers(model)
    known, calibration = available(calibration, loss)
    reducers = find_reducers(reduction, realization, layers, known)
    sizes = {layer.name: layer.state_dim for layer in layers}
    check_rule(rank, sizes)
    recorder = _record(model, layers, reducers, calibration, loss)
    plan_for = partial(
        plan_cut,
        layers,
        balance_layers(layers, reducers, recorder),
        reducers=reducers,
        attempt=1,
        attempts=1,
        initial_state_dims=sizes,
        optimizers=(),
        optimizer_state="reset",
    )
    plan = rank.search(plan_for) if isinstance(rank, TargetMetric) else plan_for(rank)
    plan.apply()
    return Cut(step=0, attempt=1, attempts=1, seconds=time.perf_counter() - began, layers=plan.layers)


def _record(
    model: nn.Module,
    layers: Sequence[CompressibleLayer],
    reducers: Sequence[Reducer],
    calibration: Iterable[Batch] | None,
    loss: Loss | None,
) -> SignalRecorder:
    """Run the calibration batches, in evaluation mode, and return what passed through the layers."""
    needs = [reducer.needs for reducer in reducers]
    hungry = next((reducer for reducer in reducers if reducer.needs != "nothing"), None)
    if hungry is not None and calibration is None:
        raise ValueError(
            f"compress: reduction {hungry.name!r} needs data: give calibration=batches, or take "
            "reduction='balanced'"
        )
    recorder = SignalRecorder(layers, needs, batches=None, sequences=None, only_in_training=False)
    if hungry is None or calibration is None:
        return recorder
    replay(model, recorder, calibration, loss, gradients="gradients" in needs)
    return recorder
