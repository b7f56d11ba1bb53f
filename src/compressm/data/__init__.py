"""Tasks and their data: what a training loop reads.

``load`` gives a task's train, validation and test ``Split``; ``Batches`` draws shuffled batches from one for
training, ``ordered_batches`` goes through one once for evaluation.
"""

from compressm.data.batches import Batches, ordered_batches
from compressm.data.encodings import token_ids
from compressm.data.errors import DataError
from compressm.data.splits import IGNORE, Batch, Split, Splits, hold_out
from compressm.data.task import Recipe, Task
from compressm.data.tasks import describe, get_task, load, task_names

__all__ = [
    "IGNORE",
    "Batch",
    "Batches",
    "DataError",
    "Recipe",
    "Split",
    "Splits",
    "Task",
    "describe",
    "get_task",
    "hold_out",
    "load",
    "ordered_batches",
    "task_names",
    "token_ids",
]
