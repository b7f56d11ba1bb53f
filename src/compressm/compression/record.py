"""What a cut leaves behind: the facts, ready for a report."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LayerCut:
    """One layer at an attempt.

    Attributes:
        name: The layer's name in the model.
        old: States before.
        new: States after; equal to ``old`` if the layer was left alone.
        error_bound: A priori bound on the H-infinity norm of the difference between the old and the new map,
            twice the sum of the discarded HSVs; 0 if the layer was left alone, None where no bound holds.
        error: That norm itself, computed; None for layers where it is not.
        hankel_singular_values: Of the old layer, descending.
        kept_values: How many of them were kept.
        realization: "real" or "complex", the form that was balanced.
        reduction: The method, by name.
        note: Why the layer got fewer states than the rule asked for; empty otherwise.
    """

    name: str
    old: int
    new: int
    error_bound: float | None
    error: float | None
    hankel_singular_values: tuple[float, ...]
    kept_values: int
    realization: str
    reduction: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Undone:
    """A cut that the guard took back.

    Attributes:
        step: Optimiser steps after which the guard decided; the model is again as it was after the steps of
            the cut.
        before: The metric before the cut.
        after: The metric when the guard decided.
        tolerance: How much worse it was allowed to be.
        sizes: States of each layer that were tried.
        reason: The same in words.
    """

    step: int
    before: float
    after: float
    tolerance: float
    sizes: dict[str, int]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One attempt: what the compressor did to every layer.

    Attributes:
        step: Optimiser steps taken before it; 0 for one-shot compression.
        attempt: Its number, from 1.
        attempts: How many the schedule holds.
        seconds: Wall-clock time of the whole attempt.
        layers: One entry for each layer.
        recompilations: Parts of the model under ``torch.compile`` whose layers changed their size: each
            compiles anew, at most once, the next time it runs.
        verdict: What the guard said of it: "" without a guard, "pending", "kept" or "undone".
        undid: The cut that this attempt undid before it cut anew, less deeply or not at all.
    """

    step: int
    attempt: int
    attempts: int
    seconds: float
    layers: tuple[LayerCut, ...]
    recompilations: int = 0
    verdict: str = ""
    undid: Undone | None = None

    @property
    def changed(self) -> bool:
        """Whether any layer became smaller."""
        return any(layer.new != layer.old for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for JSON."""
        record = asdict(self)
        record["layers"] = [
            {**layer, "hankel_singular_values": list(layer["hankel_singular_values"])}
            for layer in record["layers"]
        ]
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Cut":
        """The inverse of :meth:`to_dict`."""
        layers = tuple(
            LayerCut(**{**layer, "hankel_singular_values": tuple(layer["hankel_singular_values"])})
            for layer in record["layers"]
        )
        undid = record.get("undid")
        return cls(**{**record, "layers": layers, "undid": None if undid is None else Undone(**undid)})
