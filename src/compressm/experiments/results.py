"""One line per run: ``results.jsonl``, from which tables and figures are made."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from compressm._version import __version__
from compressm.experiments.cells import Cell
from compressm.report import Cut, Measurement, Run
from compressm.training.device import pick_device

Record = dict[str, Any]


class Results:
    """The lines of an experiment; each appears whole or not at all.

    Args:
        path: The file; made with the first line.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line, and wait until it is on the disk."""
        line = (json.dumps(record) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            whole = self._whole_bytes()
            if whole != file.tell():
                file.truncate(whole)  # a line that a crash cut short
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Record]:
        """All whole lines, in order.

        Raises:
            ValueError: Naming file and line, if one is damaged.
        """
        if not self.path.is_file():
            return []
        records = []
        lines = self.path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was cut short
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{self.path}, line {number}: {error}; repair or delete this line"
                ) from error
            if not isinstance(record, dict) or not {"hash", "status"} <= record.keys():
                raise ValueError(f"{self.path}, line {number}: no result of a run; delete this line")
            records.append(record)
        return records

    def done(self) -> dict[str, Record]:
        """By fingerprint of their settings, the runs that were completed; of several the last."""
        return {record["hash"]: record for record in self.read() if record["status"] == "done"}

    def failed(self) -> dict[str, Record]:
        """The same for runs that failed and were not completed since."""
        done = self.done()
        failed = {record["hash"]: record for record in self.read() if record["status"] == "failed"}
        return {key: record for key, record in failed.items() if key not in done}

    def _whole_bytes(self) -> int:
        content = self.path.read_bytes()
        return content.rfind(b"\n") + 1


def done_record(cell: Cell, run: Run, threads: int) -> Record:
    """What is kept of a completed run: settings, scores, sizes, times and cuts.

    Args:
        cell: The cell.
        run: Its run folder, read.
        threads: Threads it ran with.

    Raises:
        ValueError: If the run is not complete.
    """
    if run.summary is None or run.test is None or not run.validation:
        raise ValueError(f"{run.folder}: not a completed run")
    settings = cell.config.to_dict()
    del settings["data_dir"]
    return {
        **_head(cell, "done"),
        "config": settings,
        "version": __version__,
        "torch": torch.__version__,
        "machine": machine(cell.config.device),
        "threads": threads,
        "validation": _score(run.validation[-1]),
        "test": _score(run.test),
        "summary": {**asdict(run.summary), "states": list(run.summary.states)},
        "cuts": [_cut(cut) for cut in run.cuts],
    }


def failed_record(cell: Cell, error: str, trace: str = "") -> Record:
    """What is kept of a run that failed."""
    return {**_head(cell, "failed"), "version": __version__, "error": error, "traceback": trace}


def machine(device: str = "cpu") -> dict[str, Any]:
    """The machine in words: what times depend on, with the GPU of a run that used one."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = models[0] if models else processor
    where = pick_device(device)
    return {
        "processor": processor or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **({"gpu": torch.cuda.get_device_name(where)} if where.type == "cuda" else {}),
    }


def _head(cell: Cell, status: str) -> Record:
    return {
        "hash": cell.hash,
        "status": status,
        "cell": cell.name,
        "arm": cell.arm,
        "size": cell.size,
        "seed": cell.config.seed,
    }


def _score(line: Measurement) -> Record:
    score = {"step": line.step, "loss": line.loss, "accuracy": line.accuracy}
    if line.rollout is not None:
        score["rollout"] = line.rollout
    return score if line.metric is None else {**score, "metric": line.metric, "value": line.value}


def _cut(cut: Cut) -> Record:
    """A cut without its spectra, which stay in the run folder."""
    plain = asdict(cut)
    for layer in plain["layers"]:
        del layer["hankel_singular_values"]
    return plain
