"""Speed and memory, measured beside peers and beside what no implementation can save.

``cases`` names the shapes, ``work`` counts the least work of each, ``contender`` says what takes part and
checks that all compute the same, ``timing`` takes turns, ``memory`` measures in fresh processes.
``comparison`` joins them, ``scaling`` and ``grid`` do the same along axes and over choices, ``runner`` is one
call of it all. Implementations are in ``classifier``, ``jax_lru``, ``selective``, ``mamba_model``,
``attention``, ``channels`` and ``lti``. Only the command line stands on this room.
"""

from compressm.bench.cases import CASES, Case, choose
from compressm.bench.comparison import Comparison, Measured, compare
from compressm.bench.contender import Contender, DisagreementError, Settings, check_agreement
from compressm.bench.figures import write_figures
from compressm.bench.memory import MemoryMeasurementError, peak_memory
from compressm.bench.outcome import Outcome
from compressm.bench.runner import Plan, Watcher, run, with_dropout
from compressm.bench.timing import interleave

__all__ = [
    "CASES",
    "Case",
    "Comparison",
    "Contender",
    "DisagreementError",
    "Measured",
    "MemoryMeasurementError",
    "Outcome",
    "Plan",
    "Settings",
    "Watcher",
    "check_agreement",
    "choose",
    "compare",
    "interleave",
    "peak_memory",
    "run",
    "with_dropout",
    "write_figures",
]
