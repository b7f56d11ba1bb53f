"""Models on disk: a folder with safetensors and JSON, each layer with its own size, nothing pickled."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from compressm._version import __version__
from compressm.models.classifier import SequenceClassifier
from compressm.models.language import LanguageModel
from compressm.models.pairs import PairClassifier
from compressm.models.regressor import SequenceRegressor

FORMAT = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"

MODELS: dict[str, type[Any]] = {
    model.__name__: model for model in (SequenceClassifier, PairClassifier, SequenceRegressor, LanguageModel)
}
"""Classes that :func:`load` can build by itself, by name: each takes its ``config`` as keyword arguments."""


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model to the folder ``path``: ``model.safetensors`` and ``model.json``.

    The folder appears, or replaces an older one, only when it is complete.

    Args:
        model: Any module. compressm's own models are described completely; for others, :func:`load` needs a
            model of the same architecture to fill.
        path: Folder to write.

    Raises:
        FileExistsError: If ``path`` exists and is not a saved model.
    """
    target = Path(path)
    if target.exists() and not (target / DESCRIPTION).is_file():
        raise FileExistsError(f"{target} exists and is not a saved model; choose another path")
    own = MODELS.get(type(model).__name__) is type(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        safetensors.torch.save_file(tensors, scratch / WEIGHTS)
        description = {
            "format": FORMAT,
            "compressm": __version__,
            "model": type(model).__name__,
            "config": model.config if own else None,
            "sha256": _digest(scratch / WEIGHTS),
        }
        (scratch / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        scratch.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            target.rename(old / target.name)
            scratch.rename(target)
            shutil.rmtree(old)
        else:
            scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Read a model that :func:`save` wrote.

    Args:
        path: The folder.
        model: For architectures that compressm does not build itself: a fresh model of the same architecture,
            at any size; its parameters take the saved shapes. Changed only if everything fits.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is damaged, of a newer format, or does not fit the model; the message names the
            file and the remedy.
    """
    folder = Path(path)
    description = _read_description(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing; save the model again")
    if _digest(weights) != description["sha256"]:
        raise ValueError(
            f"{weights} is damaged (its checksum is not the one in {DESCRIPTION}); save it again"
        )
    try:
        tensors = safetensors.torch.load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged ({error}); save it again") from error
    if model is None:
        model = _build(description, folder)
    _fill(model, tensors, weights)
    return model.eval()


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: it has no {DESCRIPTION}")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged ({error}); save the model again") from error
    expected = {"format", "compressm", "model", "config", "sha256"}
    if not isinstance(description, dict) or description.keys() != expected:
        raise ValueError(f"{file} does not describe a model: its keys must be {', '.join(sorted(expected))}")
    if description["format"] != FORMAT:
        raise ValueError(
            f"{file} has format {description['format']}, this version reads {FORMAT}; it was written by "
            f"compressm {description['compressm']}, use that version or a newer one"
        )
    return description


def _build(description: dict[str, Any], folder: Path) -> nn.Module:
    name, config = description["model"], description["config"]
    if name not in MODELS or config is None:
        raise ValueError(
            f"{folder} holds a {name}, which compressm cannot build itself; "
            f"make one and call load({str(folder)!r}, model)"
        )
    try:
        model: nn.Module = MODELS[name](**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / DESCRIPTION} does not describe a {name}: {error}") from error
    return model


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor], weights: Path) -> None:
    present = model.state_dict()
    missing, unknown = present.keys() - tensors.keys(), tensors.keys() - present.keys()
    if missing or unknown:
        raise ValueError(
            f"{weights} does not fit this {type(model).__name__}: "
            f"missing {sorted(missing) or 'nothing'}, unknown {sorted(unknown) or 'nothing'}"
        )
    for name, tensor in present.items():
        if tensor.dim() != tensors[name].dim():
            raise ValueError(
                f"{weights}: {name} has shape {tuple(tensors[name].shape)}, the model's has "
                f"{tuple(tensor.shape)}; give load() a model of the architecture that was saved"
            )
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        parameter.data = tensors[name].to(parameter.device, parameter.dtype)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
