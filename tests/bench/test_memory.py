"""Peak memory in a fresh process, and the way of a case there."""

import json
import subprocess

import pytest

from compressm.bench.cases import CASES, LtiCase
from compressm.bench.contender import Settings
from compressm.bench.memory import MemoryMeasurementError, decode, encode, peak_memory

SETTINGS = Settings(threads=1)


def test_cases_survive_the_way_to_another_process() -> None:
    for case in CASES.values():
        assert decode(json.loads(json.dumps(encode(case)))) == case


def test_the_peak_holds_the_operands_and_little_more() -> None:
    case = LtiCase(name="long", batch=1, L=1 << 17, H=32, N=2, form="scan")
    signal = 4 * case.L * case.H
    peak = peak_memory(case, "compressm", SETTINGS)
    if peak is None:
        pytest.skip("this system tells no process its peak of memory")
    # u, the weight of y, y and u's gradient; and not what the libraries take, which is far more.
    assert 4 * signal <= peak <= 8 * signal


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback ...\nValueError: no such form\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(MemoryMeasurementError, match=r"compressm in smnist .*no such form.*--no-memory"):
        peak_memory(CASES["smnist"], "compressm", SETTINGS)
