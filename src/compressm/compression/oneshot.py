"""Compress a trained model, once."""

import time

from torch import nn

from compressm.adapters import find_layers
from compressm.compression.cutting import Realization, check_realization, plan_cut
from compressm.compression.ranks import RankRule
from compressm.compression.record import Cut


def compress(model: nn.Module, *, rank: RankRule, realization: Realization = "real") -> nn.Module:
    """Reduce every known layer of ``model`` in place; see :func:`compress_with_record` for the record.

    Args:
        model: Any model with layers that compressm knows.
        rank: How many states to keep; paths over several attempts go to their end at once.
        realization: "real" balances the map that is used, ``Re(C x)``; "complex" is the published form.

    Returns:
        The same model.

    Raises:
        ValueError: If the rule cannot serve a layer, or a layer is unstable or not finite; the model is
            unchanged then.
    """
    compress_with_record(model, rank=rank, realization=realization)
    return model


def compress_with_record(model: nn.Module, *, rank: RankRule, realization: Realization = "real") -> Cut:
    """Reduce ``model`` in place as :func:`compress` does, and return the record of the cut."""
    began = time.perf_counter()
    check_realization(realization)
    layers = find_layers(model)
    sizes = {layer.name: layer.state_dim for layer in layers}
    rank.check(sizes)
    plan = plan_cut(
        layers,
        rank,
        attempt=1,
        attempts=1,
        initial_state_dims=sizes,
        realization=realization,
        optimizers=(),
        optimizer_state="reset",
    )
    plan.apply()
    return Cut(step=0, attempt=1, attempts=1, seconds=time.perf_counter() - began, layers=plan.layers)
