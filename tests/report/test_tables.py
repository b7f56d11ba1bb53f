import io
import json
import re
import statistics
from dataclasses import replace

import pytest
from rich.console import Console

from compressm.report import (
    Column,
    Row,
    Table,
    cuts_table,
    print_summary,
    read_run,
    read_runs,
    summary_table,
    to_html,
    to_markdown,
)


@pytest.fixture(scope="module")
def study(sample, tmp_path_factory):
    return read_runs(sample.comparison(tmp_path_factory.mktemp("study"), seeds=3))


def test_means_and_deviations_are_those_computed_by_hand(study):
    table = summary_table(study)
    assert table.column("arm") == ("compressm", "full", "scratch")
    assert table.column("states") == ("8", "256", "8")
    assert table.column("parameters") == ("1,188", "10,116", "1,188")
    # 86.1, 86.7, 85.7 / 87.0, 87.6, 86.6 / 73.8, 75.6, 72.6
    assert table.column("test accuracy each seed") == (
        "86.10 86.70 85.70", "87.00 87.60 86.60", "73.80 75.60 72.60"
    )  # fmt: skip
    assert table.column("test accuracy mean (%)") == ("86.17", "87.07", "74.00")
    assert table.column("test accuracy ± sd") == ("0.50", "0.50", "1.51")
    assert statistics.stdev([73.8, 75.6, 72.6]) == pytest.approx(1.51, abs=0.005)


def test_step_times_floors_and_speedup_stand_beside_each_other(study):
    table = summary_table(study)
    assert table.column("step time before (ms)") == ("32.0", "—", "—")
    assert table.column("step time floor before (ms)") == ("18.8", "—", "—")
    assert table.column("step time after (ms)") == ("9.7", "32.0", "9.7")
    assert table.column("step time floor after (ms)") == ("6.4", "18.8", "6.4")
    assert table.column("step time speed-up") == ("3.30×", "—", "—")
    totals = statistics.fmean(run.total_seconds for run in study if run.arm == "full")
    assert table.column("run time total (s)")[1] == f"{totals:.1f}"
    assert table.column("run time training (s)")[1] == f"{totals - 1.5:.1f}"
    assert table.column("run time cuts (s)") == ("0.48", "—", "—")


def test_runs_that_do_not_tell_evaluation_apart_have_no_training_time(study):
    old = [replace(run, summary=replace(run.summary, evaluation_seconds=None)) for run in study]
    assert "run time training (s)" not in [column.heading for column in summary_table(old).columns]
    assert all(run.training_seconds is None for run in old)


def test_the_row_of_the_headline_is_marked(study):
    assert [row.strong for row in summary_table(study).rows] == [True, False, False]


def test_one_seed_has_no_deviation(sample, tmp_path):
    table = summary_table([read_run(sample.run(tmp_path / "a", final=8))])
    assert table.column("test accuracy mean (%)") == ("86.10",)
    assert "test accuracy ± sd" not in [column.heading for column in table.columns]
    assert "step time floor after (ms)" not in [column.heading for column in table.columns]


def test_sizes_make_groups_of_their_own(sample, tmp_path):
    for final in (16, 8):
        for seed in (0, 1):
            sample.run(tmp_path / f"{final}-{seed}", final=final, seed=seed, accuracy=0.8 + final / 1000)
    table = summary_table(read_runs([tmp_path]))
    assert table.column("states") == ("16", "8")
    assert table.column("test accuracy mean (%)") == ("81.60", "80.80")


def test_equal_sizes_of_different_settings_are_never_pooled(sample, tmp_path):
    for form in ("real", "complex"):
        compression = {"rank": 8, "realization": form}
        sample.run(tmp_path / form, final=8, accuracy=0.8, compression=compression)
    table = summary_table(read_runs([tmp_path]))
    assert sorted(table.column("arm")) == ["compressm, realization complex", "compressm, realization real"]
    assert table.column("test accuracy each seed") == ("80.00", "80.00")


def test_seeds_of_one_setting_stay_together_when_their_sizes_differ(sample, tmp_path):
    rank = {"rank": {"kind": "energy", "tolerance": 0.02}}
    for seed, final in ((0, 27), (1, 30)):
        sample.run(tmp_path / str(seed), final=final, seed=seed, compression=rank)
    assert summary_table(read_runs([tmp_path])).column("states") == ("28.5 (27–30)",)


def test_a_stopped_run_has_its_own_row_and_is_explained(sample, tmp_path):
    sample.run(tmp_path / "a", final=8, seed=0)
    sample.run(tmp_path / "b", final=8, seed=1, stopped_at=900)
    table = summary_table(read_runs([tmp_path]))
    assert table.column("arm") == ("compressm", "compressm (stopped)")
    assert table.column("test accuracy mean (%)") == ("86.10", "—")
    assert "compressm, seed 1 (b): no test result: the log ends at step 900 of 2,000." in table.notes


def test_a_mean_over_fewer_runs_than_the_group_has_says_so(sample, tmp_path):
    sample.run(tmp_path / "a", final=8, seed=0)
    sample.run(tmp_path / "b", final=8, seed=1, accuracy=None)
    table = summary_table(read_runs([tmp_path]))
    assert table.column("test accuracy each seed") == ("86.10",)
    assert "compressm: the mean is over 1 seed of 2." in table.notes


