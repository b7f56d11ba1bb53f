"""Mamba-2: what it keeps, what a cut changes and what it leaves, ours and other libraries'."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compressm
from compressm.adapters import Mamba2Adapter, Weighting, find_layers
from compressm.adapters.mamba2_structure import gradients_by_states, is_mamba2, recurrence, signals, sizes
from compressm.layers import Mamba, Mamba2

H, N = 6, 5
ADAPTER = Mamba2Adapter()
UNUSED = {0: (1, 4), 1: (0, 3)}  # states of each group that nothing makes


def layer(groups: int = 2) -> Mamba2:
    torch.manual_seed(0)
    return Mamba2(H, N, head_dim=3, num_groups=groups, bias=True).double()


def silence(module: Any) -> None:
    """Let no input make the states of UNUSED: their rows, biases and filters' biases are zero."""
    size = sizes(module)
    with torch.no_grad():
        for group, states in UNUSED.items():
            for part in range(2):
                for state in states:
                    row = (part * size.groups + group) * size.states + state
                    module.in_proj.weight[2 * size.inner + row] = 0.0
                    module.in_proj.bias[2 * size.inner + row] = 0.0
                    module.conv1d.bias[size.inner + row] = 0.0


def inputs(batch: int = 3, length: int = 20) -> Tensor:
    return torch.randn(batch, length, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def cut(module: nn.Module, reduction: Any) -> None:
    updates = ADAPTER.write_back(module, reduction)
    for name, update in updates.items():
        owner, _, last = name.rpartition(".")
        parameter = getattr(module.get_submodule(owner), last)
        parameter.data = update.value.to(parameter.dtype)
        parameter.grad = None
    ADAPTER.refresh(module)


def weighting(module: Any, u: Tensor) -> Weighting:
    y = module(u)[0]
    return Weighting(inputs=[u], gradients=[torch.randn_like(y)])


@pytest.mark.parametrize("criterion", ["energy", "qr", "magnitude"])
def test_unused_states_go_first_and_nothing_changes(criterion: Any) -> None:
    module, u = layer(), inputs()
    silence(module)
    ranked = ADAPTER.select(module, criterion, weighting(module, u))
    assert (ranked.hankel_singular_values[:3] > 0).all()
    assert (ranked.hankel_singular_values[3:].abs() < 1e-12).all()
    before, last = module(u)
    reduction = ranked.truncate(3)
    assert reduction.indices.tolist() == [[0, 2, 3], [1, 2, 4]]
    cut(module, reduction)
    assert ADAPTER.state_dim(module) == module.state_dim == 3
    torch.testing.assert_close(module(u)[0], before, rtol=0.0, atol=1e-12)
    kept = reduction.indices.repeat_interleave(module.num_heads // 2, dim=0)
    memory = Mamba2.split_state(layer(), last)[1].gather(2, kept[None, :, :, None].expand(3, -1, -1, 3))
    torch.testing.assert_close(module.split_state(module(u)[1])[1], memory, rtol=0.0, atol=1e-12)


def test_energies_alone_rank_by_what_reaches_the_outputs() -> None:
    module, u = layer(groups=1), inputs()
    ranked: Any = ADAPTER.select(module, "energy", Weighting(inputs=[u]))
    found = signals(module, u)
    added = []
    with torch.no_grad():
        for n in range(N):
            alone = torch.zeros_like(found.C)
            alone[..., n] = found.C[..., n]
            added.append(recurrence(module, found._replace(C=alone)).outputs().norm())
    order = torch.stack(added).argsort(descending=True)
    assert ranked.indices.tolist() == [order.tolist()]


def test_operands_and_gradients_are_the_layers() -> None:
    module, u = layer(), inputs()
    g = torch.randn(u.shape, dtype=torch.float64)
    seen: list[Tensor] = []

    def at_norm(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0])
        arguments[0].retain_grad()

    handle = module.norm.register_forward_pre_hook(at_norm)
    (module(u)[0] * g).sum().backward()
    handle.remove()
    with torch.no_grad():
        found = signals(module, u)
        run = recurrence(module, found)
        y = (run.outputs() + module.D[:, None] * found.x).flatten(-2)
        torch.testing.assert_close(y, seen[0], rtol=1e-10, atol=1e-12)
        by_states = gradients_by_states(module, found, run, g)
    torch.testing.assert_close(by_states.flatten(-2), seen[0].grad, rtol=1e-10, atol=1e-12)


def test_moments_are_those_of_a_fresh_gradient() -> None:
    module, u = layer(), inputs()
    silence(module)
    target = torch.randn(u.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def gradients(of: Mamba2) -> dict[str, Tensor]:
        ((of(u)[0] - target) ** 2).sum().backward()
        return {name: p.grad for name, p in of.named_parameters() if p.grad is not None}

    before = gradients(module)
    ranked = ADAPTER.select(module, "magnitude", Weighting())
    for order in (N, 3):  # all of them, and all that are used
        smaller = copy.deepcopy(module)
        reduction: Any = ranked.truncate(order)
        updates = ADAPTER.write_back(smaller, reduction)
        cut(smaller, reduction)
        after = gradients(smaller)
        for name, update in updates.items():
            assert update.first_moment is not None
            assert update.second_moment is not None
            torch.testing.assert_close(update.first_moment(before[name]), after[name], rtol=1e-9, atol=1e-10)
            squares = update.second_moment(before[name] ** 2)
            torch.testing.assert_close(squares, after[name] ** 2, rtol=1e-9, atol=1e-10)


def test_step_goes_on_as_parallel_after_a_cut() -> None:
    module, u = layer(), inputs()
    cut(module, ADAPTER.select(module, "qr", Weighting(inputs=[u])).truncate(2))
    whole, last = module(u)
    state, outputs = None, []
    for k in range(u.shape[1]):
        y, state = module.step(u[:, k], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state, last, rtol=1e-9, atol=1e-11)


def test_chance_is_the_generators_and_each_groups_own() -> None:
    def drawn(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        ranked: Any = ADAPTER.select(layer(), "random", Weighting(), generator)
        return ranked.indices.tolist()

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1)[0] != drawn(1)[1]


def test_what_it_cannot_do_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="knows no criterion 'loudness'"):
        ADAPTER.select(layer(), "loudness", Weighting())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs recorded inputs"):
        ADAPTER.select(layer(), "energy", Weighting())
    with pytest.raises(TypeError, match="takes a selection of its states, not a dict"):
        ADAPTER.write_back(layer(), {})  # type: ignore[arg-type]
    found = find_layers(layer())[0]
    with pytest.raises(ValueError, match="a Mamba2 cannot be balanced: B and C pass a convolution and SiLU"):
        found.balance("real", Weighting())


class StockMamba2(nn.Module):
    """``mamba_ssm.Mamba2`` by its attributes, its forward written out; ``d_mlp`` channels stand beside it."""

    def __init__(self, d_mlp: int = 0) -> None:
        super().__init__()
        self.d_model, self.d_state, self.ngroups, self.nheads, self.headdim = H, N, 2, 4, 3
        self.d_ssm = self.nheads * self.headdim
        self.d_inner, self.dt_limit, self.act = self.d_ssm + d_mlp, (0.0, float("inf")), nn.SiLU()
        channels = self.d_ssm + 2 * self.ngroups * self.d_state
        self.in_proj = nn.Linear(H, 2 * d_mlp + self.d_ssm + channels + self.nheads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, 4, groups=channels, padding=3)
        self.dt_bias, self.A_log = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))
        self.D = nn.Parameter(torch.randn(4))
        self.norm = nn.RMSNorm(self.d_ssm)
        self.norm.forward = lambda x, z: nn.RMSNorm.forward(self.norm, x * F.silu(z))  # type: ignore[method-assign]
        self.out_proj = nn.Linear(self.d_inner, H, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        beside, wide = self.d_inner - self.d_ssm, self.ngroups * self.d_state
        z0, x0, z, xBC, dt = self.in_proj(u).split(
            [beside, beside, self.d_ssm, self.d_ssm + 2 * wide, self.nheads], dim=-1
        )
        xBC = self.act(self.conv1d(xBC.mT)[..., : u.shape[1]].mT)
        x, B, C = xBC.split([self.d_ssm, wide, wide], dim=-1)
        x = x.unflatten(-1, (self.nheads, self.headdim))
        B, C = (M.unflatten(-1, (self.ngroups, -1)).repeat_interleave(2, dim=2) for M in (B, C))
        delta, y = F.softplus(dt + self.dt_bias), []
        S = u.new_zeros(len(u), self.nheads, self.d_state, self.headdim)
        for t in range(u.shape[1]):
            S = torch.exp(-delta[:, t] * self.A_log.exp())[..., None, None] * S
            S = S + torch.einsum("bhn,bh,bhp->bhnp", B[:, t], delta[:, t], x[:, t])
            y.append(torch.einsum("bhnp,bhn->bhp", S, C[:, t]) + self.D[:, None] * x[:, t])
        y = self.norm(torch.stack(y, dim=1).flatten(-2), z)
        return self.out_proj(torch.cat([F.silu(z0) * x0, y], dim=-1))


@pytest.mark.parametrize("beside", [0, 7])
@pytest.mark.parametrize("criterion", ["energy", "qr"])
def test_the_stock_layer_is_known_by_structure(criterion: str, beside: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(StockMamba2(beside)).double()
    silence_stock(model[0], beside)
    u = inputs()
    before = model(u)
    assert [(found.kind, found.state_dim) for found in find_layers(model)] == [("StockMamba2", N)]
    compressm.compress(
        model, rank=compressm.FixedRank(3), calibration=[(u, u)], loss=F.mse_loss, reduction=criterion
    )
    stock = model[0]
    assert (stock.d_state, stock.conv1d.groups, stock.in_proj.out_features) == (3, 24, 2 * beside + 40)
    assert stock.d_ssm == 12
    torch.testing.assert_close(model(u), before, rtol=0.0, atol=1e-10)


def silence_stock(module: Any, beside: int) -> None:
    with torch.no_grad():
        for group, states in UNUSED.items():
            for part in range(2):
                for state in states:
                    row = (part * 2 + group) * N + state
                    module.in_proj.weight[2 * beside + 24 + row] = 0.0
                    module.conv1d.bias[12 + row] = 0.0


def test_other_layers_are_not_taken_for_it() -> None:
    assert is_mamba2(StockMamba2())
    assert not is_mamba2(Mamba(H, N))
    assert not is_mamba2(nn.Linear(2, 2))
    learned = StockMamba2()
    learned.init_states = nn.Parameter(torch.zeros(4, 3, N))
    assert not is_mamba2(learned)
    odd = StockMamba2()
    odd.ngroups = 3
    assert not is_mamba2(odd)
