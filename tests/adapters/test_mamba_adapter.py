"""Our Mamba: what a cut keeps exactly, how moments move, and cuts in training."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compressm
from compressm.adapters import ParameterUpdate, Weighting, find_layers
from compressm.adapters.selective_signals import adjoint_moments, state_moments
from compressm.compression.optimizer_state import replace_value
from compressm.layers import Mamba
from compressm.lti import modal_truncation
from compressm.models import LanguageModel

N, UNREACHED, UNSEEN = 6, [1, 4], [0]
USED = [n for n in range(N) if n not in UNREACHED + UNSEEN]


def layer_of(*, equal_rates: bool = False) -> Mamba:
    torch.manual_seed(0)
    layer = Mamba(4, N, dt_min=0.1, dt_max=0.8).double()
    torch.nn.init.normal_(layer.A_log)
    if equal_rates:
        layer.A_log.data = layer.A_log.data[:, :1].repeat(1, N)
    return layer


def with_unused_states() -> Mamba:
    layer = layer_of()
    rank = layer.dt_rank
    layer.x_proj.weight.data[[rank + n for n in UNREACHED]] = 0.0
    layer.x_proj.weight.data[[rank + N + n for n in UNSEEN]] = 0.0
    return layer


def signals() -> Weighting:
    generator = torch.Generator().manual_seed(3)
    u, g = (torch.randn(3, 20, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    return Weighting("none", [u], [g])


def run(layer: Mamba) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs, and gradients of a fixed function of them."""
    seen = signals()
    layer.zero_grad()
    y, _ = layer(seen.inputs[0])
    (y * seen.gradients[0]).sum().backward()
    return y.detach(), {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}


def write(layer: Mamba, updates: Mapping[str, ParameterUpdate]) -> None:
    for name, update in updates.items():
        replace_value(layer.get_parameter(name), update.value)


def check_moves(
    updates: Mapping[str, ParameterUpdate], before: dict[str, Tensor], after: dict[str, Tensor]
) -> None:
    for name, update in updates.items():
        if update.first_moment is not None:
            scale = float(before[name].abs().max())
            assert torch.allclose(update.first_moment(before[name]), after[name], atol=1e-10 * scale), name


@pytest.mark.parametrize("kind", ["none", "states", "gradients"])
def test_without_the_states_that_are_never_reached_or_seen_nothing_changes(kind: str) -> None:
    layer = with_unused_states()
    (found,) = find_layers(layer)
    y, before = run(layer)
    seen = signals()
    balancing = found.balance("real", Weighting(kind, seen.inputs, seen.gradients))  # type: ignore[arg-type]
    assert int((balancing.hankel_singular_values > 1e-7).sum()) == len(USED)
    updates = found.adapter.write_back(layer, balancing.truncate(len(USED)))
    write(layer, updates)
    assert layer.state_dim == len(USED)
    y_after, after = run(layer)
    assert torch.allclose(y_after, y, atol=1e-10)
    check_moves(updates, before, after)


@pytest.mark.parametrize("order", [3, N - 1])
def test_where_rates_are_equal_a_change_of_basis_is_exact(order: int) -> None:
    layer = layer_of(equal_rates=True)
    rank = layer.dt_rank
    rows = slice(rank, rank + N)
    mixing = torch.randn(N, order, dtype=torch.float64)
    layer.x_proj.weight.data[rows] = mixing @ layer.x_proj.weight.data[rows][:order]
    (found,) = find_layers(layer)
    y, before = run(layer)
    reduction = found.balance("real", Weighting()).truncate(order)
    updates = found.adapter.write_back(layer, reduction)
    second = updates["x_proj.weight"].second_moment
    assert second is not None
    moved = second(torch.ones(rank + 2 * N, layer.inner_dim, dtype=torch.float64))
    # Rows of an orthonormal basis: squares sum to one, and time steps are untouched.
    assert torch.allclose(moved, torch.ones_like(moved))
    assert not torch.allclose(reduction.basis.abs().amax(dim=1), torch.ones(order, dtype=torch.float64))
    write(layer, updates)
    y_after, after = run(layer)
    assert torch.allclose(y_after, y, atol=1e-9)
    check_moves(updates, before, after)
    assert updates["A_log"].first_moment is None


@pytest.mark.parametrize("criterion", ["energy", "magnitude"])
def test_selection_drops_unused_states_and_all_moments_move(criterion: str) -> None:
    layer = with_unused_states()
    (found,) = find_layers(layer)
    y, before = run(layer)
    ranking = found.select(criterion, signals())  # type: ignore[arg-type]
    assert bool((ranking.hankel_singular_values[len(USED) :] == 0.0).all())
    reduction = ranking.truncate(len(USED))
    assert reduction.indices.tolist() == [USED]
    updates = found.adapter.write_back(layer, reduction)
    write(layer, updates)
    y_after, after = run(layer)
    assert torch.allclose(y_after, y, atol=1e-12)
    assert all(update.first_moment is not None for update in updates.values())
    check_moves(updates, before, after)
    for name, update in updates.items():
        assert torch.allclose(update.second_moment(before[name] ** 2), after[name] ** 2, atol=1e-9)  # type: ignore[misc]


