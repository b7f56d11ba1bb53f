"""Hankel-norm regularisation: press Hankel singular values down in training, then cut what became small."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from compressm.adapters import find_layers
from compressm.lti import Realization
from compressm.lti.realization import check_realization
from compressm.rivals.hankel_bound import HankelBound
from compressm.rivals.hankel_values import naive_hankel_values
from compressm.rivals.layer_systems import SystemTensors, layer_systems

Normalization = Literal["sum", "mean", "relative"]


class HankelRegularizer:
    """A loss term: ``weight`` times the Hankel nuclear norms of a model's layers, added up.

    ``loss = loss + regularizer(model)``, once for every optimiser step.  Layers are pressed towards few large
    Hankel singular values, so that one truncation at the end costs little; combine with
    :func:`~compressm.rivals.hankel_truncation`.  The idea is that of work on Hankel
    regularisation (NeurIPS 2025), which CompreSSM (arXiv 2510.02823) compares itself with. Here the norms are
    pressed by an upper bound, :class:`~compressm.rivals.hankel_bound.HankelBound`, that is made to touch them
    at every ``refresh``-th call, where its gradient is theirs; between, it needs no decomposition. A system
    that moves far in less than that, by a cut or a rollback, gets a new bound at once. All of it is computed
    in float64 on the CPU. With 256 states on sequential MNIST a step with the term takes 1.4 plain steps in
    complex form, 1.8 to 1.9 in real form (``benchmarks/hankel_step.py``).

    Args:
        weight: Factor of the term.
        normalization: Of a layer's values ``sigma``: "sum", their sum; "mean", their mean, which does not
            grow with the layer; "relative", ``sum sigma / sqrt(sum sigma^2)``, between 1 and the root of
            their number, which a smaller B or C does not change (for each channel of an S4D, added up).
        realization: "real": values of the map in use; "complex": of the published form.
        until: Number of calls after which the term is zero, and free; None for never.  For a regularisation
            that ends where the cuts begin.
        refresh: Calls from one to the next at which a bound is made anew; 1: the norms themselves, always.
            Seven steps of Adam after it was made (rate 4e-3), a bound is 1 to 5 % above its norm and its
            gradient a quarter to all of its length off, but training comes to the same: 256 states on
            sequential MNIST (weight 1e-5), cut to 16 after 4,000 steps, to 85.4 +- 1.9 % with 1, 82.6 +- 3.8
            with 2 and 85.9 +- 0.8 with 8 (three seeds, ``experiments/hankel-refresh.toml``).
        naive: Compute the norms by autograd through the eigenvalues of ``P Q``, as it was published; for
            comparisons of cost alone.

    Attributes:
        steps_done: Calls so far.

    Raises:
        ValueError: If the weight is negative or not finite, ``until`` negative, ``refresh`` below 1, or a
            name unknown.
    """

    def __init__(
        self,
        weight: float = 1e-5,
        *,
        normalization: Normalization = "sum",
        realization: Realization = "real",
        until: int | None = None,
        refresh: int = 8,
        naive: bool = False,
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
        if refresh < 1:
            raise ValueError(f"HankelRegularizer: refresh is {refresh}; it must be at least 1")
        self.weight, self.normalization, self.until = weight, normalization, until
        self.realization: Realization = realization
        self.refresh, self.naive = refresh, naive
        self.steps_done = 0
        self._bounds: dict[str, list[HankelBound]] = {}

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
        active = self.active
        if self.steps_done % self.refresh == 0 or not active:
            self._bounds.clear()
        self.steps_done += 1
        terms = []
        for layer in layers if active else ():
            try:
                terms.append(self._term(layer.name, layer_systems(layer.module)))
            except ValueError as error:
                raise ValueError(f"layer {layer.name!r}: {error}") from error
        parameter = next(layers[0].module.parameters())
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        if not terms:
            return torch.zeros((), dtype=dtype, device=parameter.device)
        return (self.weight * torch.stack(terms).sum()).to(parameter.device, dtype)

    def _term(self, name: str, systems: Sequence[SystemTensors]) -> Tensor:
        """The normalised nuclear norm of one layer, without the weight: float64 ``()``, on the CPU."""
        if self.naive:
            spectra = [naive_hankel_values(*system, self.realization) for system in systems]
            norms = [(values.sum(), values.square().sum()) for values in spectra]
            count = sum(len(values) for values in spectra)
        else:
            bounds, norms = self._bounded(name, systems)
            count = sum(bound.count for bound in bounds)
        if self.normalization == "relative":
            return torch.stack([_relative(norm, squares) for norm, squares in norms]).sum()
        total = torch.stack([norm for norm, _ in norms]).sum()
        return total / count if self.normalization == "mean" else total

    def _bounded(
        self, name: str, systems: Sequence[SystemTensors]
    ) -> tuple[list[HankelBound], list[tuple[Tensor, Tensor]]]:
        """A layer's bounds, and what they say of its systems: the norms, and sums of the values' squares."""
        bounds = self._bounds.get(name, [])
        known = len(bounds) == len(systems) and all(map(HankelBound.fits, bounds, systems))
        touched = [bound(system) for bound, system in zip(bounds, systems, strict=True)] if known else []
        if not known or any(map(HankelBound.is_far, bounds, touched)):
            bounds = self._bounds[name] = [HankelBound(system, self.realization) for system in systems]
            touched = [bound(system) for bound, system in zip(bounds, systems, strict=True)]
        return bounds, [(each.reached + each.seen, each.squares) for each in touched]

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs: the count, and where the bounds of each layer touch."""
        anchors = {name: [tuple(bound.anchor) for bound in bounds] for name, bounds in self._bounds.items()}
        return {"steps_done": self.steps_done, "anchors": anchors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.steps_done = state["steps_done"]
        self._bounds = {
            name: [HankelBound(SystemTensors(*anchor), self.realization) for anchor in anchors]
            for name, anchors in state["anchors"].items()
        }


def _relative(norm: Tensor, squares: Tensor) -> Tensor:
    """Sum over root of the sum of squares; 0 for a system that passes nothing on."""
    return norm / squares.sqrt() if float(squares.detach()) > 0 else norm
