"""The recurrences of state-space layers, as differentiable functions of tensors.

Nothing here knows a layer or a model: a recurrence takes its operands and returns outputs and final state,
with gradients for every floating-point operand.
"""

from compressm.scan.delta_rule import delta_rule_scan
from compressm.scan.lti import calibrate, lti_scan, lti_states
from compressm.scan.runtime import compile_seconds
from compressm.scan.selective import selective_scan
from compressm.scan.ssd import linear_attention_scan

__all__ = [
    "calibrate",
    "compile_seconds",
    "delta_rule_scan",
    "linear_attention_scan",
    "lti_scan",
    "lti_states",
    "selective_scan",
]
