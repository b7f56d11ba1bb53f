"""The experiment files of this repository: complete, and with the attempts that they advertise."""

from pathlib import Path

import pytest

from compressm.compression import AutoSchedule, Schedule
from compressm.experiments import make_cells, read_experiment

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))


def test_there_are_files() -> None:
    assert {"states.toml", "blocks.toml", "auto.toml", "auto-blocks.toml"} <= {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_cells_are_complete_and_every_attempt_has_its_step(file: Path) -> None:
    cells = make_cells(read_experiment(file))
    assert len({cell.folder for cell in cells}) == len(cells)
    for cell in cells:
        settings = cell.config.compression
        if not settings.cuts_at_all:
            continue
        schedule = settings.make_schedule(cell.config.steps)
        assert schedule.attempts == settings.cuts
        if isinstance(schedule, Schedule):
            possible = {step for step in range(cell.config.steps + 1) if schedule.possible(step)}
            assert len(possible) == settings.cuts
            assert max(possible) == round(settings.stop * cell.config.steps)
        else:
            assert isinstance(schedule, AutoSchedule)
        if settings.target is not None:
            # Before anything is learned no cut costs accuracy, and the deepest one would be taken.
            assert settings.schedule == "auto"
        if settings.rank is not None:
            assert settings.rank < cell.config.model.state_dim
