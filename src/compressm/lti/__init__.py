"""Systems theory of diagonal state-space layers: balancing, truncation, guarantees.

Torch tensors in, torch tensors out; float64 and complex128 on the CPU inside.  Nothing here knows a layer.
"""

from compressm.lti.balancing import Balancing, balance, balanced_truncation
from compressm.lti.channels import ChannelBalancing, ChannelReduction
from compressm.lti.gramians import controllability_factor, observability_factor
from compressm.lti.modal import ModalScore, modal_scores, modal_truncation, select_states
from compressm.lti.norms import h2_norm, hinf_norm
from compressm.lti.perturbation import singular_perturbation
from compressm.lti.ranks import energy_rank, error_bound, error_bound_rank
from compressm.lti.realization import Realization
from compressm.lti.reduction import Reduction, ReductionWarning
from compressm.lti.siso import balance_channels
from compressm.lti.system import DiagonalSystem

__all__ = [
    "Balancing",
    "ChannelBalancing",
    "ChannelReduction",
    "DiagonalSystem",
    "ModalScore",
    "Realization",
    "Reduction",
    "ReductionWarning",
    "balance",
    "balance_channels",
    "balanced_truncation",
    "controllability_factor",
    "energy_rank",
    "error_bound",
    "error_bound_rank",
    "h2_norm",
    "hinf_norm",
    "modal_scores",
    "modal_truncation",
    "observability_factor",
    "select_states",
    "singular_perturbation",
]
