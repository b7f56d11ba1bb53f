"""Tables, figures, the file, and what they say of the machine."""

import json
import platform
from pathlib import Path

import pytest

from compressm.bench.cases import CASES
from compressm.bench.comparison import FLOOR, Comparison, Measured
from compressm.bench.contender import Settings
from compressm.bench.figures import write_figures
from compressm.bench.grid import Choice
from compressm.bench.machine import describe_machine
from compressm.bench.outcome import Outcome
from compressm.bench.scaling import LTI, Point, Sweep
from compressm.bench.tables import choice_table, comparison_table, sweep_table


def measured(name: str, seconds: float, ratio: float, peak: int | None = None) -> Measured:
    return Measured(
        name=name,
        seconds=seconds,
        ratio=ratio,
        tokens_per_second=39_200 / seconds,
        of_products=0.08 / seconds,
        of_bytes=0.001 / seconds,
        compile_seconds=1.25,
        peak_bytes=peak,
        difference=None,
        rounds=[seconds],
    )


@pytest.fixture
def outcome() -> Outcome:
    comparison = Comparison(
        case=CASES["smnist"],
        gigaflop=2.0,
        bytes=1000,
        product_seconds=0.08,
        measured=[measured("compressm", 0.1, 1.0, 50 << 20), measured("JAX associative scan", 0.7, 7.1)],
        absent={"other": "not installed: pip install other"},
    )
    points = [Point(value=v, case=LTI, seconds=1e-3 * v, peak_bytes=v << 20) for v in (1, 2, 4)]
    choices = [
        Choice(shape="first", seconds={FLOOR: 0.1, "scan": 0.2, "convolution": 0.3}, picked="scan"),
        Choice(shape="second", seconds={FLOOR: 0.1, "scan": 0.2}, picked="scan"),
        Choice(shape="third", seconds={FLOOR: 0.1, "scan": 0.2, "convolution": 0.1}, picked="scan"),
    ]
    return Outcome(
        machine=describe_machine(Settings(threads=1)),
        method={"rounds": 3},
        comparisons=[comparison],
        sweeps=[Sweep(operation="lti_scan", axis="L", points=points)],
        forms=choices,
        chunks=[Choice(shape="chunks", seconds={"16": 0.1, "32": 0.2}, picked="32")],
    )


def test_the_table_of_cases(outcome: Outcome) -> None:
    table = comparison_table(outcome.comparisons)
    assert table.column("case") == ("smnist", "", "")
    assert table.column("step (ms)") == ("100", "700", "80")
    assert table.column("over ours") == ("1.00", "7.10", "0.80")
    assert table.column("tokens/s") == ("392,000", "56,000", "—")
    assert table.column("peak (MiB)") == ("50", "—", "—")
    assert table.column("floor products (%)") == ("80.0", "11.4", "—")
    assert "smnist: other: not installed: pip install other" in table.notes


def test_the_table_of_an_axis(outcome: Outcome) -> None:
    table = sweep_table(outcome.sweeps[0])
    assert table.column("L") == ("1", "2", "4")
    assert table.column("of the straight line") == ("1.00",) * 3
    assert table.column("peak (MiB)") == ("1.0", "2.0", "4.0")


def test_the_table_of_choices(outcome: Outcome) -> None:
    table = choice_table(outcome.forms)
    assert table.column("convolution (ms)") == ("300", "—", "100")
    assert table.column("over the best") == ("1.00", "1.00", "2.00")
    assert table.notes == ("worst choice: 2.00 times the best (third)",)


def test_the_file_is_replaced_whole(outcome: Outcome, tmp_path: Path) -> None:
    path = outcome.write(tmp_path / "new")
    first = path.read_text()
    outcome.constants = {"scan/training": [1.0]}
    assert outcome.write(tmp_path / "new") == path
    assert [file.name for file in path.parent.iterdir()] == ["bench.json"]
    found = json.loads(path.read_text())
    assert json.loads(first)["constants"] is None
    assert found["constants"] == {"scan/training": [1.0]}
    assert found["cases"][0]["case"]["kind"] == "ClassifierCase"
    assert found["cases"][0]["measured"][1]["ratio"] == 7.1
    assert found["scaling"][0]["over_line"] == pytest.approx([1, 1, 1])
    assert [choice["over_best"] for choice in found["forms"]] == [1.0, 1.0, 2.0]


def test_a_file_that_cannot_be_written_leaves_the_old_one(outcome: Outcome, tmp_path: Path) -> None:
    path = outcome.write(tmp_path)
    before = path.read_text()
    outcome.method["rounds"] = object()
    with pytest.raises(TypeError):
        outcome.write(tmp_path)
    assert path.read_text() == before


def test_figures(outcome: Outcome, tmp_path: Path) -> None:
    paths = write_figures(outcome, tmp_path)
    names = {path.name for path in paths}
    assert names == {"steps.png", "scaling-time.png", "scaling-memory.png", "forms.png"}
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000
    assert write_figures(Outcome(machine={}, method={}), tmp_path) == []


def test_the_machine_is_described_but_not_named() -> None:
    machine = describe_machine(Settings(threads=1))
    assert machine["threads"] == 1
    assert machine["processor"]
    assert machine["versions"]["torch"]
    text = json.dumps(machine)
    for secret in (platform.node(), str(Path.home()), str(Path.cwd())):
        assert len(secret) < 3 or secret not in text