def test_scores_are_joint_energies() -> None:
    layer, seen = layer_of(), signals()
    (found,) = find_layers(layer)
    p, q = state_moments(layer, seen.inputs), adjoint_moments(layer, seen.inputs, seen.gradients)
    expected = sum(p.energies[d] * q.energies[d] for d in range(8)).div(8).sqrt()  # type: ignore[union-attr]
    ranking = found.select("energy", seen)
    assert torch.allclose(ranking.scores[0], expected[ranking.indices[0]])
    rates, rank = layer.A_log.detach().exp(), layer.dt_rank
    B, C = layer.x_proj.weight.detach()[rank : rank + N], layer.x_proj.weight.detach()[rank + N :]
    energies = [B.square().sum(1) / (2 * a) * C.square().sum(1) / (2 * a) for a in rates]
    white = found.select("magnitude", Weighting())
    assert torch.allclose(white.scores[0], torch.stack(energies).mean(0).sqrt()[white.indices[0]])


def test_gradients_leave_room_for_what_the_parameters_tell() -> None:
    """By the definition of both Gramians; gradients that vanish, as where a loss is zero, leave the prior."""
    layer, seen = layer_of(), signals()
    (found,) = find_layers(layer)
    p, q = state_moments(layer, seen.inputs), adjoint_moments(layer, seen.inputs, seen.gradients)
    C = layer.x_proj.weight.detach()[layer.dt_rank + N :]
    rates = layer.A_log.detach().exp()
    prior = sum(C @ C.T / (a[:, None] + a) for a in rates)
    share = 0.1 * torch.trace(p.gramian @ q.gramian) / torch.trace(p.gramian @ prior)
    squares = torch.linalg.eigvals(p.gramian @ (q.gramian + share * prior)).real
    balancing = found.balance("real", Weighting("gradients", seen.inputs, seen.gradients))
    assert torch.allclose(balancing.hankel_singular_values.square(), squares.sort(descending=True).values)
    nothing = Weighting("gradients", seen.inputs, [torch.zeros_like(seen.gradients[0])])
    values = found.balance("real", nothing).hankel_singular_values
    expected = found.balance("real", Weighting("states", seen.inputs)).hankel_singular_values
    assert torch.allclose(values, expected)


def test_what_it_cannot_do_is_refused_with_the_remedy() -> None:
    layer = layer_of()
    (found,) = find_layers(layer)
    assert found.preferred_reductions == ("gradients", "states", "balanced")
    with pytest.raises(ValueError, match=r"'Mamba': .*'qr'; take 'energy', 'magnitude' or 'random'"):
        found.select("qr", Weighting())
    with pytest.raises(ValueError, match="take reduction='gradients'"):
        found.balance("real", Weighting("covariance"))
    with pytest.raises(ValueError, match="recorded inputs, and there are none"):
        found.balance("real", Weighting("states"))
    with pytest.raises(ValueError, match="not one linear time-invariant system"):
        found.system()
    lru = compressm.layers.LRU(2, 3)
    with pytest.raises(TypeError, match="a Mamba takes a SelectionReduction, not a Reduction"):
        found.adapter.write_back(layer, modal_truncation(find_layers(lru)[0].system(), 2))


def language_model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(11, num_layers=2, model_dim=8, state_dim=16, mixer="mamba")


@pytest.mark.parametrize("reduction", [None, "energy", "balanced"])
def test_a_language_model_is_cut_in_training_and_goes_on(reduction: str | None) -> None:
    model = language_model()
    parameters = list(model.parameters())
    groups = compressm.parameter_groups(model, lr=1e-2, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups)
    compressor = compressm.Compressor(
        model,
        optimizer,
        rank=compressm.FixedRank(4),
        schedule=compressm.Schedule(total_steps=16, stop=0.5, cuts=2),
        reduction=reduction,
    )
    tokens = torch.randint(11, (4, 13), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(16):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        compressor.step()
    cuts = [record for record in compressor.records if record.changed]
    assert model.state_dims == [4, 4]
    assert [layer.reduction for layer in cuts[-1].layers] == [reduction or "gradients"] * 2
    assert all(layer.error is None and layer.error_bound is None for layer in cuts[-1].layers)
    assert losses[-1] < losses[0]
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=True))
    for parameter, state in optimizer.state.items():
        assert all(v.shape == parameter.shape for v in state.values() if v.dim() > 0)
    model.eval()
    assert model.generate(tokens[:, :3], 5).shape == (4, 8)


def test_a_look_needs_no_data() -> None:
    looks = compressm.inspect(language_model())
    assert [look.state_dim for look in looks] == [16, 16]
    assert all(1 <= look.kept[0.1] <= 16 for look in looks)
