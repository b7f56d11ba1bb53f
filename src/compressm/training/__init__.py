"""Training runs: typed settings, a small deterministic loop, run folders that survive a crash."""

from compressm.training.compression_config import CompressionConfig
from compressm.training.config import ModelConfig, OptimizerConfig, TrainConfig
from compressm.training.evaluation import Score, evaluate
from compressm.training.loop import Progress, RunResult, resume, train
from compressm.training.parallel import train_all
from compressm.training.run_folder import RunFolder

__all__ = [
    "CompressionConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Progress",
    "RunFolder",
    "RunResult",
    "Score",
    "TrainConfig",
    "evaluate",
    "resume",
    "train",
    "train_all",
]
