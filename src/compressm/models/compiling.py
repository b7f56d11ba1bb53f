"""torch.compile, block by block."""

import inspect
from typing import Any

import torch
from torch import nn

from compressm.models.block import Block
from compressm.models.pre_norm_block import PreNormBlock

RECOMPILATIONS = 256
"""Versions of a block that are kept. All blocks share them, so this is for all sizes of a whole training."""


def compile_blocks(model: nn.Module, **options: Any) -> nn.Module:
    """Compile every block of ``model`` in place.

    By block, a cut costs one compilation for each new size, and blocks of equal sizes share it; compiled as
    a whole, the model would be compiled anew as a whole. PyTorch's own limit of 8 versions, after which it
    silently runs uncompiled, is raised: a model of several blocks passes it with its second cut. Make the
    :class:`~compressm.Compressor` first: what is compiled takes no notice of hooks that come later.

    Args:
        model: Any model with blocks.
        options: For ``torch.compile``: ``backend``, ``mode``, ``fullgraph``, ...

    Returns:
        The same model.

    Raises:
        ValueError: If it has no block.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block | PreNormBlock)]
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no block to compile; use torch.compile(model)")
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        options.setdefault("recompile_limit", RECOMPILATIONS)
    else:  # before PyTorch 2.12 there is one limit for everything
        config: Any = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, RECOMPILATIONS)
    for block in blocks:
        block.compile(**options)
    return model
