"""Everything a cut or the steps after it may change, kept so that it can be put back bit by bit."""

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from compressm.compression.optimizer_state import replace_value


class Stateful(Protocol):
    """Anything that can be saved and restored: a scheduler, a gradient scaler, a sampler."""

    def state_dict(self) -> Mapping[str, Any]:
        """What it needs to go on."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Go on from there."""
        ...


def take(
    model: nn.Module, optimizers: Sequence[Optimizer], stateful: Mapping[str, Stateful]
) -> dict[str, Any]:
    """A deep copy of parameters, buffers, optimisers, stateful objects and random number generators.

    Only tensors, numbers, strings, lists and dicts, as far as the stateful objects keep to them: it can be
    part of a checkpoint.
    """
    return {
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "buffers": {name: buffer.detach().clone() for name, buffer in model.named_buffers()},
        "optimizers": [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers],
        "stateful": {name: copy.deepcopy(dict(it.state_dict())) for name, it in stateful.items()},
        "random": _random_state(),
    }


def restore(
    snapshot: Mapping[str, Any],
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    stateful: Mapping[str, Stateful],
) -> None:
    """Put everything back as :func:`take` found it. Parameters stay the same objects; gradients are dropped.

    Raises:
        ValueError: If the snapshot is of another model or of other stateful objects; nothing was changed.
    """
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for kind, saved, present in (
        ("parameters", snapshot["parameters"], parameters),
        ("buffers", snapshot["buffers"], buffers),
        ("stateful objects", snapshot["stateful"], stateful),
    ):
        if saved.keys() != present.keys():
            different = sorted(saved.keys() ^ present.keys())
            raise ValueError(f"the snapshot's {kind} are not the ones there are now: {', '.join(different)}")
    for name, parameter in parameters.items():
        replace_value(parameter, snapshot["parameters"][name].clone())
    for name, buffer in buffers.items():
        buffer.data = snapshot["buffers"][name].to(buffer.device, copy=True)
    for optimizer, state in zip(optimizers, snapshot["optimizers"], strict=True):
        optimizer.load_state_dict(copy.deepcopy(state))
    for name, state in snapshot["stateful"].items():
        stateful[name].load_state_dict(copy.deepcopy(state))
    _restore_random_state(snapshot["random"])


def _random_state() -> dict[str, Any]:
    """Of PyTorch on all devices, NumPy and Python, in tensors, numbers and lists."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the user's own use of it
    numbers = torch.from_numpy(np.asarray(keys).astype(np.int64))
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), numbers, position, has_gauss, cached],
        "python": [version, list(words), gauss],
    }


def _restore_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
