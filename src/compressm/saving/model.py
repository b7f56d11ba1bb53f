"""``save`` and ``load``."""

import os
from pathlib import Path
from typing import Any

from torch import nn

from compressm.models import LanguageModel, PairClassifier, SequenceClassifier, SequenceRegressor
from compressm.saving import pretrained
from compressm.saving.folder import DESCRIPTION, WEIGHTS, SavedModel, read_folder, write_folder
from compressm.saving.tensors import collect, fill

MODELS: dict[str, type[Any]] = {
    model.__name__: model for model in (SequenceClassifier, PairClassifier, SequenceRegressor, LanguageModel)
}
"""compressm's own models, by name: each takes its ``config`` as keyword arguments."""


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model to the folder ``path``: ``model.safetensors`` and ``model.json``.

    The folder appears, or replaces an older one, only when it is complete. A model of Transformers also gets
    that library's ``config.json`` (with ``per_layer_config``, if layers differ in size) and
    ``generation_config.json``; buffers that it does not count to its state are in ``buffers.safetensors``.

    Args:
        model: Any module. compressm's own models and those of Transformers are described completely; for
            others, :func:`load` needs a model of the same architecture to fill.
        path: Folder to write.

    Raises:
        FileExistsError: If ``path`` exists and is not a saved model.
    """
    own = MODELS.get(type(model).__name__) is type(model)
    name = None if own else pretrained.qualified_name(model)
    config: Any = model.config if own else None
    texts = {} if name is None else pretrained.describe(model)
    weights, buffers = collect(model)
    write_folder(SavedModel(Path(path), name or type(model).__name__, config, weights, buffers), texts)


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Read a model that :func:`save` wrote.

    Args:
        path: The folder.
        model: For architectures that compressm does not build itself: a fresh model of the same architecture.
            Its layers that compressm knows may have any size, and take the saved one; its parameters stay the
            same objects, of the type they have. Changed only if everything fits.

    Returns:
        The model, in evaluation mode; without ``model`` its parameters have the type that they were saved in.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ModuleNotFoundError: If the folder holds a model of Transformers, which is not installed.
        ValueError: If a file is damaged, of a newer format, or does not fit the model; the message names the
            file and the remedy.
    """
    saved = read_folder(path)
    built = _build(saved) if model is None else model
    fill(built, saved.weights, saved.buffers, saved.folder / WEIGHTS, keep_dtype=model is None)
    return built.eval()


def _build(saved: SavedModel) -> nn.Module:
    if saved.name.startswith(pretrained.PREFIX):
        return pretrained.build(saved.name, saved.folder)
    if saved.name not in MODELS or saved.config is None:
        raise ValueError(
            f"{saved.folder} holds a {saved.name}, which compressm cannot build itself; "
            f"make one and call load({str(saved.folder)!r}, model)"
        )
    try:
        model: nn.Module = MODELS[saved.name](**saved.config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{saved.folder / DESCRIPTION} does not describe a {saved.name}: {error}") from error
    return model
