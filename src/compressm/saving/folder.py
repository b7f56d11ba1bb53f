"""The folder of a saved model: there when it is complete, read when it is undamaged."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from compressm._version import __version__

FORMAT = 1
WEIGHTS = "model.safetensors"
BUFFERS = "buffers.safetensors"
DESCRIPTION = "model.json"


class SavedModel(NamedTuple):
    """What a folder holds.

    Attributes:
        folder: The folder.
        name: The model's class.
        config: Keyword arguments of one of compressm's own models; None for others.
        weights: Parameters and buffers by name, each that is shared under one of its names.
        buffers: Buffers that the model does not count to its state, but computes with.
    """

    folder: Path
    name: str
    config: dict[str, Any] | None
    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]


def write_folder(model: SavedModel, texts: Mapping[str, str]) -> None:
    """Write a folder, which appears, or replaces an older one, only when it is complete.

    Args:
        model: What to write, and where.
        texts: More files, by name.

    Raises:
        FileExistsError: If the folder exists and holds no saved model.
    """
    target = model.folder
    if target.exists() and not (target / DESCRIPTION).is_file():
        raise FileExistsError(f"{target} exists and is not a saved model; choose another path")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        # Transformers wants to read whose tensors these are.
        safetensors.torch.save_file(model.weights, scratch / WEIGHTS, metadata={"format": "pt"})
        if model.buffers:
            safetensors.torch.save_file(model.buffers, scratch / BUFFERS, metadata={"format": "pt"})
        description = {
            "format": FORMAT,
            "compressm": __version__,
            "model": model.name,
            "config": model.config,
            "sha256": _digest(scratch),
        }
        for name, text in {**texts, DESCRIPTION: json.dumps(description, indent=2) + "\n"}.items():
            (scratch / name).write_text(text, encoding="utf-8")
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


def read_folder(path: str | os.PathLike[str]) -> SavedModel:
    """Read a folder that :func:`write_folder` wrote.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is damaged or of a newer format.
    """
    folder = Path(path)
    description = _read_description(folder)
    weights, buffers = folder / WEIGHTS, folder / BUFFERS
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing; save the model again")
    if _digest(folder) != description["sha256"]:
        damaged = f"{weights} or {BUFFERS}" if buffers.is_file() else weights
        raise ValueError(
            f"{damaged} is damaged (its checksum is not the one in {DESCRIPTION}); save it again"
        )
    try:
        return SavedModel(
            folder,
            description["model"],
            description["config"],
            safetensors.torch.load_file(weights),
            safetensors.torch.load_file(buffers) if buffers.is_file() else {},
        )
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged ({error}); save it again") from error


def read_json(file: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file of a saved model; the hook is that of :func:`json.loads`.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"), object_hook=object_hook)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged ({error}); save the model again") from error


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: it has no {DESCRIPTION}")
    description = read_json(file)
    expected = {"format", "compressm", "model", "config", "sha256"}
    if not isinstance(description, dict) or description.keys() != expected:
        raise ValueError(f"{file} does not describe a model: its keys must be {', '.join(sorted(expected))}")
    if description["format"] != FORMAT:
        raise ValueError(
            f"{file} has format {description['format']}, this version reads {FORMAT}; it was written by "
            f"compressm {description['compressm']}, use that version or a newer one"
        )
    return description


def _digest(folder: Path) -> str:
    """Checksum of all tensors, file after file."""
    found = hashlib.sha256()
    for name in (WEIGHTS, BUFFERS):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                while block := file.read(1 << 20):
                    found.update(block)
    return found.hexdigest()
