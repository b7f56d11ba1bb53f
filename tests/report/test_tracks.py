"""The tracking: read from its lines, drawn with what they say."""

import numpy as np
import pytest

from compressm.compression.tracking import HSVTracker
from compressm.report import read_run, report_html, save_figures, tracks_figure
from compressm.report.captions import captions
from compressm.report.checks import crossed_share, end_correlation, track_series


def line(step, values, tracks, layer="a", **measures):
    return {"step": step, "layer": layer, "hankel_singular_values": values, "tracks": tracks, **measures}


LINES = [
    line(10, [4.0, 2.0, 1.0], [0, 1, 2], boundary=2, bottom=1 / 7),
    line(20, [4.0, 3.0, 0.5], [1, 0, 2], boundary=2, rank_correlation=0.5, crossings=1, moved=1.0,
         distance=2.0),
    line(30, [5.0, 3.0, 0.4], [1, 0, 3], boundary=1, rank_correlation=1.0, crossings=0, moved=1.0,
         distance=3.0, since=10, kept=0.6, best=0.8),
]  # fmt: skip


@pytest.fixture
def run(sample, tmp_path):
    folder = sample.run(tmp_path / "run", final=8, steps=160)
    sample.lines(folder / "hsv.jsonl", LINES)
    return read_run(folder)


def test_checks_are_read_as_they_were_written(run):
    assert [check.step for check in run.checks] == [10, 20, 30]
    assert run.checks[1].tracks == (1, 0, 2)
    assert run.checks[1].hankel_singular_values == (4.0, 3.0, 0.5)
    assert (run.checks[2].since, run.checks[2].kept, run.checks[2].best) == (10, 0.6, 0.8)
    assert run.checks[0].moved is None


def test_what_the_tracker_writes_is_read(sample, tmp_path):
    import torch

    tracker = HSVTracker(window=1)
    folder = sample.run(tmp_path / "run", final=8)
    for step in (1, 2):
        tracker.observe(step, {name: torch.tensor([2.0, 1.0]) / step for name in ("a", "b")})
    sample.lines(folder / "hsv.jsonl", [record.to_dict() for record in tracker.records])
    checks = read_run(folder).checks
    assert [(check.layer, check.step) for check in checks] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert checks[1].hankel_singular_values == (1.0, 0.5)
    assert checks[1].moved == 1.0
    assert tracks_figure([read_run(folder)]).axes


def test_a_resumed_run_replaces_its_checks_and_a_torn_line_is_noted(sample, tmp_path):
    folder = sample.run(tmp_path / "run")
    sample.lines(folder / "hsv.jsonl", [*LINES, line(20, [9.0], [0])])
    with (folder / "hsv.jsonl").open("a") as file:
        file.write('{"step": 3')
    run = read_run(folder)
    assert [(check.step, check.hankel_singular_values[0]) for check in run.checks] == [(10, 4.0), (20, 9.0)]
    assert any("last line of hsv.jsonl (line 5) was cut off" in note for note in run.notes)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"layer": None}, "'layer' is None"),
        ({"tracks": "012"}, "'tracks' is not a list of numbers"),
        ({"kept": "all"}, "'kept' is 'all'"),
    ],
)
def test_damaged_lines_are_named(sample, tmp_path, broken, message):
    folder = sample.run(tmp_path / "run")
    sample.lines(folder / "hsv.jsonl", [LINES[0], {**LINES[1], **broken}])
    with pytest.raises(ValueError, match=rf"hsv.jsonl, line 2: {message}"):
        read_run(folder)


def test_series_follow_the_numbers(run):
    assert track_series(run.checks) == {
        0: ([10.0, 20.0, 30.0], [4.0, 3.0, 3.0]),
        1: ([10.0, 20.0, 30.0], [2.0, 4.0, 5.0]),
        2: ([10.0, 20.0], [1.0, 0.5]),
        3: ([30.0], [0.4]),
    }
    # Two states are known at both ends: in reverse order at first.
    assert end_correlation(run.checks) == ([10.0, 20.0], [-1.0, 1.0])
    assert crossed_share(run.checks[1]) == pytest.approx(100 / 3)
    assert crossed_share(run.checks[0]) is None


def test_every_panel_shows_its_measure(run):
    tracks, spectra, order, crossed, kept, moved = tracks_figure([run]).axes
    by_kind = {
        kind: [found for found in tracks.lines if found.get_gid() == kind] for kind in ("kept", "other")
    }
    assert [list(found.get_ydata()) for found in by_kind["kept"]] == [[2.0, 4.0, 5.0]]
    assert sorted(tuple(found.get_ydata()) for found in by_kind["other"]) == [(1.0, 0.5), (4.0, 3.0, 3.0)]
    assert [found.get_xdata()[0] for found in tracks.lines if found.get_gid() == "cut"] == [4, 8, 12, 16]
    curves = [list(found.get_ydata()) for found in spectra.lines if len(found.get_xdata()) == 3]
    assert curves == [[4.0, 2.0, 1.0], [4.0, 3.0, 0.5], [5.0, 3.0, 0.4]]

    def drawn(axes):
        lines = [found for found in axes.lines if found.get_gid() != "cut"]
        return {found.get_label(): list(np.round(found.get_ydata(), 6)) for found in lines}

    assert drawn(order) == {"check before": [0.5, 1.0], "last check": [-1.0, 1.0]}
    assert list(drawn(crossed).values()) == [[33.333333, 0.0]]
    assert drawn(kept) == {"best of that size": [0.8], "an earlier cut's": [0.6]}
    assert drawn(moved) == {"bound": [2.0, 3.0], "farthest move": [1.0, 1.0]}


def test_several_layers_share_the_lower_panels(sample, tmp_path):
    folder = sample.run(tmp_path / "run")
    other = [{**record, "layer": "b", "crossings": 3 if record["step"] > 10 else None} for record in LINES]
    sample.lines(folder / "hsv.jsonl", [*LINES, *other])
    run = read_run(folder)
    panels = tracks_figure([run]).axes
    assert panels[0].get_title("left") == "a"
    strong = [found for found in panels[3].lines if found.get_alpha() is None]
    assert [list(np.round(found.get_ydata(), 6)) for found in strong] == [[66.666667, 50.0]]
    assert "all 2 layers" in captions([run])["tracks"][1]


def test_the_figure_is_in_the_report_where_there_is_tracking(run, sample, tmp_path):
    assert "tracks.png" in {path.name for path in save_figures([run], tmp_path / "figures")}
    assert "How the states" in report_html([run])
    plain = read_run(sample.run(tmp_path / "plain"))
    assert "How the states" not in report_html([plain])
    (axes,) = tracks_figure([plain]).axes
    assert axes.texts[0].get_text() == "no states were followed"
