"""Models: stacks of state-space blocks whose layers may each have their own number of states."""

from compressm.models.block import Block
from compressm.models.classifier import SequenceClassifier
from compressm.models.norm import MaskedBatchNorm
from compressm.models.saving import load, save

__all__ = ["Block", "MaskedBatchNorm", "SequenceClassifier", "load", "save"]
