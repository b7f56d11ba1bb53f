"""What can be shown to the tracking, and how it is remembered over a restart."""

from typing import Any, Protocol

from torch import Tensor

from compressm.lti import Balancing, DiagonalSystem, energy_rank


class Ranked(Protocol):
    """A balanced layer of any kind, of which only the values are followed."""

    @property
    def hankel_singular_values(self) -> Tensor:
        """Descending."""
        ...


Observed = DiagonalSystem | Balancing | Ranked | Tensor

_FIELDS = (
    "realization",
    "hankel_singular_values",
    "rank",
    "right",
    "left",
    "noise",
    "guaranteed",
)


def values_of(observed: Balancing | Ranked | Tensor) -> Tensor:
    """The singular values, float64 on the CPU.

    Raises:
        ValueError: If they are not a non-empty, finite, descending vector.
    """
    values = observed if isinstance(observed, Tensor) else observed.hankel_singular_values
    values = values.detach().to("cpu").double()
    energy_rank(values, 0.0)  # refuses them with the reason
    return values


def share(part: Tensor, values: Tensor) -> float:
    """Sum of ``part`` as a share of the sum of ``values``; 0 if that is zero."""
    total = float(values.sum())
    return float(part.sum()) / total if total > 0 else 0.0


def balancing_state(balancing: Balancing | None) -> dict[str, Any] | None:
    """Tensors and numbers for a checkpoint, without the direct term, which no comparison reads."""
    if balancing is None:
        return None
    system = balancing.system
    plain = {name: getattr(balancing, name) for name in _FIELDS}
    return {"log_A": system.log_A, "B": system.B, "C": system.C, **plain}


def balancing_of(state: dict[str, Any] | None) -> Balancing | None:
    """The inverse of :func:`balancing_state`."""
    if state is None:
        return None
    system = DiagonalSystem(None, state["B"], state["C"], log_A=state["log_A"])
    return Balancing(system=system, **{name: state[name] for name in _FIELDS})
