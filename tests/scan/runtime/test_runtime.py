"""Compiled kernels: safe to start in many processes, kind to PyTorch's threads."""

import os
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path

import pytest
import torch

from compressm.scan import compile_seconds, lti_scan
from compressm.scan.runtime import cache_directory, team
from compressm.scan.runtime.cache import process_lock
from compressm.scan.runtime.kept import kernel_folder, sources

PROGRAM = """
import torch
from compressm.scan import compile_seconds, lti_scan
assert compile_seconds() == 0.0
for dtype in ({}):
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    lam, B, C = torch.full((2, 5), 0.5), torch.randn(2, 5, 3), torch.randn(2, 4, 5)
    u = torch.randn(1, 9, 3)
    wanted, _ = lti_scan(u, lam, B, C, form="reference")
    found, _ = lti_scan(u, lam, B, C, form="scan")
    torch.testing.assert_close(found, wanted)
assert compile_seconds() > 0.0
print("agrees")
"""


def program(*dtypes: str) -> str:
    """A program that compiles one kernel per dtype and compares its result with the reference."""
    return PROGRAM.format(" ".join(f"torch.{dtype}," for dtype in dtypes))


def operands(batch: int, L: int, N: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((batch, L, 4), (2, N), (2, N, 4), (2, 4, N))
    made = [torch.randn(*size, generator=generator) for size in sizes]
    made[1] *= 0.3
    return made


def start(folder: Path, program: str, **environment: str) -> "subprocess.Popen[str]":
    places = {"NUMBA_CACHE_DIR": str(folder / "numba"), "COMPRESSM_CACHE_DIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | places | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_processes_that_compile_at_once_all_compute_right(tmp_path: Path) -> None:
    running = [start(tmp_path, program("float32")) for _ in range(3)]
    for process in running:
        output, error = process.communicate()
        assert (process.returncode, output) == (0, "agrees\n"), error
    compiled = list((tmp_path / "numba").rglob("*.nbc"))
    assert len(compiled) == len({path.name for path in compiled}) > 0


def test_kernels_of_two_processes_are_told_apart_in_a_third(tmp_path: Path) -> None:
    """Each puts one dtype on disk; under equal symbols the third would run one for the other."""
    for text in (program("float32"), program("float64"), program("float32", "float64")):
        output, error = (process := start(tmp_path, text)).communicate()
        assert (process.returncode, output) == (0, "agrees\n"), error


def test_folders_that_cannot_be_written_cost_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = start(tmp_path, program("float32"), COMPRESSM_CACHE_DIR=str(tmp_path / "file" / "below"))
    output, error = process.communicate()
    assert (process.returncode, output) == (0, "agrees\n"), error


def test_importing_does_not_import_numba(tmp_path: Path) -> None:
    process = start(tmp_path, "import sys, compressm.scan; print('numba' in sys.modules)")
    output, error = process.communicate()
    assert (process.returncode, output) == (0, "False\n"), error


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pytorch_keeps_its_threads(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        settings = torch.__config__.parallel_info()
        given = [value.requires_grad_() for value in operands(3, 40, 70)]
        seen: list[int] = []
        y, final = lti_scan(*given, form="scan")
        y.register_hook(lambda grad: seen.append(torch.get_num_threads()) or grad)
        (y.sum() + final.sum()).backward()
        assert torch.get_num_threads() == threads
        assert torch.__config__.parallel_info() == settings
        assert seen == [threads]
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in Linux's /proc")
@pytest.mark.skipif(team._gomp_parallel() is None, reason="this PyTorch has no OpenMP team to share")
def test_kernels_run_on_the_threads_that_pytorch_has() -> None:
    # A fresh Python thread: its OpenMP team is its own, and ends with it.
    counted: list[int] = []

    def count() -> None:
        torch.set_num_threads(3)
        torch.randn(1 << 20).exp_()
        counted.append(len(list(Path("/proc/self/task").iterdir())))
        lti_scan(*operands(6, 40, 70), form="scan")
        counted.append(len(list(Path("/proc/self/task").iterdir())))

    before = torch.get_num_threads()
    lti_scan(*operands(2, 3, 4), form="scan")
    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert counted[0] == counted[1]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_without_openmp_python_threads_run_the_kernels(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    given = operands(4, 30, 70)
    wanted, wanted_final = lti_scan(*given, form="scan")
    monkeypatch.setattr(team, "_gomp_parallel", lambda: None)
    found, found_final = lti_scan(*given, form="scan")
    assert torch.equal(found, wanted)
    assert torch.equal(found_final, wanted_final)


def test_a_smaller_team_than_wanted_still_does_all_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands(5, 30, 70)
    wanted, _ = lti_scan(*given, form="scan")
    parallel = team._gomp_parallel()
    if parallel is None:
        pytest.skip("this PyTorch has no OpenMP team to share")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(
        team, "_gomp_parallel", lambda: lambda entry, words, _, flags: parallel(entry, words, 1, flags)
    )
    found, _ = lti_scan(*given, form="scan")
    assert torch.equal(found, wanted)


def test_several_python_threads_at_once_do_not_disturb_each_other() -> None:
    given = operands(4, 300, 40)
    wanted, _ = lti_scan(*given, form="scan")
    found: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: found.extend(lti_scan(*given, form="scan")[0] for _ in range(5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for y in found:
        torch.testing.assert_close(y, wanted)


def test_a_kernel_is_compiled_once_and_its_time_counted() -> None:
    lti_scan(*operands(2, 3, 4), form="scan")
    seconds = compile_seconds()
    assert seconds > 0
    lti_scan(*operands(2, 3, 4), form="scan")
    assert compile_seconds() == seconds


KERNEL = """
from numba import carray
from layouts.inner import width as used
import layouts.inner.parts

def kernel(words):
    carray(words, (4,))[2] = used.WIDTH + layouts.inner.parts.MORE
"""

CALL = """
import ctypes, sys
sys.path.insert(0, {!r})
from compressm.scan.runtime import Kernel
words = (ctypes.c_int64 * 4)()
ctypes.CFUNCTYPE(None, ctypes.c_void_p)(Kernel("layouts.kernel", "kernel").address)(ctypes.addressof(words))
print(words[2])
"""


def test_a_kernel_is_compiled_anew_where_what_it_imports_has_changed(tmp_path: Path) -> None:
    """After an upgrade an old kernel would lay out memory in the old way."""
    package = tmp_path / "layouts"
    (package / "inner").mkdir(parents=True)
    sources = {"__init__": "", "kernel": KERNEL, "inner/__init__": ""}
    sources |= {"inner/width": "WIDTH = 8", "inner/parts": "MORE = 0", "other": "X = 0"}
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    kept = tmp_path / "cache" / "numba" / "compressm" / "kernels"

    def run() -> tuple[str, int]:
        process = start(tmp_path / "cache", CALL.format(str(tmp_path)))
        output, error = process.communicate()
        assert process.returncode == 0, error
        return output.strip(), len(list(kept.iterdir()))

    assert run() == ("8", 1)
    assert run() == ("8", 1)
    (package / "other.py").write_text("X = 1")
    assert run() == ("8", 1)
    (package / "inner" / "width.py").write_text("WIDTH = 4")
    assert run() == ("4", 2)
    (package / "inner" / "parts.py").write_text("MORE = 1")
    assert run() == ("5", 3)


def test_all_that_a_kernel_is_made_of_is_watched() -> None:
    parts = {
        name.removeprefix("compressm.scan.") for name in sources("compressm.scan.selective.backward_kernel")
    }
    assert {"runtime.arrays", "runtime.vectors", "runtime.widths", "selective.channels"} <= parts
    assert {"runtime.functions", "selective.layout"} <= parts
    assert "selective.cpu" not in parts


def test_kernels_that_nobody_uses_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numba

    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("COMPRESSM_CACHE_DIR", str(tmp_path))
    old, recent = tmp_path / "kernels" / "old", tmp_path / "kernels" / "recent"
    for folder, days in ((old, 70), (recent, 50)):
        folder.mkdir(parents=True)
        (folder / "code").write_text("")
        os.utime(folder, (time.time() - 86_400 * days,) * 2)
    made = kernel_folder("compressm.models.norm_kernels")
    assert sorted((tmp_path / "kernels").iterdir()) == sorted((made, recent))
    os.utime(made, (0, 0))
    assert kernel_folder("compressm.models.norm_kernels") == made
    assert made.stat().st_mtime > 0


def test_without_a_place_to_keep_it_a_kernel_is_compiled_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "below")
    process = start(tmp_path, program("float32"), NUMBA_CACHE_DIR=nowhere, COMPRESSM_CACHE_DIR=nowhere)
    output, error = process.communicate()
    assert (process.returncode, output) == (0, "agrees\n"), error


def test_a_worker_reads_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def entry(address: int) -> None:
        import ctypes

        seen.append(list((ctypes.c_int64 * 4).from_address(address)))

    monkeypatch.setattr(team, "_ENTRY", lambda _: entry)
    team._run_on_python_threads(0, array("q", [-1, 3, 11, 12]), 3)
    assert sorted(seen) == [[0, 3, 11, 12], [1, 3, 11, 12], [2, 3, 11, 12]]


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPRESSM_CACHE_DIR", str(tmp_path / "chosen"))
    assert cache_directory() == tmp_path / "chosen"
    monkeypatch.delenv("COMPRESSM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_directory() == tmp_path / "compressm"


def test_a_lock_keeps_others_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPRESSM_CACHE_DIR", str(tmp_path))
    order: list[str] = []
    entered = threading.Event()

    def other() -> None:
        entered.set()
        with process_lock("test") as held:
            order.append(f"second {held}")

    with process_lock("test") as held:
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        thread.join(timeout=0.2)
        order.append(f"first {held}")
    thread.join()
    assert order == ["first True", "second True"]
