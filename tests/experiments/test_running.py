"""Experiments that run, fail, are killed and go on, on the toy task."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from compressm.cli import main
from compressm.experiments import Results, make_cells, outcome_runs, read_experiment, run_experiment
from compressm.experiments.cell_run import drop_big_files, run_cell
from compressm.experiments.lock import sole_owner
from compressm.experiments.settings import Experiment, parse_experiment
from compressm.experiments.workers import run_jobs
from compressm.training import Progress, RunFolder, train

BASE = {
    "task": "toy",
    "steps": 24,
    "batch_size": 4,
    "log_every": 4,
    "checkpoint_every": 8,
    "model": {"model_dim": 4, "state_dim": 8},
}


def experiment(*, seeds: list[int], arms: dict[str, Any], **base: Any) -> Experiment:
    return parse_experiment({"seeds": seeds, "base": BASE | base, "arms": arms, "sizes": [3]})


CUT = {"cut": {"size": "compression.rank", "compression": {"stop": 0.5}}}


def records(out: Path) -> list[dict[str, Any]]:
    return Results(out / "results.jsonl").read()


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["kind"] != "summary"]


def test_a_command_runs_all_cells_and_compares_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "toy.json"
    arms = CUT | {"scratch": {"size": "model.state_dim"}, "broken": {"optimizer": {"lr": 1e30}}}
    file.write_text(json.dumps({"seeds": [0, 1], "sizes": [3], "base": BASE, "arms": arms}))
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(["experiment", str(file), "--out", str(out), "--processes", "2"])
    assert stopped.value.code == 1
    shown = capsys.readouterr().out
    assert "6 of 6" in shown
    assert "broken-seed0 failed: FloatingPointError" in shown

    found = records(out)
    assert sorted(r["cell"] for r in found if r["status"] == "done") == [
        f"{arm}-3-seed{seed}" for arm in ("cut", "scratch") for seed in (0, 1)
    ]
    failed = [r for r in found if r["status"] == "failed"]
    assert sorted(r["cell"] for r in failed) == ["broken-seed0", "broken-seed1"]
    assert all("lower learning rate" in r["traceback"] for r in failed)
    one = next(r for r in found if r["cell"] == "cut-3-seed1")
    assert (one["config"]["seed"], one["threads"], one["size"]) == (1, 1, 3)
    assert [cut["step"] for cut in one["cuts"]] == [3, 6, 9, 12]
    assert {"old", "new", "error", "error_bound"} <= one["cuts"][0]["layers"][0].keys()
    assert one["summary"]["states"] == [one["cuts"][-1]["layers"][0]["new"]]
    assert "data_dir" not in one["config"]
    # What a run folder keeps is what its record was made of.
    folder = out / "runs" / f"cut-3-seed1-{one['hash'][:8]}"
    assert {f.name for f in folder.iterdir()} == {"config.json", "metrics.jsonl", "cuts.jsonl"}
    assert (24, one["test"]["loss"]) in losses(folder)

    table = (out / "table.md").read_text()
    accuracies = [f"{100 * r['test']['accuracy']:.2f}" for r in found if r["arm"] == "scratch"]
    assert all(accuracy in table for accuracy in accuracies)
    assert (out / "accuracy.png").stat().st_size > 5000

    # From the results alone, without a run.
    for entry in (out / "runs").iterdir():
        drop_big_files(entry)
    main(["experiment", str(file), "--out", str(out), "--table"])
    shown = capsys.readouterr().out
    assert "broken-seed1 failed" in shown
    assert accuracies[0] in shown
    assert len(records(out)) == len(found)
    assert {run.arm for run in outcome_runs(out)} == {"cut", "scratch"}


def test_a_killed_experiment_goes_on_where_it_was(tmp_path: Path) -> None:
    plan = experiment(seeds=[0, 1, 2], arms=CUT, steps=160, log_every=2)
    file, out = tmp_path / "toy.json", tmp_path / "out"
    base = BASE | {"steps": 160, "log_every": 2}
    file.write_text(json.dumps({"seeds": [0, 1, 2], "sizes": [3], "base": base, "arms": CUT}))
    words = ["experiment", str(file), "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-c", f"from compressm.cli import main; main({words!r})"])
    first, second, third = make_cells(plan)
    half_done = out / "runs" / second.folder
    deadline = time.monotonic() + 120
    while not (half_done / "checkpoint.pt").is_file():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it never came to the second run"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [record["cell"] for record in records(out)] == [first.name]
    assert not (out / "runs" / third.folder).exists()

    class Steps:
        """Where each cell was when it first spoke."""

        def __init__(self) -> None:
            self.first: dict[str, int] = {}
            self.done = -1

        def planned(self, cells: Any, done: int) -> None:
            assert len(cells) == 3
            self.done = done

        def started(self, cell: Any) -> None:
            assert cell.name not in self.first

        def progressed(self, cell: Any, progress: Progress) -> None:
            self.first.setdefault(cell.name, progress.step)

        def ended(self, cell: Any, record: Any) -> None:
            assert record["cell"] == cell.name

    steps = Steps()
    before = records(out)
    assert run_experiment(plan, out, watch=steps) == []
    assert steps.done == 1
    assert set(steps.first) == {second.name, third.name}
    assert steps.first[second.name] > 8 > steps.first[third.name] == 2
    after = records(out)
    assert after[:1] == before
    assert [record["cell"] for record in after] == [first.name, second.name, third.name]
    # Nothing is left to do, and nothing is done.
    assert run_experiment(plan, out) == []
    assert records(out) == after


def test_half_done_cells_end_as_if_they_had_never_stopped(tmp_path: Path) -> None:
    (cell,) = make_cells(experiment(seeds=[5], arms=CUT))

    class StopError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step >= 12:
            raise StopError

    with pytest.raises(StopError):
        train(cell.config, RunFolder(tmp_path / "half"), watch=stop)
    seen: list[int] = []
    record = run_cell(cell, tmp_path / "half", lambda progress: seen.append(progress.step))
    assert min(seen) == 9
    whole = run_cell(cell, tmp_path / "whole", lambda _: None)
    assert losses(tmp_path / "half") == losses(tmp_path / "whole")
    for key in ("validation", "test", "hash"):
        assert record[key] == whole[key]
    # Completed and not recorded: read, not run again.
    seen.clear()
    assert run_cell(cell, tmp_path / "half", lambda progress: seen.append(progress.step)) == record
    assert seen == []
    # Left before its first checkpoint: begun anew.
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "config.json").write_text("{}")
    assert run_cell(cell, tmp_path / "early", lambda _: None)["test"] == whole["test"]


def test_a_killed_worker_fails_its_cell_alone(tmp_path: Path) -> None:
    cells = make_cells(experiment(seeds=[0, 1], arms={"full": {}}))
    jobs = [(cell, tmp_path / cell.folder) for cell in cells]
    events = []
    for event in run_jobs(jobs, processes=1, threads=1):
        if event[:2] == (0, "progress") and len(events) == 1:
            (worker,) = multiprocessing.active_children()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
        events.append(event)
    ends = {index: (kind, content) for index, kind, content in events if kind in ("done", "failed")}
    assert ends[0][0] == "failed"
    assert "killed (SIGKILL)" in ends[0][1][0]
    assert ends[1][0] == "done"
    assert multiprocessing.active_children() == []


def test_lines_are_whole_or_not_there(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    assert results.read() == []
    one, two = {"hash": "1", "status": "failed"}, {"hash": "1", "status": "done"}
    results.append(one)
    with results.path.open("a") as file:
        file.write('{"hash": "2", "sta')
    assert results.read() == [one]
    assert results.failed() == {"1": one}
    results.append(two)
    assert results.read() == [one, two]
    assert (results.failed(), results.done()) == ({}, {"1": two})
    results.path.write_text('{"hash": "1", "status": "done"}\n{"has\n')
    with pytest.raises(ValueError, match=r"results.jsonl, line 2: "):
        results.read()
    results.path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"line 1: no result of a run"):
        results.read()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    plan = experiment(seeds=[0], arms={"full": {}})
    with sole_owner(tmp_path), pytest.raises(ValueError, match="another process is running an experiment"):
        run_experiment(plan, tmp_path)
    with sole_owner(tmp_path):
        pass


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["experiment", "--help"])
    assert stopped.value.code == 0
    assert "--keep-models" in capsys.readouterr().out


def test_impossible_calls_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = experiment(seeds=[0], arms={"full": {}})
    with pytest.raises(ValueError, match="processes is 0"):
        run_experiment(plan, tmp_path / "out", processes=0)
    with pytest.raises(ValueError, match="threads is 0"):
        run_experiment(plan, tmp_path / "out", threads=0)
    file = tmp_path / "typo.toml"
    file.write_text('seeds = [0]\n[base]\ntask = "toy"\n[arms.full]\nmodle.state_dim = 3\n')
    with pytest.raises(SystemExit) as stopped:
        main(["experiment", str(file), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert "unknown key arms.full.modle; did you mean arms.full.model?" in error
    assert not (tmp_path / "out").exists()
    file.write_text(file.read_text().replace("modle", "model"))
    with pytest.raises(SystemExit):
        main(["experiment", str(file), "--out", str(tmp_path / "out"), "--table"])
    assert "no completed run yet" in capsys.readouterr().err.replace("\n", " ")
    assert read_experiment(file).arms[0].name == "full"
