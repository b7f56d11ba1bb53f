import math
import os
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from compressm.report import (
    LayerCut,
    accuracy_figure,
    read_run,
    read_runs,
    save_figures,
    spectra_figure,
    speed_figure,
    training_figure,
)
from compressm.report.figure_spectra import normalised_spectrum
from compressm.report.figure_style import plain_power, strokes, thinned
from compressm.report.figure_training import mean_series
from compressm.report.groups import group_runs


def marked(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid]


@pytest.fixture(scope="module")
def study(sample, tmp_path_factory):
    return read_runs(sample.comparison(tmp_path_factory.mktemp("study"), seeds=3))


def test_accuracy_has_a_dot_for_every_seed_and_a_bar_for_every_mean(study):
    (axes,) = accuracy_figure(study).axes
    dots = [line for line in axes.lines if line.get_alpha() == 0.6]
    found = sorted((tuple(line.get_xdata()), tuple(np.round(line.get_ydata(), 6))) for line in dots)
    assert found == [
        ((8.0, 8.0, 8.0), (73.8, 75.6, 72.6)),
        ((8.0, 8.0, 8.0), (86.1, 86.7, 85.7)),
        ((256.0, 256.0, 256.0), (87.0, 87.6, 86.6)),
    ]
    means = sorted((line.get_xdata()[0], round(line.get_ydata()[0], 4)) for line in marked(axes, "mean"))
    assert means == [(8.0, 74.0), (8.0, 86.1667), (256.0, 87.0667)]
    assert axes.get_xscale() == "log"


def test_means_of_one_arm_are_joined_across_sizes_in_its_colour(sample, tmp_path):
    for final, accuracy in ((8, 0.8), (16, 0.9)):
        sample.run(tmp_path / str(final), final=final, accuracy=accuracy)
        sample.run(tmp_path / f"r{final}", arm="random", final=final, accuracy=accuracy - 0.3)
    (axes,) = accuracy_figure(read_runs([tmp_path])).axes
    joined = {tuple(np.round(line.get_ydata(), 6)): line for line in axes.lines if len(line.get_xdata()) == 2}
    own, other = joined[(80.0, 90.0)], joined[(50.0, 60.0)]
    assert tuple(own.get_xdata()) == (8.0, 16.0)
    assert own.get_color() == "#0072B2"
    assert other.get_color() not in (own.get_color(), "#D55E00")


def test_a_thin_line_is_a_standard_deviation_to_each_side(study):
    (axes,) = accuracy_figure(study).axes
    lines = sorted(tuple(np.round(line.get_segments()[0][:, 1], 4)) for line in axes.collections)
    sd = [np.std(scores, ddof=1) for scores in ((73.8, 75.6, 72.6), (86.1, 86.7, 85.7), (87.0, 87.6, 86.6))]
    means = (74.0, 86.1667, 87.0667)
    assert np.allclose(lines, [(m - s, m + s) for m, s in zip(means, sd, strict=True)], atol=1e-3)


def test_sixteen_other_arms_can_be_told_apart(sample, tmp_path):
    for number in range(16):
        sample.run(tmp_path / str(number), arm=f"arm{number:02}")
    groups = group_runs(read_runs([tmp_path]))
    assert len({(look.colour, look.marker) for look in strokes(groups)}) == 16


def test_accuracy_has_a_panel_for_every_task(sample, tmp_path):
    sample.run(tmp_path / "a", final=8, task="one")
    sample.run(tmp_path / "b", final=8, task="two")
    figure = accuracy_figure(read_runs([tmp_path]))
    assert [axes.get_title("left") for axes in figure.axes] == ["one", "two"]


def test_spectra_are_normalised_and_marked_at_the_boundary(study):
    (axes,) = spectra_figure(study).axes
    run = next(run for run in study if run.arm == "compressm" and run.seed == 0)
    kept = [line for line in axes.lines if str(line.get_label()).count("→")]
    assert [line.get_label() for line in kept] == [
        "50: 256 → 108",
        "100: 108 → 45",
        "150: 45 → 19",
        "200: 19 → 8",
    ]
    for line, cut in zip(kept, run.cuts, strict=True):
        layer = cut.layers[0]
        sigma = np.array(layer.hankel_singular_values) / layer.hankel_singular_values[0]
        # Two values of the real form make one state.
        assert line.get_xdata()[0] == 0.5
        assert line.get_ydata()[0] == 1.0
        assert line.get_xdata()[-1] == layer.new
        assert line.get_ydata()[-1] == pytest.approx(sigma[2 * layer.new - 1])
    boundaries = sorted(line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1])
    assert boundaries == [8, 19, 45, 108]
    assert axes.get_yscale() == "log"


def test_every_layer_has_its_panel(sample, tmp_path):
    figure = spectra_figure([read_run(sample.run(tmp_path / "a", final=8, layers=5))])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in shown] == [f"blocks.{i}.mixer: 256 → 8" for i in range(5)]


def test_zero_and_degenerate_spectra_are_left_out_of_the_logarithm():
    layer = LayerCut(name="a", old=4, new=2, hankel_singular_values=(2.0, 1.0, 0.0, 0.0))
    assert normalised_spectrum(layer) == ([1.0, 2.0], [1.0, 0.5])
    assert normalised_spectrum(LayerCut(name="a", old=2, new=1, hankel_singular_values=(0.0, 0.0))) == (
        [],
        [],
    )
    assert normalised_spectrum(LayerCut(name="a", old=2, new=1)) == ([], [])


