"""Other ways to choose states, behind the same interface as ours, to be compared with."""

from compressm.rivals.selection import ModalStates, RandomStates, SmallestStates

__all__ = ["ModalStates", "RandomStates", "SmallestStates"]
