"""Training runs: typed settings, a small deterministic loop, run folders that survive a crash."""

from compressm.training.compression_config import CompressionConfig
from compressm.training.config import OptimizerConfig, TrainConfig
from compressm.training.evaluation import evaluate, final_score
from compressm.training.loop import Progress, RunResult, prepare_teacher, resume, train
from compressm.training.memory import keep_freed_memory
from compressm.training.model_config import ModelConfig
from compressm.training.objectives import Model, Objective, find_objective
from compressm.training.parallel import train_all
from compressm.training.rival_config import DistillationConfig, RegularizationConfig
from compressm.training.run_folder import RunFolder
from compressm.training.score import Metric, Score

__all__ = [
    "CompressionConfig",
    "DistillationConfig",
    "Metric",
    "Model",
    "ModelConfig",
    "Objective",
    "OptimizerConfig",
    "Progress",
    "RegularizationConfig",
    "RunFolder",
    "RunResult",
    "Score",
    "TrainConfig",
    "evaluate",
    "final_score",
    "find_objective",
    "keep_freed_memory",
    "prepare_teacher",
    "resume",
    "train",
    "train_all",
]
