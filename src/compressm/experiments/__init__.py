"""Comparisons: one file says which methods, sizes and seeds; every cell of that grid is a training run.

experiment = read_experiment("states.toml")
failed = run_experiment(experiment, "runs/states", processes=2)
write_outcome("runs/states")
"""

from compressm.experiments.cells import Cell, make_cells
from compressm.experiments.outcome import outcome_runs, write_outcome
from compressm.experiments.reproduced import write_reproduction
from compressm.experiments.reproduction import Reproduction, read_reproduction, reproduction_names
from compressm.experiments.results import Results
from compressm.experiments.runner import Watcher, run_experiment
from compressm.experiments.settings import Arm, Experiment, read_experiment

__all__ = [
    "Arm",
    "Cell",
    "Experiment",
    "Reproduction",
    "Results",
    "Watcher",
    "make_cells",
    "outcome_runs",
    "read_experiment",
    "read_reproduction",
    "reproduction_names",
    "run_experiment",
    "write_outcome",
    "write_reproduction",
]
