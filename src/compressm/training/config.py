"""All settings of a training run, typed, checked early, and back from JSON without a key too many."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from compressm.data import get_task, task_names
from compressm.training.compression_config import CompressionConfig
from compressm.training.device import Precision
from compressm.training.model_config import ModelConfig
from compressm.training.rival_config import DistillationConfig, RegularizationConfig


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
class TrainConfig:
    """A whole run."""

    task: str
    """Name of the task."""
    data_dir: Path | None = None
    """Folder with the task's data files; fetched from the hub if not given and needed."""
    arm: str = ""
    """Label of the run in reports; "compressm" with cuts and "full" without, if empty."""
    device: str = "auto"
    """Where to compute: auto (a GPU if there is one), cpu, cuda or cuda:INDEX."""
    precision: Precision = "float32"
    """Of matrix products: float32; tf32, on a GPU; or bf16, by autocast. Recurrences stay in float32."""
    compile: bool = False
    """Compile every block with torch.compile; a cut compiles each changed one once more."""
    cuda_graph: bool = False
    """On a GPU, replay a recorded step once no cut can come any more; for sequences of one length."""
    feedback_noise: float = 0.0
    """Standard deviation of noise in training on inputs that a roll-out feeds back, if the task has any."""
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
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        if self.cuda_graph and self.regularization.hankel_weight is not None:
            raise ValueError(
                "cuda_graph is set, and so is regularization.hankel_weight, which computes on the CPU; "
                "leave one out"
            )
        if not 0 <= self.feedback_noise < float("inf"):
            raise ValueError(f"feedback_noise is {self.feedback_noise}; it must be a number of at least 0")
        if self.task in task_names():  # what else it may be, load() says
            if self.feedback_noise > 0 and not get_task(self.task).feedback:
                raise ValueError(
                    f"feedback_noise is {self.feedback_noise}, but task {self.task!r} feeds no outputs back; "
                    "leave it at 0"
                )
            self.model.check(get_task(self.task))
            self.distillation.check(get_task(self.task))
        rule = self.compression.rule()
        if rule is not None:
            self.compression.make_schedule(self.steps)
            rule.check({"of this model": self.model.state_dim})

    @property
    def label(self) -> str:
        """The arm, given or derived."""
        return self.arm or ("compressm" if self.compression.cuts_at_all else "full")

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
