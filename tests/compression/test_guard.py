"""A cut that hurts is taken back, bit by bit; everything goes on as if it had never been."""

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import compressm
from compressm.compression import Cut
from compressm.compression.guard import Rollback
from compressm.models import SequenceClassifier

STEPS = 24
SCHEDULE = compressm.Schedule(total_steps=STEPS, start=0.0, stop=0.5, cuts=2)  # after steps 6 and 12


class Data:
    """Batches whose position is its state."""

    def __init__(self) -> None:
        self.position = 0

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.position)
        self.position += 1
        return torch.randn(4, 7, 2, generator=generator), torch.randint(3, (4,), generator=generator)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Run:
    """A training with dropout, batch norm, momenta, a scheduler and a loop counter of its own."""

    def __init__(self, *, cuts: bool, guard: Rollback | None = None, name: str = "adamw") -> None:
        torch.manual_seed(0)
        self.model = SequenceClassifier(2, 3, num_layers=2, model_dim=4, state_dim=8, dropout=0.2)
        groups = compressm.parameter_groups(self.model, lr=1e-2)
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(groups) if name == "adamw" else torch.optim.SGD(groups, momentum=0.9)
        )
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.9)
        self.data = Data()
        self.records: list[Cut] = []
        self.compressor = None
        if cuts:
            self.compressor = compressm.Compressor(
                self.model,
                self.optimizer,
                rank=compressm.FixedRank(2),
                schedule=SCHEDULE,
                guard=guard,
                stateful={"scheduler": self.scheduler, "data": self.data},
            )

    def step(self, metric: float | None = None) -> Cut | None:
        inputs, targets = self.data.draw()
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(inputs), targets).backward()
        self.optimizer.step()
        self.scheduler.step()
        record = None if self.compressor is None else self.compressor.step(metric)
        if record is not None:
            self.records.append(record)
        return record


