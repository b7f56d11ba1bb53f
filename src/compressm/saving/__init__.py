"""Models on disk: safetensors and JSON, each layer with its own size, nothing pickled.

A room of its own, above models and adapters: a layer of another library has to be known, and after its
parameters took their shapes it has to be told.
"""

from compressm.saving.model import load, save

__all__ = ["load", "save"]
