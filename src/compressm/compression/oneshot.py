"""Compress a trained model, once."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from compressm.adapters import CompressibleLayer, find_layers
from compressm.compression.cutting import balance_layers, plan_cut
from compressm.compression.ranks import RankRule
from compressm.compression.record import Cut
from compressm.compression.reducers import Needs, Reducer, find_reducers
from compressm.compression.signals import SignalRecorder
from compressm.compression.target import TargetMetric
from compressm.lti import Realization

Batch = Mapping[str, Any] | Sequence[Any] | Tensor
Loss = Callable[[Any, Any], Tensor]


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
    available, calibration = _available(calibration, loss)
    reducers = find_reducers(reduction, realization, layers, available)
    sizes = {layer.name: layer.state_dim for layer in layers}
    rank.check(sizes)
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


def _available(
    calibration: Iterable[Batch] | None, loss: Loss | None
) -> tuple[Needs, Iterable[Batch] | None]:
    """What calibration can tell, seen from its first batch, and the calibration with that batch in place."""
    if calibration is None:
        return "nothing", None
    batches = iter(calibration)
    first = next(batches, None)
    if first is None:
        raise ValueError("compress: calibration holds no batches")
    if isinstance(first, Mapping):
        with_loss = loss is not None or "labels" in first
    else:
        with_loss = loss is not None and not isinstance(first, Tensor) and len(first) > 1
    return "gradients" if with_loss else "inputs", chain((first,), batches)


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
    recorder.switch(on=True)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for batch in calibration:
            _pass(model, batch, loss, gradients="gradients" in needs)
    finally:
        recorder.leave()
        for module, mode in modes:
            module.training = mode
    return recorder


def _pass(model: nn.Module, batch: Batch, loss: Loss | None, *, gradients: bool) -> None:
    """One batch forward, and backward if gradients of the layers' outputs are needed."""
    keywords: dict[str, Any] = {}
    arguments: tuple[Any, ...] = ()
    targets = None
    if isinstance(batch, Mapping):
        keywords = dict(batch)
    elif isinstance(batch, Tensor):
        arguments = (batch,)
    else:
        inputs, targets = batch[0], batch[1] if len(batch) > 1 else None
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    if not gradients:
        with torch.no_grad():
            model(*arguments, **keywords)
        return
    with torch.enable_grad():
        output = model(*arguments, **keywords)
        if loss is not None and targets is not None:
            value = loss(output, targets)
        elif isinstance(getattr(output, "loss", None), Tensor):
            value = output.loss
        else:
            raise ValueError(
                "compress: this reduction needs gradients: give pairs (inputs, targets) with "
                "loss=loss(output, targets), or dicts for which model(**batch).loss is one"
            )
        # backward() would add to the parameters' gradients, which are the user's.
        torch.autograd.grad(value, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
