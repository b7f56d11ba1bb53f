import json

import pytest

from compressm.report import headline, read_runs


def told(folder):
    return headline(read_runs([folder]))


def test_with_all_arms_it_compares_with_scratch_full_and_speed(sample, tmp_path):
    sample.comparison(tmp_path, seeds=3)
    story = told(tmp_path)
    # Means: compressm (86.1 + 86.7 + 85.7) / 3, scratch 74.0, full 87.07; steps 32.04 ms / 9.72 ms.
    assert story.text == (
        "8 states, 86.2 % test accuracy — 12.2 points above the same size trained from scratch, "
        "0.9 below the full model (256 states); steps 3.3× faster than full"
    )
    assert story.basis == "Mean of 3 seeds, standard deviation 0.5 points."


def test_without_scratch_the_full_model_carries_the_unit(sample, tmp_path):
    sample.run(tmp_path / "a", final=8, accuracy=0.861)
    sample.run(tmp_path / "b", arm="full", accuracy=0.85)
    assert told(tmp_path).comparison == (
        "1.1 points above the full model (256 states); steps 3.3× faster than full"
    )


def test_without_full_the_speed_compares_with_the_time_before_the_cuts(sample, tmp_path):
    sample.run(tmp_path / "a", final=8, accuracy=0.861)
    sample.run(tmp_path / "b", arm="scratch", initial=8, accuracy=0.9)
    assert told(tmp_path).comparison == (
        "3.9 points below the same size trained from scratch; steps 3.3× faster than before the cuts"
    )


def test_equal_scores_are_level(sample, tmp_path):
    sample.run(tmp_path / "a", final=8, accuracy=0.861)
    sample.run(tmp_path / "b", arm="scratch", initial=8, accuracy=0.8612)
    assert told(tmp_path).comparison.startswith("level with the same size trained from scratch")


def test_alone_it_tells_size_score_and_speed(sample, tmp_path):
    sample.run(tmp_path / "a", final=8)
    story = told(tmp_path)
    assert story.text == "8 states, 86.1 % test accuracy — steps 3.3× faster than before the cuts"
    assert story.basis == "One seed."


def test_of_several_sizes_it_takes_the_smallest_with_a_control(sample, tmp_path):
    for final in (4, 8, 16):
        sample.run(tmp_path / f"c{final}", final=final, accuracy=0.8 + final / 1000)
    sample.run(tmp_path / "s", arm="scratch", initial=8, accuracy=0.7)
    assert told(tmp_path).finding == "8 states, 80.8 % test accuracy"


def test_a_control_of_nearly_the_size_is_named_by_its_own(sample, tmp_path):
    sample.run(tmp_path / "a", final=40, accuracy=0.9)
    sample.run(tmp_path / "b", arm="scratch", initial=41, accuracy=0.8)
    sample.run(tmp_path / "c", arm="scratch", initial=64, accuracy=0.85)
    assert told(tmp_path).comparison.startswith("10.0 points above 41 states trained from scratch")


def test_a_scratch_run_of_another_size_is_no_control(sample, tmp_path):
    sample.run(tmp_path / "a", final=8)
    sample.run(tmp_path / "b", arm="scratch", initial=16)
    assert "scratch" not in told(tmp_path).text


def test_without_a_compressed_arm_it_names_the_best(sample, tmp_path):
    sample.run(tmp_path / "a", arm="full", accuracy=0.91)
    sample.run(tmp_path / "b", arm="scratch", initial=8, accuracy=0.7)
    assert told(tmp_path).text == "full: 256 states, 91.0 % test accuracy"


def test_another_method_that_cuts_is_named(sample, tmp_path):
    sample.run(tmp_path / "a", arm="random", final=8, accuracy=0.7)
    sample.run(tmp_path / "b", arm="full", accuracy=0.9)
    assert told(tmp_path).text.startswith("random: 8 states, 70.0 % test accuracy — 20.0 points below")


def test_without_a_test_result_it_says_so_and_how_far_the_run_came(sample, tmp_path):
    folder = sample.run(tmp_path / "a", final=8, stopped_at=900)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "validation"][-1]
    story = told(tmp_path)
    assert story.finding == "8 states, no test result yet"
    expected = f"So far: {100 * last['accuracy']:.1f} % validation accuracy at step 875 (compressm, seed 0)."
    assert story.basis == expected


def test_several_layers_are_counted_per_layer(sample, tmp_path):
    sample.comparison(tmp_path, seeds=1, layers=6)
    assert told(tmp_path).text.startswith("8 states per layer, 86.1 % test accuracy — 12.3 points above")
    assert "the full model (6 × 256 states)" in told(tmp_path).text


def test_sizes_that_differ_between_seeds_are_averaged(sample, tmp_path):
    rank = {"rank": {"kind": "energy", "tolerance": 0.02}}
    sample.run(tmp_path / "a", final=27, seed=0, compression=rank)
    sample.run(tmp_path / "b", final=30, seed=1, compression=rank)
    assert told(tmp_path).finding == "28.5 states on average, 86.1 % test accuracy"


def test_a_task_without_accuracy_is_told_in_loss(sample, tmp_path):
    for name, arm, initial, final, loss in (
        ("a", "compressm", 256, 8, 1.673), ("b", "scratch", 8, 8, 1.678), ("c", "full", 256, 256, 1.662)
    ):  # fmt: skip
        folder = sample.run(tmp_path / name, arm=arm, initial=initial, final=final)
        sample.lines(
            folder / "metrics.jsonl", [{"kind": "test", "step": 2000, "loss": loss, "states": [final]}]
        )
    assert told(tmp_path).text == (
        "8 states, test loss 1.673 — 0.005 below the same size trained from scratch, "
        "0.011 above the full model (256 states)"
    )


def test_no_runs_is_an_error():
    with pytest.raises(ValueError, match="no runs to report"):
        headline([])
