import json
import math

import pytest

from compressm.report import read_run, read_runs


def test_a_finished_run_is_read_whole(sample, tmp_path):
    run = read_run(sample.run(tmp_path / "run", accuracy=0.861, final=8, seed=3, floor=True))
    assert (run.arm, run.task, run.seed, run.name) == ("compressm", "smnist-mini", 3, "compressm, seed 3")
    assert run.initial_states == (256,)
    assert run.final_states == (8,)
    assert run.test_accuracy == 0.861
    assert run.test_loss == pytest.approx(-1.3 * math.log(0.861))
    assert run.parameters == 900 + 36 * 8
    assert [cut.step for cut in run.effective_cuts] == [50, 100, 150, 200]
    assert [(cut.layers[0].old, cut.layers[0].new) for cut in run.cuts] == [
        (256, 108), (108, 45), (45, 19), (19, 8)
    ]  # fmt: skip
    assert run.step_seconds_before == pytest.approx(0.009 + 0.00009 * 256)
    assert run.step_seconds_final == pytest.approx(0.009 + 0.00009 * 8)
    assert run.speedup == pytest.approx(0.03204 / 0.00972)
    assert run.floor_final == pytest.approx(0.0064)
    assert run.cut_seconds == pytest.approx(0.48)
    assert len(run.train) == 80
    assert run.notes == ()


def test_a_run_that_was_never_cut_has_one_step_time_and_no_speedup(sample, tmp_path):
    run = read_run(sample.run(tmp_path / "run", arm="full"))
    assert run.step_seconds_before is None
    assert run.step_seconds_final == pytest.approx(0.03204)
    assert run.speedup is None
    assert run.cut_seconds is None


def test_a_stopped_run_says_what_is_missing_and_takes_its_times_from_the_log(sample, tmp_path):
    folder = sample.run(tmp_path / "run", final=8, stopped_at=900)
    run = read_run(folder)
    assert not run.finished
    assert run.test_accuracy is None
    assert run.final_states == (8,)
    assert run.notes == (
        "no test result: the log ends at step 900 of 2,000",
        "no closing summary: times are taken from the training log",
    )
    assert run.total_seconds == run.train[-1].elapsed_seconds
    late = sorted(line.step_seconds for line in run.train if line.step > 200)
    assert len(late) % 2 == 0
    assert run.step_seconds_final == pytest.approx((late[len(late) // 2 - 1] + late[len(late) // 2]) / 2)


def test_a_cut_after_the_last_line_of_the_log_decides_the_final_size(sample, tmp_path):
    run = read_run(sample.run(tmp_path / "run", final=8, stopped_at=110))
    assert run.train[-1].step == 100
    assert run.final_states == (45,)


def test_sizes_given_as_one_number_hold_for_every_layer(sample, tmp_path):
    folder = sample.run(tmp_path / "run", arm="full", model={"num_layers": 3, "state_dim": 64})
    (folder / "metrics.jsonl").write_text("")
    run = read_run(folder)
    assert run.final_states == (64, 64, 64)
    assert run.notes[0] == "no training line: the run ended before it wrote one"


def test_a_truncated_last_line_is_left_out_with_a_note(sample, tmp_path):
    folder = sample.run(tmp_path / "run", final=8)
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:-1]) + lines[-1][:25])
    run = read_run(folder)
    assert run.summary is None
    assert run.test_accuracy == 0.861
    assert f"the last line of metrics.jsonl (line {len(lines)}) was cut off and is left out" in run.notes


@pytest.mark.parametrize("name", ["metrics.jsonl", "cuts.jsonl"])
def test_a_corrupt_line_elsewhere_is_an_error_with_file_and_line(sample, tmp_path, name):
    folder = sample.run(tmp_path / "run", final=8)
    lines = (folder / name).read_text().splitlines(keepends=True)
    (folder / name).write_text(lines[0] + '{"kind": "tr\n' + "".join(lines[1:]))
    with pytest.raises(ValueError, match=rf"{name}, line 2: not valid JSON .*repair or delete"):
        read_run(folder)


def test_a_complete_but_corrupt_last_line_is_an_error(sample, tmp_path):
    folder = sample.run(tmp_path / "run", arm="full")
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\nnonsense\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        read_run(folder)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"kind": "train", "loss": 1.0}, "'step' is missing"),
        ({"kind": "train", "step": 1, "loss": "low"}, "'loss' is 'low'; expected a number"),
        ({"kind": "train", "step": 1.5}, "'step' is 1.5; expected a whole number"),
        ({"kind": "train", "step": 1, "states": ["8"]}, "'states' is"),
        ({"kind": 3, "step": 1}, "'kind' is 3"),
        ([1, 2], "holds a list"),
        ({"kind": "summary", "floor_seconds": 0.3}, "'floor_seconds' is 0.3"),
    ],
)
def test_a_record_with_a_wrong_value_names_place_and_value(sample, tmp_path, record, message):
    folder = sample.run(tmp_path / "run", arm="full")
    (folder / "metrics.jsonl").write_text('{"kind": "other", "step": 0}\n' + json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=message) as error:
        read_run(folder)
    assert f"{folder / 'metrics.jsonl'}, line 2" in str(error.value)


@pytest.mark.parametrize("key", ["layers", "hankel_singular_values"])
def test_a_malformed_cut_names_place_and_key(sample, tmp_path, key):
    layer = {"name": "a", "old": 8, "new": 4, "hankel_singular_values": "many"}
    layers = [layer] if key == "hankel_singular_values" else 7
    folder = sample.run(tmp_path / "run", arm="full")
    sample.lines(folder / "cuts.jsonl", [{"step": 1, "attempt": 1, "layers": layers}])
    with pytest.raises(ValueError, match=rf"cuts\.jsonl, line 1: '{key}'"):
        read_run(folder)


def test_what_a_resumed_run_did_again_replaces_what_it_did_before(sample, tmp_path):
    folder = sample.run(tmp_path / "run", arm="full")
    steps = [(10, 5.0), (20, 4.0), (30, 3.0), (20, 4.5), (30, 3.5), (40, 2.5)]
    sample.lines(folder / "metrics.jsonl", [{"kind": "train", "step": s, "loss": v} for s, v in steps])
    run = read_run(folder)
    assert [(line.step, line.loss) for line in run.train] == [(10, 5.0), (20, 4.5), (30, 3.5), (40, 2.5)]


def test_a_missing_folder_and_a_missing_config_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"config\.json: missing"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[]", "holds a list"), ("{}", "'arm' is None")]
)
def test_a_bad_config_is_an_error(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path)


def test_a_folder_of_runs_stands_for_its_runs(sample, tmp_path):
    sample.comparison(tmp_path / "study", seeds=1)
    alone = sample.run(tmp_path / "alone", arm="random", final=8)
    runs = read_runs([tmp_path / "study", alone])
    assert [run.arm for run in runs] == ["compressm", "full", "scratch", "random"]


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no run folder given"):
        read_runs([])
    with pytest.raises(FileNotFoundError, match="no run here"):
        read_runs([tmp_path])
