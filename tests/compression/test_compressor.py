"""Cuts in training: the model gets smaller, and everything that refers to it goes on."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import compressm
from compressm.compression import Cut
from compressm.models import SequenceClassifier


def make(states: int = 24, dtype: torch.dtype = torch.float32) -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(1, 3, num_layers=2, model_dim=4, state_dim=states, dropout=0.0).to(dtype)


def batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(8, 20, 1, generator=generator, dtype=dtype), torch.arange(8) % 3


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    inputs, targets = batch(next(model.parameters()).dtype)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss


OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-2),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1e-3, amsgrad=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-3),
    "fused": lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("treatment", ["transport", "reset", "slice"])
@pytest.mark.parametrize("realization", ["real", "complex"])
def test_training_goes_on_through_all_cuts(name: str, treatment: str, realization: str) -> None:
    model = make()
    optimizer = OPTIMIZERS[name](compressm.parameter_groups(model, lr=0.02, ssm_lr_factor=0.5))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)
    compressor = compressm.Compressor(
        model,
        optimizer,
        rank=compressm.FixedRank(5),
        schedule=compressm.Schedule(total_steps=40, stop=0.2, cuts=4),
        realization=realization,  # type: ignore[arg-type]
        optimizer_state=treatment,  # type: ignore[arg-type]
    )
    objects = list(model.parameters())
    groups = [list(group["params"]) for group in optimizer.param_groups]
    for step in range(1, 13):
        loss = train_step(model, optimizer)  # kept alive over the cut, as a user's loop does
        scheduler.step()
        record = compressor.step()
        assert (record is not None) == (step in (2, 4, 6, 8))
        # The same objects in the same groups, all live, the schedule of learning rates untouched.
        assert all(a is b for a, b in zip(objects, model.parameters(), strict=True))
        for before, group in zip(groups, optimizer.param_groups, strict=True):
            assert all(a is b for a, b in zip(before, group["params"], strict=True))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * 0.9**step)
        assert torch.isfinite(loss)
        for parameter, state in optimizer.state.items():
            shapes = {v.shape for v in state.values() if isinstance(v, torch.Tensor) and v.dim() > 0}
            assert shapes <= {parameter.shape}
    assert model.state_dims == [5, 5]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train_step(model, optimizer)
    for old, (parameter_name, new) in zip(before, model.named_parameters(), strict=True):
        assert not torch.equal(old, new), f"{parameter_name} no longer learns"
    # What a checkpoint holds fits a fresh optimiser.
    again = OPTIMIZERS[name](compressm.parameter_groups(model, lr=1e-3))
    again.load_state_dict(optimizer.state_dict())


def test_gradient_of_the_old_shape_is_dropped_under_accumulation() -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    compressor = compressm.Compressor(
        model,
        optimizer,
        rank=compressm.FixedRank(4),
        schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
    )
    inputs, targets = batch()
    F.cross_entropy(model(inputs), targets).backward()
    compressor.step()
    assert model.blocks[0].mixer.B.grad is None
    assert model.head.weight.grad is not None
    F.cross_entropy(model(inputs), targets).backward()
    assert model.blocks[0].mixer.B.grad.shape == (2, 4, 4)


def test_records_say_what_was_done() -> None:
    model = make(states=16)
    compressor = compressm.Compressor(
        model,
        rank=compressm.EnergyRank(tolerance=0.3),
        schedule=compressm.Schedule(total_steps=10, stop=1.0, cuts=2),
        reduction="balanced",
    )
    hsv = compressm.inspect(model)[0].hankel_singular_values
    records = [compressor.step() for _ in range(10)]
    assert [r is not None for r in records] == [False] * 4 + [True] + [False] * 4 + [True]
    first = records[4]
    assert first is not None
    assert (first.step, first.attempt, first.attempts) == (5, 1, 2)
    assert first.seconds > 0
    layer = first.layers[0]
    assert layer.name == "blocks.0.mixer"
    assert (layer.old, layer.new) == (
        16,
        model.blocks[0].mixer.state_dim if not records[9].changed else layer.new,
    )
    assert layer.new < 16
    assert layer.hankel_singular_values == pytest.approx(hsv.tolist())
    assert layer.error_bound is not None
    assert 0 < layer.error <= layer.error_bound * (1 + 1e-6)
    assert Cut.from_dict(json.loads(json.dumps(first.to_dict()))) == first
    assert compressor.records == [r for r in records if r is not None]


def test_an_attempt_that_changes_nothing_is_recorded_too() -> None:
    model = make(states=6)
    before = copy.deepcopy(model.state_dict())
    compressor = compressm.Compressor(
        model,
        rank=compressm.EnergyRank(tolerance=0.0),
        schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
        reduction="balanced",
    )
    record = compressor.step()
    assert record is not None
    assert not record.changed
    assert all((layer.old, layer.new, layer.error) == (6, 6, 0.0) for layer in record.layers)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("damage", ["nan", "unstable"])
def test_a_failed_cut_changes_nothing_and_names_the_layer(damage: str) -> None:
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train_step(model, optimizer)
    with torch.no_grad():
        if damage == "nan":
            model.blocks[1].mixer.C[0, 0, 0] = float("nan")
        else:
            model.blocks[1].mixer.nu[3] = -800.0  # exp(-exp(nu)) is 1 in double precision
    before = copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(optimizer.state_dict())
    compressor = compressm.Compressor(
        model,
        optimizer,
        rank=compressm.FixedRank(4),
        schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
        reduction="balanced",
    )
    with pytest.raises(ValueError, match=r"layer 'blocks.1.mixer'"):
        compressor.step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor) or damage == "nan"
        assert before[name].shape == tensor.shape
    after = optimizer.state_dict()
    for index, state in moments["state"].items():
        assert all(torch.equal(value, after["state"][index][key]) for key, value in state.items())


def test_state_dict_goes_on_where_it_was_taken() -> None:
    def fresh(model: SequenceClassifier) -> compressm.Compressor:
        return compressm.Compressor(
            model,
            rank=compressm.FixedRank(3),
            schedule=compressm.Schedule(total_steps=6, stop=1.0, cuts=3),
            reduction="balanced",
        )

    model = make(states=12)
    compressor = fresh(model)
    for _ in range(3):
        compressor.step()
    state = json.loads(json.dumps(compressor.state_dict()))
    saved = copy.deepcopy(model)
    twin = fresh(saved)
    twin.load_state_dict(state)
    for _ in range(3):
        one, two = compressor.step(), twin.step()
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            assert one.layers == two.layers
    assert saved.state_dims == model.state_dims == [3, 3]
    assert [record.attempt for record in twin.records] == [1, 2, 3]

    with pytest.raises(ValueError, match=r"has 12 states, but had 8 when"):
        fresh(make(states=12)).load_state_dict(state)
    with pytest.raises(ValueError, match="lacks guard, records, schedule, signals, tracker"):
        twin.load_state_dict({"step": 1, "initial_state_dims": {}})
    with pytest.raises(ValueError, match="is of layers"):
        twin.load_state_dict({**state, "initial_state_dims": {"other": 3}})


def test_bad_arguments_are_refused() -> None:
    model = make()
    schedule = compressm.Schedule(total_steps=40)
    rank = compressm.FixedRank(4)
    with pytest.raises(ValueError, match="realization is 'imaginary'; choose one of real, complex"):
        compressm.Compressor(model, rank=rank, schedule=schedule, realization="imaginary")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="optimizer_state is 'keep'; choose one of transport, reset, slice"):
        compressm.Compressor(model, rank=rank, schedule=schedule, optimizer_state="keep")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rank is 99, but layer 'blocks.0.mixer' has only 24"):
        compressm.Compressor(model, rank=compressm.FixedRank(99), schedule=schedule)
    with pytest.raises(TypeError, match=r"rank is 4; give a rule, such as compressm\.FixedRank\(12\)"):
        compressm.Compressor(model, rank=4, schedule=schedule)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rank is 4; give a rule"):
        compressm.compress(model, rank=4)  # type: ignore[arg-type]
    forgetful = torch.optim.SGD([p for p in model.parameters() if p is not model.blocks[1].mixer.nu], lr=0.1)
    with pytest.raises(ValueError, match=r"parameter 'nu' of layer 'blocks.1.mixer' is in none"):
        compressm.Compressor(model, forgetful, rank=rank, schedule=schedule)
    model.blocks[1].mixer.nu.requires_grad_(False)
    compressm.Compressor(model, forgetful, rank=rank, schedule=schedule)


def test_compress_needs_no_optimiser_and_keeps_the_function_of_unused_states() -> None:
    model = make(states=10).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.mixer.B[:, 4:] = 0.0
    inputs, _ = batch()
    before = model(inputs)
    assert compressm.compress(model, rank=compressm.FixedRank(4)) is model
    assert model.state_dims == [4, 4]
    assert torch.allclose(model(inputs), before, atol=1e-5)


def test_inspect_tells_what_a_tolerance_would_keep() -> None:
    model = make(states=20)
    (layer, _) = compressm.inspect(model, tolerances=(0.0, 0.05, 0.5))
    assert layer.energy[-1].item() == pytest.approx(1.0)
    assert layer.kept[0.0] == 20
    assert 1 <= layer.kept[0.5] <= layer.kept[0.05] <= 20
    compressm.compress(model, rank=compressm.EnergyRank(tolerance=0.5, threshold=1.0))
    assert model.state_dims[0] == layer.kept[0.5]


def test_parameter_groups_put_the_dynamics_apart() -> None:
    model = make()
    main, ssm = compressm.parameter_groups(model, lr=1e-3, ssm_lr_factor=0.25, weight_decay=0.05)
    names = {id(parameter): name.split(".")[-1] for name, parameter in model.named_parameters()}
    assert (main["lr"], main["weight_decay"]) == (1e-3, 0.05)
    assert (ssm["lr"], ssm["weight_decay"]) == (2.5e-4, 0.0)
    assert [names[id(p)] for p in ssm["params"]] == ["nu", "theta", "gamma_log", "B"] * 2
    assert {names[id(p)] for p in main["params"]} == {"weight", "bias", "C", "D"}
    assert len(main["params"]) + len(ssm["params"]) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="weight_decay is -1"):
        compressm.parameter_groups(model, lr=1e-3, weight_decay=-1)