def test_several_tasks_are_told_apart(sample, tmp_path):
    sample.run(tmp_path / "a", final=8, task="smnist")
    sample.run(tmp_path / "b", final=8, task="digits", accuracy=0.5)
    table = summary_table(read_runs([tmp_path]))
    assert table.column("task") == ("digits", "smnist")
    assert table.column("test accuracy mean (%)") == ("50.00", "86.10")


def test_a_score_that_is_not_a_number_is_shown_as_such(sample, tmp_path):
    for seed, accuracy in ((0, 0.8), (1, 0.9)):
        folder = sample.run(tmp_path / str(seed), final=8, seed=seed, accuracy=accuracy)
        if seed:
            text = (folder / "metrics.jsonl").read_text()
            test = next(line for line in text.splitlines() if '"test"' in line)
            broken = json.dumps({**json.loads(test), "accuracy": float("nan")})
            (folder / "metrics.jsonl").write_text(text.replace(test, broken))
    table = summary_table(read_runs([tmp_path]))
    assert table.column("test accuracy mean (%)") == ("NaN",)
    assert table.column("test accuracy ± sd") == ("NaN",)


def test_the_cuts_are_listed_layer_by_layer(sample, tmp_path):
    run = read_run(sample.run(tmp_path / "a", final=8, layers=2))
    table = cuts_table(run)
    assert table.column("step") == ("50", "", "100", "", "150", "", "200", "")
    assert table.column("layer")[:2] == ("blocks.0.mixer", "blocks.1.mixer")
    assert table.column("states")[0] == "256 → 108"
    assert table.column("time (s)") == ("0.130", "", "0.065", "", "0.043", "", "0.033", "")
    bounds = [layer.error_bound for cut in run.cuts for layer in cut.layers]
    shown = [float(cell) for cell in table.column("guaranteed error bound")]
    assert shown == pytest.approx(bounds, rel=0.02)
    assert len({len(cell.partition(".")[2]) for cell in table.column("actual error")}) == 1


def test_a_layer_left_alone_has_no_error_and_its_note_is_told(sample, tmp_path):
    folder = sample.run(tmp_path / "a", final=8)
    layers = [
        {"name": "a", "old": 8, "new": 8, "error_bound": 0.0, "error": 0.0},
        {"name": "b", "old": 8, "new": 4, "error_bound": None, "error": 0.25, "note": "rank is only 4"},
    ]
    sample.lines(folder / "cuts.jsonl", [{"step": 5, "attempt": 1, "layers": layers}])
    table = cuts_table(read_run(folder))
    assert table.column("states") == ("8 (kept)", "8 → 4")
    assert table.column("actual error") == ("—", "0.25")
    assert "guaranteed error bound" not in [column.heading for column in table.columns]
    assert table.notes == ("Step 5, b: rank is only 4",)


def test_very_small_errors_go_to_scientific_notation_together(sample, tmp_path):
    folder = sample.run(tmp_path / "a", final=8)
    cuts = [
        {"step": 5, "attempt": 1, "layers": [{"name": "a", "old": 8, "new": 4, "error": 3.21e-7}]},
        {"step": 6, "attempt": 2, "layers": [{"name": "a", "old": 4, "new": 2, "error": 0.5}]},
    ]
    sample.lines(folder / "cuts.jsonl", cuts)
    assert cuts_table(read_run(folder)).column("actual error") == ("3.2e-07", "5.0e-01")


def test_markdown_and_html_hold_the_same_cells():
    columns = (Column("arm", align="left", key=True), Column("mean", "%", group="test"))
    table = Table(columns, (Row(("a|b*<i>", "1.5"), strong=True),), ("note_1",))
    assert to_markdown(table).splitlines() == [
        "| arm | test mean (%) |",
        "| --- | ---: |",
        r"| **a\|b\*&lt;i&gt;** | **1.5** |",
        "",
        r"- note\_1",
    ]
    page = to_html(table)
    assert '<td class="left">a|b*&lt;i&gt;</td>' in page
    assert '<th scope="colgroup" colspan="1" class="group">test</th>' in page
    assert "<li>note_1</li>" in page


def test_every_row_needs_a_cell_for_every_column():
    with pytest.raises(ValueError, match="row 1 has 2 cells for 1 columns"):
        Table((Column("a"),), (Row(("1", "2")),))
    with pytest.raises(KeyError, match="no column 'b'; the columns are a"):
        Table((Column("a"),), ()).column("b")


def test_no_runs_is_an_error():
    with pytest.raises(ValueError, match="no runs to summarise"):
        summary_table([])


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_terminal_shows_every_number_at_any_width(study, width):
    stream = io.StringIO()
    print_summary(study, Console(file=stream, width=width, color_system=None))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    words = re.sub(r"\s+", " ", text)
    assert "8 states, 86.2 % test accuracy — 12.2 points above" in words
    for cells in (row.cells for row in summary_table(study).rows):
        assert all(cell in words for cell in cells)


def test_the_terminal_takes_names_literally(sample, tmp_path):
    stream = io.StringIO()
    run = read_run(sample.run(tmp_path / "a", arm="[red]x[/red]", final=8))
    print_summary([run], Console(file=stream, width=150, color_system=None))
    assert stream.getvalue().count("[red]x[/red]") == 2