def same(one: Run, two: Run) -> None:
    """Every number of two runs is the same, and so is every number to come."""
    for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(
        one.optimizer.state_dict()["state"].values(),
        two.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert a.keys() == b.keys()
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
    assert one.scheduler.state_dict() == two.scheduler.state_dict()
    assert one.data.position == two.data.position


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_after_a_rollback_all_goes_on_as_if_there_had_been_no_cut(name: str) -> None:
    guard = Rollback(tolerance=0.0, patience=3, retries=0)
    cut = Run(cuts=True, guard=guard, name=name)
    # The metric falls with every call: both cuts are bad, the last one too.
    for call in range(30):
        cut.step(metric=-float(call))
    assert cut.compressor is not None
    assert cut.compressor.steps_done == STEPS
    random_numbers = torch.rand(3)
    plain = Run(cuts=False, name=name)
    for _ in range(STEPS):
        plain.step()
    same(cut, plain)
    assert torch.equal(random_numbers, torch.rand(3))
    verdicts = [(record.attempt, record.verdict) for record in cut.compressor.records]
    assert verdicts == [(1, "undone"), (1, ""), (2, "undone"), (2, "")]
    undone = [record.undid for record in cut.compressor.records if record.undid is not None]
    assert [u.step for u in undone] == [9, 15]
    assert undone[0].sizes == {"blocks.0.mixer": 4, "blocks.1.mixer": 4}
    assert "worse by more than 0" in undone[0].reason
    assert not cut.records[1].changed


def test_a_good_metric_keeps_the_cuts() -> None:
    run = Run(cuts=True, guard=Rollback(patience=3))
    for _ in range(STEPS):
        run.step(metric=1.0)
    assert run.compressor is not None
    assert run.model.state_dims == [2, 2]
    assert [record.verdict for record in run.compressor.records] == ["kept", "kept"]


def test_it_backs_off_before_it_gives_up() -> None:
    run = Run(cuts=True, guard=Rollback(tolerance=0.1, patience=3, retries=2))
    assert run.compressor is not None
    while run.compressor.steps_done < STEPS:
        # Good enough with 6 states or more.
        run.step(metric=float(min(run.model.state_dims) >= 6))
    sizes = [[layer.new for layer in record.layers] for record in run.compressor.records]
    verdicts = [record.verdict for record in run.compressor.records]
    # 8 -> 4 undone, 8 -> 6 kept; then 6 -> 2, 6 -> 4 and 6 -> 5 undone, and the attempt is given up.
    assert sizes == [[4, 4], [6, 6], [2, 2], [4, 4], [5, 5], [6, 6]]
    assert verdicts == ["undone", "kept", "undone", "undone", "undone", ""]
    assert run.model.state_dims == [6, 6]


def test_a_crash_between_cut_and_verdict_is_survived() -> None:
    guard = Rollback(tolerance=0.0, patience=4, retries=0)
    run = Run(cuts=True, guard=guard)
    for call in range(8):  # the cut came after step 6, its verdict comes at 10
        run.step(metric=-float(call))
    assert run.compressor is not None
    buffer = io.BytesIO()
    torch.save(
        {
            "states": run.model.state_dims,
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "scheduler": run.scheduler.state_dict(),
            "data": run.data.state_dict(),
            "compressor": run.compressor.state_dict(),
            "random": torch.get_rng_state(),
        },
        buffer,
    )
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    again = Run(cuts=True, guard=guard)
    compressm.compress(again.model, rank=compressm.FixedRank(saved["states"][0]), realization="complex")
    again.optimizer.state.clear()
    again.model.load_state_dict(saved["model"])
    again.optimizer.load_state_dict(saved["optimizer"])
    again.scheduler.load_state_dict(saved["scheduler"])
    again.data.load_state_dict(saved["data"])
    assert again.compressor is not None
    again.compressor.load_state_dict(saved["compressor"])
    torch.set_rng_state(saved["random"])
    for call in range(8, 30):
        again.step(metric=-float(call))
    plain = Run(cuts=False)
    for _ in range(again.compressor.steps_done):
        plain.step()
    same(again, plain)
    assert [record.verdict for record in again.compressor.records] == ["undone", "", "undone", ""]


def test_the_mean_of_the_window_decides_and_other_values_do_not() -> None:
    run = Run(cuts=True, guard=Rollback(mode="min", tolerance=0.5, patience=4, window=2))
    losses = iter([9, 9, 9, 9, 1.0, 2.0, 9, 9, 2.0, 1.9, *[1.0] * 30])
    for _ in range(STEPS):
        run.step(metric=next(losses))
    assert run.compressor is not None
    assert [record.verdict for record in run.compressor.records] == ["kept", "kept"]


def test_where_the_metric_is_wanted() -> None:
    run = Run(cuts=True, guard=Rollback(patience=3))
    assert run.compressor is not None
    wanted = []
    for step in range(1, STEPS + 1):
        if run.compressor.wants_metric:
            wanted.append(step)
            run.step(metric=1.0)
        else:
            run.step()
    assert wanted == [6, 9, 12, 15]
    forgetful = Run(cuts=True, guard=Rollback(patience=3))
    for _ in range(5):
        forgetful.step()
    with pytest.raises(RuntimeError, match="no metric to compare before the cut"):
        forgetful.step()
    assert forgetful.model.state_dims == [8, 8]


def test_a_metric_that_is_not_a_number_is_no_recovery() -> None:
    assert not Rollback(mode="max").allows(1.0, float("nan"))
    assert not Rollback(mode="min").allows(1.0, float("nan"))
    assert Rollback(mode="min", tolerance=0.0).allows(1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"mode": "best"}, "mode is 'best'; choose 'max' or 'min'"),
        ({"patience": 0}, "patience is 0"),
        ({"window": 0}, "window is 0"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rollback(**arguments)


def test_a_verdict_must_come_before_the_next_attempt_and_the_end() -> None:
    with pytest.raises(ValueError, match="after the next attempt at step 12; take a patience of at most 6"):
        Run(cuts=True, guard=Rollback(patience=7))
    late = compressm.Schedule(total_steps=STEPS, start=0.5, stop=1.0, cuts=1)
    model = SequenceClassifier(2, 3, num_layers=1, model_dim=4, state_dim=8)
    with pytest.raises(ValueError, match="after the end of training at step 24"):
        compressm.Compressor(model, rank=compressm.FixedRank(2), schedule=late, guard=Rollback(patience=1))