def test_a_check_without_a_cut_draws_its_whole_spectrum_and_no_boundary(sample, tmp_path):
    folder = sample.run(tmp_path / "a", arm="full")
    layer = {"name": "a", "old": 4, "new": 4, "hankel_singular_values": [1.0, 0.5, 0.25, 0.125]}
    sample.lines(folder / "cuts.jsonl", [{"step": 5, "attempt": 1, "layers": [layer]}])
    (axes,) = spectra_figure([read_run(folder)]).axes
    (line,) = axes.lines
    assert list(line.get_xdata()) == [1, 2, 3, 4]
    assert list(line.get_ydata()) == [1.0, 0.5, 0.25, 0.125]


def test_sizes_fall_at_the_cuts_and_step_times_are_the_logged_ones(sample, tmp_path):
    run = read_run(sample.run(tmp_path / "a", final=8, floor=True))
    above, below = speed_figure([run]).axes
    (sizes,) = above.lines
    assert sizes.get_drawstyle() == "steps-post"
    assert list(sizes.get_xdata()) == [0, 50, 100, 150, 200, 2000]
    assert list(sizes.get_ydata()) == [256, 108, 45, 19, 8, 8]
    times = next(line for line in below.lines if line.get_gid() is None)
    assert list(times.get_xdata()) == [line.step for line in run.train]
    assert list(times.get_ydata()) == pytest.approx([1e3 * line.step_seconds for line in run.train])
    (floor,) = marked(below, "floor")
    assert list(floor.get_xdata()) == [200, 2000]
    assert list(floor.get_ydata()) == pytest.approx([6.4, 6.4])


def test_training_shows_the_mean_of_the_seeds_the_cuts_and_the_test_results(study):
    above, below = training_figure(study).axes
    mean = next(line for line in above.lines if line.get_label() == "compressm, 8 states")
    runs = [run for run in study if run.arm == "compressm"]
    expected = [sum(run.train[i].loss for run in runs) / 3 for i in range(len(runs[0].train))]
    assert list(mean.get_ydata()) == pytest.approx(expected)
    assert [line.get_xdata()[0] for line in marked(above, "cut")] == [50, 100, 150, 200]
    scores = sorted(round(score, 6) for line in marked(below, "test") for score in line.get_ydata())
    assert scores == [72.6, 73.8, 75.6, 85.7, 86.1, 86.6, 86.7, 87.0, 87.6]
    assert below.get_ylabel() == "validation accuracy (%)"


def test_a_mean_is_taken_only_at_steps_that_every_seed_has():
    assert mean_series([([1, 2, 3], [1.0, 2.0, 3.0]), ([2, 3, 4], [4.0, 5.0, 6.0])]) == ([2, 3], [3.0, 4.0])


def test_long_logs_are_thinned_to_their_ends_and_a_bounded_count(sample, tmp_path):
    folder = sample.run(tmp_path / "a", arm="full")
    sample.lines(
        folder / "metrics.jsonl",
        [{"kind": "train", "step": i, "loss": math.sin(i), "step_seconds": 0.1} for i in range(1, 5001)],
    )
    above, _ = training_figure([read_run(folder)]).axes
    steps = above.lines[0].get_xdata()
    assert (steps[0], steps[-1]) == (1, 5000)
    assert len(steps) == 200


@pytest.mark.parametrize("logarithmic", [False, True])
def test_thinned_indices_are_distinct_sorted_and_hold_both_ends(logarithmic):
    picked = thinned(512, 120, logarithmic=logarithmic)
    assert picked == sorted(set(picked))
    assert (picked[0], picked[-1]) == (0, 511)
    assert len(picked) <= 120
    assert thinned(3, 120, logarithmic=logarithmic) == [0, 1, 2]


def test_ticks_of_logarithmic_axes_are_plain():
    assert [plain_power(value) for value in (1e-5, 0.01, 1, 256, 1e6)] == ["10⁻⁵", "0.01", "1", "256", "10⁶"]


def test_figures_are_saved_as_png_and_svg(study, tmp_path):
    paths = save_figures(study, tmp_path / "new" / "figures")
    assert sorted(path.name for path in paths) == sorted(
        f"{name}.{ending}"
        for name in ("accuracy", "spectra", "speed", "training")
        for ending in ("png", "svg")
    )
    for path in paths:
        if path.suffix == ".svg":
            assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")  # noqa: S314
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_figures_without_data_are_not_saved(sample, tmp_path):
    folder = sample.run(tmp_path / "a", arm="full")
    names = {path.stem for path in save_figures([read_run(folder)], tmp_path / "figures")}
    assert names == {"speed", "training"}


def test_the_users_own_matplotlib_settings_neither_change_nor_matter(study):
    import matplotlib

    with matplotlib.rc_context({"font.size": 31.0, "axes.grid": False, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        (axes,) = accuracy_figure(study).axes
        assert dict(matplotlib.rcParams) == before
    assert axes.xaxis.label.get_size() == 9.0


def test_neither_import_nor_drawing_loads_pyplot(study):
    program = (
        "import io, sys\n"
        "import compressm.report as report\n"
        "assert 'matplotlib' not in sys.modules, 'matplotlib at import'\n"
        "report.speed_figure(report.read_runs(sys.argv[1:])).savefig(io.BytesIO(), format='png')\n"
        "assert 'matplotlib.figure' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'\n"
    )
    folder = str(study[0].folder)
    subprocess.run([sys.executable, "-c", program, folder], check=True, env=dict(os.environ))
