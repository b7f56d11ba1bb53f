"""Hankel singular values followed through training; see :mod:`compressm.compression.tracking.tracker`."""

from compressm.compression.tracking.record import TrackRecord
from compressm.compression.tracking.tracker import HSVTracker

__all__ = ["HSVTracker", "TrackRecord"]
