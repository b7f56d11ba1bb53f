"""What tests of recurrences share: Triton's kernels, interpreted in their own process; poisoned memory."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("triton_worker.py")


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Callable[..., tuple[Any, ...]]]:
    """Call ``function`` of a kernels' module by Triton's interpreter, with the module's settings changed."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton has no wheels for this platform")
    specification = importlib.util.spec_from_file_location("triton_worker", WORKER)
    assert specification is not None
    assert specification.loader is not None
    messages = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(messages)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:

        def call(
            module: str, function: str, operands: tuple[Any, ...], settings: dict[str, Any], **options: object
        ) -> tuple[Any, ...]:
            request = {"module": module, "function": function, "operands": operands, "settings": settings}
            messages.send(process.stdin, {**request, "options": options})
            answer = messages.receive(process.stdout)
            assert answer is not None, "the interpreter's process ended; its messages are above"
            return tuple(answer["results"])

        yield call
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def poisoned_buffers() -> Iterator[None]:
    """``torch.empty`` gives NaN: whatever is not written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
