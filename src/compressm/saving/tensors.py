"""A model's tensors by name: out of it, each once, and into another one, whose layers take their sizes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from compressm.adapters.registry import CompressibleLayer, find_adapter


def collect(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers that make the model's state, and the buffers beside it, on the CPU.

    A tensor with several names (an embedding that is also the head) comes under the first of them.
    """
    kept = model.state_dict(keep_vars=True).keys()
    weights: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    memory: set[int] = set()
    for names in _tensors(model).values():
        tensor = _get(model, names[0]).detach().cpu().contiguous()
        # Parts of one piece of memory that are not one tensor: the file has no such thing.
        if tensor.untyped_storage().data_ptr() in memory:
            tensor = tensor.clone()
        memory.add(tensor.untyped_storage().data_ptr())
        stored = weights if kept & set(names) else buffers
        stored[names[0]] = tensor
    return weights, buffers


def fill(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    source: Path,
    *,
    keep_dtype: bool,
) -> None:
    """Give a model's parameters and buffers their saved values, and layers that compressm knows their sizes.

    Args:
        model: The model; it changes only if everything fits.
        weights: What :func:`collect` gave.
        buffers: The same. Of these the model may have others, which stay as its constructor made them.
        source: The file, for messages.
        keep_dtype: Whether tensors keep the type that they were saved in, or take the model's.

    Raises:
        ValueError: If names or shapes do not fit.
    """
    kept = model.state_dict(keep_vars=True).keys()
    layers = known_layers(model)
    chosen: list[tuple[Tensor, Tensor]] = []
    missing: set[str] = set()
    unknown = set(weights)
    for names in _tensors(model).values():
        tensor = _get(model, names[0])
        unknown.difference_update(names)
        found = [(name, saved[name]) for saved in (weights, buffers) for name in names if name in saved]
        if not found:
            missing.update(names if kept & set(names) else ())
            continue
        name, value = found[0]
        if any(not torch.equal(value, other) for _, other in found):
            raise ValueError(
                f"{source}: {' and '.join(name for name, _ in found)} differ, and in this "
                f"{type(model).__name__} they are one tensor; give load() a model that does not tie them"
            )
        _check_shape(name, value, tensor, layers, source)
        chosen.append((tensor, value))
    if missing or unknown:
        raise ValueError(
            f"{source} does not fit this {type(model).__name__}: "
            f"missing {sorted(missing) or 'nothing'}, unknown {sorted(unknown) or 'nothing'}"
        )
    for tensor, value in chosen:
        tensor.data = value.to(tensor.device, value.dtype if keep_dtype else tensor.dtype)
    for layer in layers:
        layer.refresh()


def _tensors(model: nn.Module) -> dict[int, list[str]]:
    """All names of each parameter and buffer, in the model's order."""
    names: dict[int, list[str]] = {}
    for name, tensor in _named(model):
        names.setdefault(id(tensor), []).append(name)
    return names


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _get(model: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(path), last)
    return tensor


def known_layers(model: nn.Module) -> list[CompressibleLayer]:
    """Layers that compressm knows; unlike ``find_layers``, content with none."""
    pairs = ((name, module, find_adapter(module)) for name, module in model.named_modules())
    return [CompressibleLayer(name, module, adapter) for name, module, adapter in pairs if adapter]


def _check_shape(
    name: str, value: Tensor, tensor: Tensor, layers: list[CompressibleLayer], source: Path
) -> None:
    in_layer = any(name.startswith(f"{layer.name}.") or not layer.name for layer in layers)
    if value.shape == tensor.shape or (in_layer and value.dim() == tensor.dim()):
        return
    raise ValueError(
        f"{source}: {name} has shape {tuple(value.shape)}, the model's has {tuple(tensor.shape)}; give "
        "load() a model of the architecture that was saved: only layers that compressm knows "
        "(compressm.register) may differ in size"
    )
