"""All settings of a training run, typed, checked early, and back from JSON without a key too many."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from compressm.compression import EnergyRank, FixedRank, FractionRank, RankRule, Schedule


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The classifier; its input and output sizes come from the task."""

    num_layers: int = 1
    """Blocks."""
    model_dim: int = 8
    """Channels H."""
    state_dim: int = 256
    """States N of every layer at the start."""
    mixer: Literal["lru"] = "lru"
    """State-space layer."""
    dropout: float = 0.1
    """Dropout probability."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a group of its own for the dynamics, linear warm-up and cosine decay."""

    lr: float = 1e-2
    """Peak learning rate."""
    ssm_lr_factor: float = 1.0
    """Learning rate of the state-space dynamics, as a multiple of lr."""
    weight_decay: float = 0.0
    """Weight decay of everything but the dynamics."""
    warmup: float = 0.1
    """Share of training with a rising learning rate."""
    cosine: bool = True
    """Let the learning rate fall to zero on a cosine after the warm-up; constant otherwise."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; it must be positive")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; it is a share of training, in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """How to cut. One of rank, tolerance and fraction turns cuts on; with none of them the size stays."""

    rank: int | None = None
    """States of every layer after the last cut."""
    tolerance: float | None = None
    """Share of the sum of Hankel singular values that each cut may discard (the paper's tau)."""
    fraction: float | None = None
    """Share of the initial states that is left after the last cut."""
    cuts: int = 4
    """Attempts."""
    start: float = 0.0
    """Where the attempts begin, as a share of training."""
    stop: float = 0.1
    """Where they end."""
    realization: Literal["real", "complex"] = "real"
    """Form to balance: the real map in use, or the published complex one."""
    optimizer_state: Literal["transport", "reset", "slice"] = "transport"
    """What becomes of the optimiser's moments at a cut."""

    def __post_init__(self) -> None:
        given = [name for name in ("rank", "tolerance", "fraction") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of rank, tolerance and fraction, not {' and '.join(given)}")

    def rule(self) -> RankRule | None:
        """The rank rule these settings ask for, None without cuts.

        Raises:
            ValueError: If its argument is out of range.
        """
        if self.rank is not None:
            return FixedRank(self.rank)
        if self.tolerance is not None:
            return EnergyRank(tolerance=self.tolerance)
        return None if self.fraction is None else FractionRank(self.fraction)

    def schedule(self, total_steps: int) -> Schedule:
        """The attempts over a training of ``total_steps``."""
        return Schedule(total_steps=total_steps, start=self.start, stop=self.stop, cuts=self.cuts)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run."""

    task: str
    """Name of the task."""
    data_dir: Path | None = None
    """Folder with the task's data files; fetched from the hub if not given and needed."""
    arm: str = ""
    """Label of the run in reports; "compressm" with cuts and "full" without, if empty."""
    seed: int = 0
    """Seed of initial weights, dropout and the order of the data."""
    steps: int = 4000
    """Optimiser steps."""
    batch_size: int = 50
    """Sequences a step."""
    log_every: int = 50
    """Steps between lines of training metrics."""
    validate_every: int = 500
    """Steps between validations."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which a killed run resumes."""
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        rule = self.compression.rule()
        if rule is not None:
            self.compression.schedule(self.steps)
            rule.check({"of this model": self.model.state_dim})

    @property
    def label(self) -> str:
        """The arm, given or derived."""
        return self.arm or ("full" if self.compression.rule() is None else "compressm")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = asdict(self)
        plain["data_dir"] = None if self.data_dir is None else str(self.data_dir)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "TrainConfig":
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: If a key is unknown or missing.
        """
        config: TrainConfig = _build(cls, plain, "")
        return config


def _build(cls: Any, plain: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(cls)
    names = {f.name for f in fields(cls)}
    unknown = sorted(plain.keys() - names)
    if unknown:
        raise ValueError(
            f"unknown key {where}{unknown[0]!s} in the configuration; known are {', '.join(sorted(names))}"
        )
    values = {}
    for name, value in plain.items():
        kind = hints[name]
        if is_dataclass(kind):
            value = _build(kind, value, f"{where}{name}.")
        elif name == "data_dir" and value is not None:
            value = Path(value)
        values[name] = value
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"incomplete configuration: {error}") from error
