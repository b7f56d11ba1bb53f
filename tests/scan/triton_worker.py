"""Runs Triton's kernels on CPU tensors for the tests: requests on standard input, answers on standard output.

Triton decides at its import whether to interpret kernels (TRITON_INTERPRET=1), so they run in a process of
their own, which the fixture ``interpreted`` starts.
"""

import importlib
import io
import struct
import sys
from typing import Any, BinaryIO

import torch


def send(stream: BinaryIO, message: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(message, buffer)
    stream.write(struct.pack("q", buffer.tell()) + buffer.getvalue())
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message, or None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    return torch.load(io.BytesIO(stream.read(*struct.unpack("q", head))), weights_only=True)


def serve() -> None:
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    # What is allocated and not written is NaN then, and shows in the results.
    torch.use_deterministic_algorithms(True)
    while (request := receive(sys.stdin.buffer)) is not None:
        kernels = importlib.import_module(request["module"])
        for name, value in request["settings"].items():
            if name == "programs":
                kernels.programs_wanted = lambda _, value=value: value
            elif isinstance(value, dict):
                getattr(kernels, name).update(value)
            else:
                setattr(kernels, name, value)
        results = getattr(kernels, request["function"])(*request["operands"], **request["options"])
        send(answers, {"results": results})


if __name__ == "__main__":
    serve()
