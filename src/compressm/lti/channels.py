"""Reducing a bank of independent systems together: one layer, many channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compressm.lti.arithmetic import wrapped
from compressm.lti.balancing import Balancing
from compressm.lti.realization import Realization
from compressm.lti.reduction import Reduction
from compressm.lti.search import Request

_PROMISING = 0.75  # share of the largest gain seen from which a channel could be the worst one
_OFFSETS = (0.0, 0.5, 1.0, 2.0, 4.0)  # pole distances at which a channel is looked at
_UNIFORM = 64


@dataclass(frozen=True, eq=False)
class ChannelReduction:
    """Reductions of all channels.

    Attributes:
        channels: One reduction for each channel.
        realization: The form that was balanced.
        note: Which channels got fewer states than asked for, and why; empty if none did.
    """

    channels: tuple[Reduction, ...]
    realization: Realization
    note: str = ""

    @property
    def order(self) -> int:
        """Complex states of the largest channel."""
        return max(channel.order for channel in self.channels)

    @property
    def kept(self) -> int:
        """Hankel singular values that are left in all channels together."""
        return sum(channel.kept for channel in self.channels)

    @property
    def error_bound(self) -> float | None:
        """The largest bound of a channel: the H-infinity norm of a diagonal map is that of its largest entry.

        None where no bound holds.
        """
        bounds = [channel.error_bound for channel in self.channels]
        known = [bound for bound in bounds if bound is not None]
        return max(known) if len(known) == len(bounds) else None

    @cached_property
    def error(self) -> float:
        """H-infinity norm of the difference, that of the worst channel; computed when first asked for.

        Every channel is looked at near its poles; a whole search is spent on those that come out largest.
        """
        seen = [_gain_near_poles(channel) for channel in self.channels]
        worst = [c for c, gain in zip(self.channels, seen, strict=True) if gain >= _PROMISING * max(seen)]
        return max(*seen, *(channel.error for channel in worst))


@dataclass(frozen=True, eq=False)
class ChannelBalancing:
    """Independent systems, each in its own balanced coordinates, to be truncated together.

    Attributes:
        channels: One balancing for each channel.
        per_channel: Whether a number of values to keep is shared out over the channels by size, so that each
            gets its own number of states. Otherwise all channels get the same.
    """

    channels: tuple[Balancing, ...]
    per_channel: bool = False

    @property
    def realization(self) -> Realization:
        """The form that was balanced."""
        return self.channels[0].realization

    @cached_property
    def hankel_singular_values(self) -> Tensor:
        """Those of all channels together, descending, float64: the values of the layer as one system."""
        values = torch.cat([channel.hankel_singular_values for channel in self.channels])
        return torch.sort(values, descending=True).values

    def truncate(self, order: int | None = None, *, keep: int | None = None) -> ChannelReduction:
        """Cut every channel.

        Args:
            order: Complex states that every channel is to have at most.
            keep: Or the number of values to keep of the layer's. With ``per_channel`` the largest ``keep`` of
                all channels stay, but at least one in each. Otherwise all channels keep the same number, the
                smallest with which as large a share of the sum of all values stays; and since all are stored
                at the size of the largest, the others are filled up to its number of states.

        Raises:
            TypeError: Unless exactly one of ``order`` and ``keep`` is given, as an int.
            ValueError: If it is out of range.
        """
        states = self.channels[0].system.state_dim
        Request(order, keep).checked(states, len(self.hankel_singular_values))
        if keep is None:
            return self._collected([channel.truncate(order) for channel in self.channels])
        if self.per_channel:
            shares = self._shares(keep)
            return self._collected(
                [channel.truncate(keep=share) for channel, share in zip(self.channels, shares, strict=True)]
            )
        common = self._common(keep)
        reductions = [channel.truncate(keep=common) for channel in self.channels]
        largest = min(max(reduction.order for reduction in reductions), states)
        return self._collected(
            [
                reduction if reduction.order >= largest else channel.truncate(largest)
                for channel, reduction in zip(self.channels, reductions, strict=True)
            ]
        )

    def _shares(self, keep: int) -> list[int]:
        """How many of the ``keep`` largest values each channel has, at least one."""
        values = torch.stack([channel.hankel_singular_values for channel in self.channels])
        largest = torch.topk(values.flatten(), keep).indices // values.shape[1]
        return [max(1, count) for count in torch.bincount(largest, minlength=len(values)).tolist()]

    def _common(self, keep: int) -> int:
        """The smallest common number whose leftover sum is at most that of the ``keep`` largest values."""
        allowed = math.fsum(self.hankel_singular_values[keep:].tolist())
        by_rank = torch.stack([channel.hankel_singular_values for channel in self.channels]).sum(dim=0)
        left, common = 0.0, len(by_rank)
        for value in reversed(by_rank.tolist()):
            left += value
            if left > allowed or common == 1:
                break
            common -= 1
        return common

    def _collected(self, reductions: Sequence[Reduction]) -> ChannelReduction:
        short = [(index, r.note) for index, r in enumerate(reductions) if r.limited_by is not None]
        note = ""
        if short:
            index, reason = short[0]
            note = f"{len(short)} of {len(reductions)} channels; the first is channel {index}: {reason}"
        return ChannelReduction(tuple(reductions), self.realization, note)


def _gain_near_poles(reduction: Reduction) -> float:
    """The largest gain of the difference at its poles' angles, beside them, and evenly spread."""
    difference = reduction.original - reduction.system
    angles = torch.from_numpy(wrapped(difference.log_A.numpy())).imag.abs()
    widths = (-difference.log_A.real).clamp(max=math.pi)
    places = [angles + side * offset * widths for offset in _OFFSETS for side in (-1.0, 1.0)]
    places.append(torch.linspace(0.0, math.pi, _UNIFORM, dtype=torch.float64))
    omega = torch.unique(torch.cat(places).clamp(0.0, math.pi))
    return float(difference.frequency_response(omega).abs().max())
