"""Hankel-norm regularisation: press Hankel singular values down in training, then cut what became small."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from compressm.adapters import find_layers
from compressm.lti import Realization
from compressm.lti.realization import check_realization
from compressm.rivals.hankel_values import differentiable_hankel_values, naive_hankel_values
from compressm.rivals.layer_systems import SystemTensors, layer_systems

Normalization = Literal["sum", "mean", "relative"]


class HankelRegularizer:
    """A loss term: ``weight`` times the Hankel nuclear norms of a model's layers, added up.

    ``loss = loss + regularizer(model)``, once for every optimiser step.  Layers are pressed towards few large
    Hankel singular values, so that one truncation at the end costs little; combine with
    :func:`~compressm.rivals.hankel_truncation`.  The idea is that of work on Hankel
    regularisation (NeurIPS 2025), which CompreSSM (arXiv 2510.02823) compares itself with; the gradient here
    is in closed form, see :func:`~compressm.rivals.differentiable_hankel_values`.  It is computed in float64
    on the CPU and costs one eigenvalue decomposition for each layer (for each channel of an S4D).  At 256
    states that is more than a plain step of sequential MNIST takes: ``benchmarks/hankel_step.py`` measured
    2.2 to 2.3 plain steps for a step with the term in complex form, 4.0 in real form; with ``every=2`` 1.6
    and 2.4, with ``every=4`` 1.3 and 1.8.

    Args:
        weight: Factor of the term.
        normalization: Of a layer's values ``sigma``: "sum", their sum; "mean", their mean, which does not
            grow with the layer; "relative", ``sum sigma / sqrt(sum sigma^2)``, between 1 and the root of
            their number, which a smaller B or C does not change (for each channel of an S4D, added up).
        realization: "real": values of the map in use; "complex": of the published form.
        until: Number of calls after which the term is zero, and free; None for never.  For a regularisation
            that ends where the cuts begin.
        naive: Compute it by autograd through the eigenvalues of ``P Q``, as it was published; for comparisons
            of cost alone.
        every: Regularise at the first of so many calls, with so many times the weight, and return zero, which
            is free, at the others: on average the same gradient, of a term that changes slowly.  A toy task
            with 64 states and a strong weight (1e-3; one seed) came after 240 steps to sums of 85.7, 86.6,
            87.0 and 89.1 with 1, 2, 4 and 8, and to 368 without the term.

    Attributes:
        steps_done: Calls so far.

    Raises:
        ValueError: If the weight is negative or not finite, ``until`` negative, ``every`` below 1, or a name
            unknown.
    """

    def __init__(
        self,
        weight: float = 1e-5,
        *,
        normalization: Normalization = "sum",
        realization: Realization = "real",
        until: int | None = None,
        naive: bool = False,
        every: int = 1,
    ) -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"HankelRegularizer: weight is {weight}; it must be finite and not negative")
        if normalization not in get_args(Normalization):
            raise ValueError(
                f"HankelRegularizer: normalization is {normalization!r}; choose one of "
                f"{', '.join(get_args(Normalization))}"
            )
        check_realization(realization)
        if until is not None and until < 0:
            raise ValueError(f"HankelRegularizer: until is {until}; it must be at least 0, or None")
        if every < 1:
            raise ValueError(f"HankelRegularizer: every is {every}; it must be at least 1")
        self.weight, self.normalization, self.until, self.every = weight, normalization, until, every
        self.realization: Realization = realization
        self.naive = naive
        self.steps_done = 0

    @property
    def active(self) -> bool:
        """Whether the next call still regularises."""
        return self.until is None or self.steps_done < self.until

    def __call__(self, model: nn.Module) -> Tensor:
        """The term for one optimiser step: a scalar on the model's device, in at least float32.

        Raises:
            TypeError: If a layer has no differentiable systems; see
                :func:`~compressm.rivals.layer_systems`.
            ValueError: If the model has no layer that is known, or, naming the layer, if one is unstable or
                not finite.
        """
        layers = find_layers(model)
        active = self.active and self.steps_done % self.every == 0
        self.steps_done += 1
        terms = []
        for layer in layers if active else ():
            try:
                terms.append(self.layer_term(layer.module))
            except ValueError as error:
                raise ValueError(f"layer {layer.name!r}: {error}") from error
        parameter = next(layers[0].module.parameters())
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        if not terms:
            return torch.zeros((), dtype=dtype, device=parameter.device)
        return (self.every * self.weight * torch.stack(terms).sum()).to(parameter.device, dtype)

    def layer_term(self, layer: nn.Module) -> Tensor:
        """The normalised nuclear norm of one layer, without the weight: float64 ``()``, on the CPU.

        Raises:
            TypeError: If the layer has no differentiable systems.
            ValueError: If it is unstable or not finite.
        """
        spectra = [self._values(system) for system in layer_systems(layer)]
        if self.normalization == "relative":
            return torch.stack([_relative(values) for values in spectra]).sum()
        values = torch.cat(spectra)
        return values.mean() if self.normalization == "mean" else values.sum()

    def _values(self, system: SystemTensors) -> Tensor:
        if self.naive:
            return naive_hankel_values(*system, self.realization)
        return differentiable_hankel_values(*system, self.realization, exact=False)

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs."""
        return {"steps_done": self.steps_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.steps_done = state["steps_done"]


def _relative(values: Tensor) -> Tensor:
    """Sum over root of the sum of squares; 0 for a system that passes nothing on."""
    if not bool(values.detach().any()):
        return values.sum()
    ratio: Tensor = values.sum() / torch.linalg.vector_norm(values)
    return ratio
