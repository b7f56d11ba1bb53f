"""Who takes part in which case."""

from typing import Any

from compressm.bench.attention import FlaAttention, MambaSsmAttention, OurAttention
from compressm.bench.cases import (
    AttentionCase,
    Case,
    ChannelsCase,
    ClassifierCase,
    LtiCase,
    MambaCase,
    SelectiveCase,
)
from compressm.bench.channels import FourierChannels, OurChannels
from compressm.bench.classifier import OurClassifier
from compressm.bench.contender import Contender, Settings
from compressm.bench.jax_lru import JaxClassifier
from compressm.bench.lti import OurLti
from compressm.bench.mamba_model import OurMamba, TransformersMamba, TransformersWithMambapy
from compressm.bench.selective import MambapySelective, MambaSsmSelective, OurSelective


def contenders_of(case: Case, settings: Settings) -> list[Contender[Any]]:
    """Ours in float32 first, our variants, then the peers, those that cannot run here among them.

    Raises:
        TypeError: If the kind of case is unknown.
    """
    ours: list[Contender[Any]]
    peers: list[Contender[Any]]
    if isinstance(case, ClassifierCase):
        ours = [OurClassifier(settings)]
        ours += [OurClassifier(settings, bf16=True)] if settings.bf16 else []
        if settings.device == "cuda":
            ours += [OurClassifier(settings, graphed=True)]
            ours += [OurClassifier(settings, bf16=True, graphed=True)] if settings.bf16 else []
        ours += [OurClassifier(settings, compiled=True)] if settings.compile else []
        # A dropout mask is not comparable, nor is a step without one to a step with it.
        peers = [] if case.dropout else [JaxClassifier(settings)]
    elif isinstance(case, SelectiveCase):
        ours = [OurSelective(settings)]
        peers = [MambapySelective(settings), MambaSsmSelective(settings)]
    elif isinstance(case, MambaCase):
        ours = [OurMamba(settings)]
        peers = [TransformersWithMambapy(settings), TransformersMamba(settings)]
    elif isinstance(case, AttentionCase):
        ours = [OurAttention(settings)]
        peers = [FlaAttention(settings), MambaSsmAttention(settings)]
    elif isinstance(case, ChannelsCase):
        ours, peers = [OurChannels(settings)], [FourierChannels(settings)]
    elif isinstance(case, LtiCase):
        ours, peers = [OurLti(settings)], []
    else:
        raise TypeError(f"no contenders for a {type(case).__name__}")
    return ours + peers if settings.peers else ours
