"""Models: stacks of state-space blocks whose layers may each have their own number of states."""

from compressm.models.block import Block
from compressm.models.classifier import SequenceClassifier
from compressm.models.compiling import compile_blocks
from compressm.models.language import LanguageModel
from compressm.models.norm import MaskedBatchNorm
from compressm.models.pairs import PairClassifier
from compressm.models.regressor import SequenceRegressor
from compressm.models.sequence import SequenceModel
from compressm.models.token_loss import TokenLoss

__all__ = [
    "Block",
    "LanguageModel",
    "MaskedBatchNorm",
    "PairClassifier",
    "SequenceClassifier",
    "SequenceModel",
    "SequenceRegressor",
    "TokenLoss",
    "compile_blocks",
]
