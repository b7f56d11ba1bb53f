"""What is measured: named shapes of whole training steps and of single recurrences."""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Case:
    """A named shape.

    Attributes:
        name: What ``--cases`` calls it.
        batch: Sequences of a step.
        L: Steps of time of each sequence.
    """

    name: str
    batch: int
    L: int

    @property
    def tokens(self) -> int:
        """Inputs of a step: sequences times their length."""
        return self.batch * self.L

    def small(self) -> Self:
        """The same layers on a short input: for comparing outputs, and for loading libraries."""
        return replace(self, batch=min(self.batch, 2), L=min(self.L, 48))


@dataclass(frozen=True, kw_only=True)
class ClassifierCase(Case):
    """A training step of a :class:`compressm.models.SequenceClassifier` with LRU layers.

    Attributes:
        layers: Blocks.
        H: Channels of the model.
        N: States of every layer.
        input_dim: Channels of the data.
        classes: Logits.
        dropout: Probability of dropout; above zero there is no peer to compare with.
    """

    layers: int
    H: int
    N: int
    input_dim: int = 1
    classes: int = 10
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SelectiveCase(Case):
    """The selective recurrence of one Mamba layer, forward and backward.

    Attributes:
        d: Inner channels.
        N: States of every channel.
    """

    d: int
    N: int


@dataclass(frozen=True, kw_only=True)
class MambaCase(Case):
    """A training step of a small Mamba language model.

    Attributes:
        layers: Blocks.
        hidden: Channels of the model; inside its layers there are twice as many.
        N: States of every inner channel.
        vocabulary: Tokens.
    """

    layers: int
    hidden: int
    N: int
    vocabulary: int = 256


@dataclass(frozen=True, kw_only=True)
class AttentionCase(Case):
    """Linear attention with decay (Mamba-2's recurrence), forward and backward.

    Attributes:
        heads: Heads.
        K: Key channels of a head: its states are ``K x V``.
        V: Value channels of a head.
        per_channel: A decay for each key channel instead of one for each head.
    """

    heads: int
    K: int
    V: int
    per_channel: bool = False


@dataclass(frozen=True, kw_only=True)
class ChannelsCase(Case):
    """A layer of channels that each have a system of their own with one input and one output, as S4D has.

    Attributes:
        channels: Channels.
        N: States of each.
    """

    channels: int
    N: int


@dataclass(frozen=True, kw_only=True)
class LtiCase(Case):
    """The linear time-invariant recurrence alone, forward and backward.

    Attributes:
        H: Inputs and outputs.
        N: States.
        form: How :func:`compressm.scan.lti_scan` computes it.
    """

    H: int
    N: int
    form: str = "auto"


_SELECTIVE = {"batch": 4, "L": 512, "d": 256}
_SCIFAR = {"batch": 4, "L": 1024, "layers": 6, "H": 512, "input_dim": 3}

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        ClassifierCase(name="smnist", batch=50, L=784, layers=1, H=8, N=256),
        ClassifierCase(name="smnist-28", batch=50, L=784, layers=1, H=8, N=28),
        ClassifierCase(name="medium", batch=32, L=784, layers=2, H=64, N=128),
        ClassifierCase(name="scifar", N=384, **_SCIFAR),
        ClassifierCase(name="scifar-93", N=93, **_SCIFAR),
        # The paper's batch.
        ClassifierCase(name="scifar-50", N=384, **(_SCIFAR | {"batch": 50})),
        ClassifierCase(name="scifar-50-93", N=93, **(_SCIFAR | {"batch": 50})),
        SelectiveCase(name="selective", N=128, **_SELECTIVE),
        SelectiveCase(name="selective-16", N=16, **_SELECTIVE),
        SelectiveCase(name="selective-12", N=12, **_SELECTIVE),
        # Short, for the fallback's sake: its backward pass takes a time that grows with the square of L.
        MambaCase(name="mamba", batch=2, L=256, layers=2, hidden=128, N=16),
        AttentionCase(name="ssd", batch=4, L=512, heads=4, K=128, V=64),
        ChannelsCase(name="s4d", batch=8, L=784, channels=64, N=32),
    )
}
"""Every case by name; the classifiers have the shapes of the paper's tasks."""

FOR_A_GPU = ("scifar-50", "scifar-50-93")
"""Cases that would take minutes a step on a processor."""


def choose(names: tuple[str, ...]) -> list[Case]:
    """The cases of these names; all that suit a processor, if none is given.

    Raises:
        ValueError: If a name is unknown.
    """
    for name in names:
        if name not in CASES:
            raise ValueError(f"unknown case {name!r}; choose from {', '.join(CASES)}")
    return [CASES[name] for name in names or (name for name in CASES if name not in FOR_A_GPU)]
