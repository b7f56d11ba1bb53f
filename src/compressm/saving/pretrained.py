"""Models of Transformers: what describes one, in that library's own files, and how it is built again.

Only classes that the package ``transformers`` itself offers, by name; nothing is fetched and no code that a
folder brings is run. Transformers is imported when such a model is there, or is to be built.
"""

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressm.saving.folder import read_json
from compressm.saving.tensors import known_layers

PREFIX = "transformers."
CONFIG = "config.json"
GENERATION = "generation_config.json"

# The number of states, in the configurations of Mamba and Mamba-2, of hybrids, and of Nemotron-H.
_STATE_SIZES = ("state_size", "mamba_d_state", "ssm_state_size")
# Keys that make Transformers look for code elsewhere. It writes the first, if the model came from a hub.
_ELSEWHERE = ("auto_map", "attn_implementation", "experts_implementation")


def qualified_name(model: nn.Module) -> str | None:
    """``"transformers.MambaForCausalLM"``, say; None if Transformers does not offer the model's class."""
    kind = type(model)
    if not kind.__module__.startswith(PREFIX):
        return None
    transformers = importlib.import_module("transformers")
    offered = getattr(transformers, kind.__name__, None) is kind
    quantized = getattr(getattr(model, "config", None), "quantization_config", None) is not None
    if not offered or not issubclass(kind, transformers.PreTrainedModel) or quantized:
        return None
    return PREFIX + kind.__name__


def describe(model: Any) -> dict[str, str]:
    """Transformers' own files for a model of the sizes that its layers have now, by name.

    One size for all layers is the configuration's own, so that ``from_pretrained`` reads the folder. Layers
    of several sizes are in ``per_layer_config``: by index, what differs from the configuration.
    """
    config = copy.deepcopy(model.config)
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embeddings is not None and head is not None:
        config.tie_word_embeddings = embeddings.weight is head.weight
    _set_sizes(config, model)
    content = _without(json.loads(config.to_json_string(use_diff=False)), "auto_map")
    files = {CONFIG: json.dumps(content, indent=2, sort_keys=True) + "\n"}
    if model.can_generate() and model.generation_config is not None:
        files[GENERATION] = model.generation_config.to_json_string()
    return files


def build(name: str, folder: Path) -> nn.Module:
    """The model that a folder describes, at random; sizes of single layers are left to its weights.

    Raises:
        FileNotFoundError: If the configuration is missing.
        ModuleNotFoundError: If Transformers is not installed.
        ValueError: If Transformers has no such model, or the configuration is damaged or asks for code from
            elsewhere.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{folder} holds a {name}: install Transformers to load it: pip install 'transformers>=5'"
        ) from error
    kind = getattr(transformers, name.removeprefix(PREFIX), None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise ValueError(
            f"{folder} holds a {name}, which Transformers {transformers.__version__} does not have as a "
            "model; take the version that it was saved with"
        )
    make: Any = kind
    config = make.config_class.from_dict(_read_config(folder))
    # Parameters drawn here are all replaced: the user's generators go on as if nothing had been drawn.
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = make(config)
    if (folder / GENERATION).is_file():
        settings = read_json(folder / GENERATION)
        model.generation_config = transformers.GenerationConfig.from_dict(settings)
    return model


def _set_sizes(config: Any, model: nn.Module) -> None:
    names = [name for name in _STATE_SIZES if hasattr(config, name)]
    sizes = {}
    for layer in known_layers(model):
        if isinstance(index := getattr(layer.module, "layer_idx", None), int):
            sizes[index] = layer.state_dim
    if not sizes or not names:
        return  # a kind of model with a name of its own for it: the weights tell
    if len(set(sizes.values())) == 1:
        setattr(config, names[0], next(iter(sizes.values())))
    else:
        config.per_layer_config = {index: {names[0]: size} for index, size in sizes.items()}


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder / CONFIG} is missing; save the model again")
    config = read_json(folder / CONFIG, _decode)
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG} does not describe a model: it holds no object")
    for key in _ELSEWHERE:
        if _without(config, key) != config:
            raise ValueError(
                f"{folder / CONFIG} has {key}, which may bring code from elsewhere, and load() runs none; "
                "remove it, or make the model yourself and call load(path, model)"
            )
    # Transformers' models are built with one size, and read a configuration with several as an error.
    return _without(config, "per_layer_config")


def _decode(value: dict[str, Any]) -> Any:
    """Infinity is a number that JSON lacks; Transformers writes ``{"__float__": "Infinity"}``."""
    return float(value["__float__"]) if value.keys() == {"__float__"} else value


def _without(config: dict[str, Any], key: str) -> dict[str, Any]:
    """A configuration, and those inside it, without a key."""
    return {
        name: _without(value, key) if isinstance(value, dict) else value
        for name, value in config.items()
        if name != key
    }
