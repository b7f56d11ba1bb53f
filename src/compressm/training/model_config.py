"""Settings of the model, and which of them go together with which task."""

from dataclasses import dataclass
from typing import Any, Literal

from compressm.data import Task
from compressm.models.pre_norm_block import LANGUAGE_MIXERS
from compressm.models.sequence import BIDIRECTIONAL, MIXERS

# Settings that not every layer has, and the layers that have them.
_OPTIONS = {
    "expand": ("mamba", "mamba2"),
    "conv_kernel": ("mamba", "mamba2", "deltanet", "gated-deltanet"),
    "head_dim": ("mamba2",),
    "num_heads": ("gla", "retnet", "deltanet", "gated-deltanet"),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model; its kind, its input and output sizes and its vocabulary come from the task."""

    num_layers: int = 1
    """Blocks."""
    model_dim: int = 8
    """Channels H."""
    state_dim: int = 256
    """States N of every layer at the start."""
    mixer: Literal[
        "lru", "lru-bi", "s5", "s5-bi", "s4d", "rotation",
        "mamba", "mamba2", "gla", "retnet", "deltanet", "gated-deltanet",
    ] = "lru"  # fmt: skip
    """State-space layer; those that end in -bi are for classes alone."""
    dropout: float = 0.1
    """Dropout probability."""
    expand: int | None = None
    """Inner channels for each outer one (mamba, mamba2); the layer's own default if not given."""
    conv_kernel: int | None = None
    """Steps of the short convolution (mamba, mamba2, deltanet, gated-deltanet); the same."""
    head_dim: int | None = None
    """Channels of a head (mamba2); the same."""
    num_heads: int | None = None
    """Heads (gla, retnet, deltanet, gated-deltanet); the same."""

    def __post_init__(self) -> None:
        for name, mixers in _OPTIONS.items():
            value = getattr(self, name)
            if value is None:
                continue
            if self.mixer not in mixers:
                raise ValueError(
                    f"{name} is {value}, but the mixer {self.mixer!r} has no such setting; "
                    f"{', '.join(mixers)} have it"
                )
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    @property
    def mixer_options(self) -> dict[str, Any]:
        """What was given of the settings that not every layer has, as the layer's arguments."""
        return {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None}

    def check(self, task: Task) -> None:
        """Refuse a layer that cannot serve the task.

        Raises:
            ValueError: Naming the task, its kind, and the layers that can.
        """
        known = mixers_for(task)
        if self.mixer not in known:
            raise ValueError(
                f"mixer is {self.mixer!r}, but task {task.name!r} is of kind {task.kind!r}, for which there "
                f"are {', '.join(known)}"
            )


def mixers_for(task: Task) -> tuple[str, ...]:
    """The layers that can serve a task."""
    if task.kind == "tokens":
        return tuple(LANGUAGE_MIXERS)
    if task.kind == "regression":
        return tuple(mixer for mixer in MIXERS if mixer not in BIDIRECTIONAL)
    return MIXERS
