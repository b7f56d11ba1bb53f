"""Associative recall: pairs of a key and a value are shown once; which value belonged to this key?

Multi-query associative recall, after the idea of Arora and others (arXiv 2312.04927): a model must hold all
pairs of a sequence in its state, since any of them may be asked for. Size of state matters here as it does
not in most text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressm.data.encodings import OneHot
from compressm.data.splits import IGNORE, Split, Splits
from compressm.data.task import Sizes, Task

SIZES = (50_000, 1_000, 1_000)
SEED = 6174


@dataclass(frozen=True, kw_only=True)
class Associations:
    """Sequences of pairs, a gap, and queries.

    The first ``2 pairs`` steps are a key, its value, the next key, its value, ...; keys of a sequence differ.
    Blanks follow, drawn from ids ``0..blanks-1``. From step ``first`` to the end come queries, each for any
    of the keys, whatever was asked before: were every key asked for once, the values that are left would
    tell the last ones. Keys are the ids after the blanks, and values the last.

    Attributes:
        pairs: Pairs of a sequence.
        keys: Ids that may be keys, at least as many as pairs.
        values: Ids that may be values.
        blanks: Ids that mean nothing.
        first: Step of the first query, not before the last pair.
        queries: Queries of a sequence.
        answered: Whether a query is followed by its answer, as a pair like the first ones; otherwise by the
            next query.
    """

    pairs: int
    keys: int
    values: int
    blanks: int
    first: int
    queries: int
    answered: bool

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.blanks + self.keys + self.values

    @property
    def length(self) -> int:
        """Steps of a sequence."""
        return self.first + self.queries * (1 + self.answered)

    def make(self, count: int, random: np.random.RandomState) -> Split:
        """Draw sequences; the target of a query is its key's value, all others are :data:`IGNORE`."""
        shown = 2 * self.pairs
        keys = self.blanks + random.rand(count, self.keys).argsort(axis=1)[:, : self.pairs]
        values = self.blanks + self.keys + random.randint(self.values, size=(count, self.pairs))
        asked = random.randint(self.pairs, size=(count, self.queries))
        queries, answers = (np.take_along_axis(ids, asked, axis=1) for ids in (keys, values))
        inputs = random.randint(max(self.blanks, 1), size=(count, self.length))
        inputs[:, 0:shown:2], inputs[:, 1:shown:2] = keys, values
        step = 1 + self.answered
        inputs[:, self.first :: step] = queries
        if self.answered:
            inputs[:, self.first + 1 :: step] = answers
        targets = np.full((count, self.length), IGNORE)
        targets[:, self.first :: step] = answers
        return Split(inputs.astype(np.uint8), targets.astype(np.int16), encode=OneHot(self.vocab_size))


MQAR = Associations(pairs=8, keys=8, values=8, blanks=0, first=16, queries=24, answered=True)
# The last value is shown at step 7 and asked for at step 264 at the earliest; answers are not shown again.
LONG = Associations(pairs=4, keys=8, values=8, blanks=4, first=264, queries=8, answered=False)


def make_recall(kind: Associations, *, seed: int = SEED, sizes: Sizes = SIZES) -> Splits:
    """Make the three parts, each from a random stream of its own; the same arrays for the same seed."""
    parts = (kind.make(count, np.random.RandomState([seed, part])) for part, count in enumerate(sizes))
    return Splits(*parts)


def _task(name: str, kind: Associations, description: str) -> Task:
    return Task(
        name=name,
        kind="tokens",
        input_dim=kind.vocab_size,
        num_classes=kind.vocab_size,
        vocab_size=kind.vocab_size,
        masked=True,
        length=kind.length,
        sizes=SIZES,
        description=description,
        origin="Made in memory, after the idea of Arora and others, arXiv 2312.04927.",
        reader=lambda _: make_recall(kind),
    )


TASKS: tuple[Task, ...] = (
    _task(
        "mqar",
        MQAR,
        f"Multi-query associative recall: the values of {MQAR.pairs} keys that were shown once.",
    ),
    _task(
        "long-recall",
        LONG,
        f"Associative recall of {LONG.pairs} pairs that were shown more than 256 steps ago, noise between.",
    ),
)
