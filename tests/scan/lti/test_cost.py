"""The cost model: its constants, where they come from, and what follows from them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from compressm.scan import calibrate
from compressm.scan.lti import calibration, constants, cost
from compressm.scan.lti.cost import Shape


@pytest.fixture(autouse=True)
def own_constants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPRESSM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(constants, "_current", None)


def test_few_channels_and_many_states_are_a_convolution() -> None:
    sequential_mnist = Shape(50, 784, 8, 8, 256)
    assert cost.choose_form(sequential_mnist, training=True, threads=2) == "convolution"


@pytest.mark.parametrize(
    "shape", [Shape(50, 784, 8, 8, 8), Shape(32, 784, 64, 64, 128), Shape(4, 1024, 512, 512, 384)], ids=str
)
def test_few_states_or_many_channels_are_a_scan(shape: Shape) -> None:
    assert cost.choose_form(shape, training=True, threads=2) == "scan"


@pytest.mark.parametrize("form", ["scan", "convolution"])
@pytest.mark.parametrize("training", [True, False])
def test_more_work_never_costs_less(form: str, training: bool) -> None:
    small = Shape(2, 64, 4, 4, 8)
    base = cost.seconds(form, small, training=training, threads=1)
    for name in Shape._fields:
        larger = small._replace(**{name: 8 * getattr(small, name)})
        assert cost.seconds(form, larger, training=training, threads=1) > base, name
    assert cost.seconds(form, small, training=training, threads=2) < base


@pytest.mark.parametrize(("form", "count"), [("scan", 6), ("convolution", 7)])
def test_a_fit_finds_the_constants_that_made_the_times(form: str, count: int) -> None:
    generator = np.random.default_rng(0)
    true = 10.0 ** generator.uniform(-11, -8, count)
    true[0], true[2] = 1e-4, 0.0
    work = np.array([cost.counts(form, shape, True) for shape in calibration.SHAPES])
    work[:, 1:] /= torch.get_num_threads()
    found = calibration.fit(form, calibration.SHAPES, work @ true, True)
    np.testing.assert_allclose(work @ np.array(found), work @ true, rtol=0.02)


def test_calibration_is_used_at_once_and_by_later_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured = {"scan": 3.0, "convolution": 5.0}
    monkeypatch.setattr(calibration, "measure", lambda form, shape, **_: measured[form] * shape.L)
    found = calibrate(shapes=calibration.SHAPES[:20])
    assert constants.current() == found
    assert json.loads((tmp_path / "lti_scan-2.json").read_text()) == found
    monkeypatch.setattr(constants, "_current", None)
    assert constants.current() == found


def test_a_measurement_runs_the_form_it_is_asked_for() -> None:
    assert calibration.measure("scan", Shape(1, 3, 2, 2, 2), training=True, repeats=1) > 0
    assert calibration.measure("convolution", Shape(1, 3, 2, 2, 2), training=False, repeats=1) > 0


@pytest.mark.parametrize("text", ["{", "[]", '{"scan/training": [1]}'])
def test_a_damaged_file_is_named_with_the_remedy(text: str, tmp_path: Path) -> None:
    (tmp_path / "lti_scan-2.json").write_text(text)
    with pytest.raises(ValueError, match=r"lti_scan-2\.json does not hold constants .* delete it"):
        constants.current()


def test_constants_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lti_scan-2.json").write_text(json.dumps({name: [1.0] for name in constants.SHIPPED}))
    with pytest.raises(ValueError, match="another version's cost model; delete it"):
        constants.current()


def test_without_a_file_the_shipped_constants_hold() -> None:
    assert constants.current() == constants.SHIPPED
    assert all(value >= 0 for values in constants.SHIPPED.values() for value in values)
