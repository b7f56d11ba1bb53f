"""A CUDA device that Triton's kernels serve."""

import importlib.util

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None


def on_card(x: Tensor) -> bool:
    """Whether x is where Triton's kernels run."""
    return x.device.type == "cuda" and HAS_TRITON


def multiprocessors(device: torch.device) -> int:
    """Of the card."""
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
