"""Linear attention: key channels that stay, in our layers and in flash-linear-attention's."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compressm
from compressm.adapters import AttentionAdapter, Weighting, find_layers
from compressm.adapters.attention_structure import gradients_by_states, recurrence
from compressm.layers import DeltaNet, GatedDeltaNet, GatedLinearAttention, RetNet
from compressm.scan.delta_rule import delta_rule_scan
from compressm.scan.ssd.reference import reference_scan

H, K, HEADS = 6, 5, 2
ADAPTER = AttentionAdapter()
UNUSED = {0: (1, 4), 1: (0, 3)}  # key channels of each head that nothing makes
OURS = [GatedLinearAttention, RetNet, DeltaNet, GatedDeltaNet]
INPUTS = torch.randn(3, 20, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def layer(kind: Callable[..., Any], eps: float = 1e-30) -> Any:
    """A layer whose norm adds as good as nothing: see the test of what it adds."""
    torch.manual_seed(0)
    module = kind(H, K, num_heads=HEADS, norm_eps=eps).double()
    silence(module, HEADS, HEADS)
    return module


def silence(module: Any, heads: int, groups: int) -> None:
    """Let nothing make the channels of UNUSED, of keys nor of the queries that share them."""
    states = module.q_proj.weight.shape[0] // heads
    with torch.no_grad():
        for projection, count in ((module.q_proj, heads), (module.k_proj, groups)):
            rows = projection.weight.view(groups, count // groups, states, -1)
            for group, unused in UNUSED.items():
                rows[group, :, list(unused)] = 0.0


def cut(module: nn.Module, reduction: Any) -> None:
    for name, update in ADAPTER.write_back(module, reduction).items():
        parameter = module.get_parameter(name)
        parameter.data, parameter.grad = update.value.to(parameter.dtype), None
    ADAPTER.refresh(module)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("criterion", ["energy", "qr", "magnitude"])
def test_unused_channels_go_first_and_nothing_changes(kind: Callable[..., Any], criterion: Any) -> None:
    module = layer(kind)
    before = module(INPUTS)[0]
    signals = Weighting(inputs=[INPUTS], gradients=[torch.randn_like(before)])
    ranked = ADAPTER.select(module, criterion, signals)
    assert (ranked.hankel_singular_values[:3] > 0).all()
    assert (ranked.hankel_singular_values[3:].abs() < 1e-12).all()
    reduction: Any = ranked.truncate(3)
    assert reduction.indices.tolist() == [[0, 2, 3], [1, 2, 4]]
    cut(module, reduction)
    assert ADAPTER.state_dim(module) == module.state_dim == 3
    torch.testing.assert_close(module(INPUTS)[0], before, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("kind", OURS)
def test_the_factor_is_made_up_for_or_divided_out_by_the_norm(kind: Callable[..., Any]) -> None:
    module = layer(kind, eps=1e-3)
    before = module(INPUTS)[0]
    cut(module, ADAPTER.select(module, "magnitude", Weighting()).truncate(3))
    if kind in (DeltaNet, GatedDeltaNet):
        assert not torch.allclose(module(INPUTS)[0], before, atol=1e-4)
        module.o_norm.eps *= K / 3
    torch.testing.assert_close(module(INPUTS)[0], before, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("kind", OURS)
def test_operands_and_gradients_are_the_layers(kind: Callable[..., Any]) -> None:
    module = layer(kind, eps=1e-3)
    norm = module.o_norm if hasattr(module, "o_norm") else module.g_norm_swish_gate
    seen: list[Tensor] = []

    def at_norm(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0])
        arguments[0].retain_grad()

    handle = norm.register_forward_pre_hook(at_norm)
    g = torch.randn(INPUTS.shape, dtype=torch.float64)
    (module(INPUTS)[0] * g).sum().backward()
    handle.remove()
    with torch.no_grad():
        run = recurrence(module, INPUTS)
        torch.testing.assert_close(run.outputs(), seen[0], rtol=1e-10, atol=1e-12)
        by_states = gradients_by_states(module, INPUTS, run, g)
    torch.testing.assert_close(by_states, seen[0].grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", OURS)
def test_moments_are_those_of_a_fresh_gradient(kind: Callable[..., Any]) -> None:
    module = layer(kind)
    target = torch.randn(INPUTS.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def gradients(of: Any) -> dict[str, Tensor]:
        ((of(INPUTS)[0] - target) ** 2).sum().backward()
        return {name: p.grad for name, p in of.named_parameters() if p.grad is not None}

    before = gradients(module)
    ranked = ADAPTER.select(module, "magnitude", Weighting())
    for order in (K, 3):  # all of them, and all that are used
        smaller = copy.deepcopy(module)
        reduction: Any = ranked.truncate(order)
        updates = ADAPTER.write_back(smaller, reduction)
        cut(smaller, reduction)
        after = gradients(smaller)
        for name, update in updates.items():
            assert update.first_moment is not None
            assert update.second_moment is not None
            torch.testing.assert_close(update.first_moment(before[name]), after[name], rtol=1e-8, atol=1e-10)
            squares = update.second_moment(before[name] ** 2)
            torch.testing.assert_close(squares, after[name] ** 2, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", OURS)
def test_step_goes_on_as_parallel_after_a_cut(kind: Callable[..., Any]) -> None:
    module = layer(kind)
    cut(module, ADAPTER.select(module, "qr", Weighting(inputs=[INPUTS])).truncate(2))
    whole, last = module(INPUTS)
    state, outputs = None, []
    for k in range(INPUTS.shape[1]):
        y, state = module.step(INPUTS[:, k], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-8, atol=1e-10)


def test_what_it_cannot_do_is_refused_with_the_reason() -> None:
    module = layer(DeltaNet)
    with pytest.raises(ValueError, match="knows no criterion 'loudness'"):
        ADAPTER.select(module, "loudness", Weighting())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs recorded inputs"):
        ADAPTER.select(module, "energy", Weighting())
    with pytest.raises(TypeError, match="DeltaNet takes a selection of its states, not a dict"):
        ADAPTER.write_back(module, {})
    with pytest.raises(ValueError, match="a DeltaNet cannot be balanced: every key channel has a gate"):
        find_layers(module)[0].balance("real", Weighting())


class ShortConvolution(nn.Conv1d):
    """flash-linear-attention's, by its attributes: SiLU is in it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 4, groups=channels, bias=False, padding=3)
        self.hidden_size, self.activation = channels, "silu"

    def forward(self, x: Tensor) -> Tensor:
        assert self.hidden_size == self.groups == x.shape[-1]
        return F.silu(super().forward(x.mT)[..., : x.shape[1]].mT)


class FlaGatedLinearAttention(nn.Module):
    """flash-linear-attention's ``GatedLinearAttention`` with shared keys, its forward written out."""

    def __init__(self, *, convolution: bool) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.num_kv_groups = 4, 2, 2
        self.key_dim, self.value_dim, self.head_k_dim, self.head_v_dim = 4 * K, 12, K, 3
        self.key_dim_per_group, self.gate_logit_normalizer, self.clamp_min = 2 * K, 4, -0.5
        self.use_short_conv, self.feature_map_fn = convolution, None
        self.q_proj = nn.Linear(H, self.key_dim, bias=False)
        self.k_proj = nn.Linear(H, self.key_dim_per_group, bias=False)
        self.v_proj, self.g_proj = nn.Linear(H, 6, bias=False), nn.Linear(H, 12, bias=False)
        if convolution:
            self.q_conv1d, self.k_conv1d = ShortConvolution(self.key_dim), ShortConvolution(2 * K)
            self.v_conv1d = ShortConvolution(6)
        self.gk_proj = nn.Sequential(nn.Linear(H, 2, bias=False), nn.Linear(2, self.key_dim_per_group))
        self.g_norm, self.gate_fn = nn.RMSNorm(3, eps=1e-30), nn.SiLU()
        self.o_proj = nn.Linear(12, H, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        q, k, v = self.q_proj(u), self.k_proj(u), self.v_proj(u)
        if self.use_short_conv:
            q, k, v = self.q_conv1d(q), self.k_conv1d(k), self.v_conv1d(v)
        q = q.unflatten(-1, (-1, self.head_k_dim))
        gates = self.gk_proj(u)
        assert gates.shape[-1] == self.key_dim_per_group == self.key_dim // self.num_kv_groups
        k, gates = (
            x.unflatten(-1, (-1, self.head_k_dim)).repeat_interleave(self.num_kv_groups, 2)
            for x in (k, gates)
        )
        v = v.unflatten(-1, (-1, self.head_v_dim)).repeat_interleave(self.num_kv_groups, 2)
        decay = (F.logsigmoid(gates) / self.gate_logit_normalizer).clamp_min(self.clamp_min)
        y, _ = reference_scan(q, k, v, decay, scale=q.shape[-1] ** -0.5)
        gate = self.gate_fn(self.g_proj(u).unflatten(-1, (-1, self.head_v_dim)))
        return self.o_proj((self.g_norm(y) * gate).flatten(-2))


class FlaDeltaNet(nn.Module):
    """``DeltaNet``, or ``GatedDeltaNet`` with twice as many heads of values, by attributes."""

    def __init__(self, *, gated: bool) -> None:
        super().__init__()
        self.num_heads, self.head_k_dim, self.head_v_dim, self.key_dim = 2, K, 3, 2 * K
        values, self.allow_neg_eigval = (4 if gated else 2), True
        self.value_dim = 3 * values
        if gated:
            self.head_dim, self.num_v_heads = K, values
            self.a_proj = nn.Linear(H, values, bias=False)
            self.A_log, self.dt_bias = nn.Parameter(torch.randn(values)), nn.Parameter(torch.randn(values))
            self.g_proj = nn.Linear(H, self.value_dim, bias=False)
        else:
            self.qk_activation, self.qk_norm = "silu", "l2"
        for part, size in (("q", self.key_dim), ("k", self.key_dim), ("v", self.value_dim)):
            setattr(self, f"{part}_proj", nn.Linear(H, size, bias=False))
            setattr(self, f"{part}_conv1d", ShortConvolution(size))
        self.b_proj = nn.Linear(H, values, bias=False)
        self.o_norm, self.o_proj = nn.RMSNorm(3, eps=1e-30), nn.Linear(self.value_dim, H, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        q, k, v = (getattr(self, f"{p}_conv1d")(getattr(self, f"{p}_proj")(u)) for p in "qkv")
        q, k = (x.unflatten(-1, (-1, self.head_k_dim)) for x in (q, k))
        v = v.unflatten(-1, (-1, self.head_v_dim))
        q, k = (x.repeat_interleave(v.shape[2] // self.num_heads, 2) for x in (q, k))
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
        decay = u.new_zeros(*v.shape[:3])
        if hasattr(self, "A_log"):
            assert self.head_dim == self.head_k_dim
            decay = -self.A_log.exp() * F.softplus(self.a_proj(u) + self.dt_bias)
        beta = 2 * self.b_proj(u).sigmoid()
        y = self.o_norm(delta_rule_scan(q, k, v, beta, decay, scale=q.shape[-1] ** -0.5)[0])
        if hasattr(self, "g_proj"):
            y = y * F.silu(self.g_proj(u).unflatten(-1, (-1, self.head_v_dim)))
        return self.o_proj(y.flatten(-2))


FOREIGN = [
    pytest.param(lambda: FlaGatedLinearAttention(convolution=False), id="gla"),
    pytest.param(lambda: FlaGatedLinearAttention(convolution=True), id="gla with convolutions"),
    pytest.param(lambda: FlaDeltaNet(gated=False), id="deltanet"),
    pytest.param(lambda: FlaDeltaNet(gated=True), id="gated deltanet"),
]


@pytest.mark.parametrize("make", FOREIGN)
@pytest.mark.parametrize("criterion", ["energy", "qr", "magnitude"])
def test_flash_linear_attentions_layers_are_known_by_structure(
    make: Callable[[], Any], criterion: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(make()).double()
    module: Any = model[0]
    silence(module, module.num_heads, 2)
    assert [found.state_dim for found in find_layers(model)] == [K]
    with torch.no_grad():
        operands = recurrence(module, INPUTS)
    assert operands.keys.shape[2] == operands.queries.shape[2] == operands.values.shape[2]
    before = model(INPUTS)
    compressm.compress(
        model,
        rank=compressm.FixedRank(3),
        calibration=[(INPUTS, INPUTS)],
        loss=F.mse_loss,
        reduction=criterion,
    )
    assert (module.head_k_dim, module.key_dim) == (3, 3 * module.num_heads)
    assert module.q_proj.out_features == 3 * module.num_heads
    torch.testing.assert_close(model(INPUTS), before, rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("make", FOREIGN)
def test_operands_of_foreign_layers_are_theirs(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    module = make().double()
    norm = module.o_norm if hasattr(module, "o_norm") else module.g_norm
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        module(INPUTS)
        torch.testing.assert_close(recurrence(module, INPUTS).outputs(), seen[0], rtol=1e-9, atol=1e-11)


def test_layers_that_cannot_lose_channels_alone_are_not_taken() -> None:
    rotated = FlaGatedLinearAttention(convolution=False)
    rotated.rotary = nn.Identity()
    other_norm = FlaDeltaNet(gated=False)
    other_norm.qk_norm = "sum"
    more = FlaDeltaNet(gated=True)
    more.extra = nn.Parameter(torch.zeros(3))
    for module in (rotated, other_norm, more):
        with pytest.raises(ValueError, match="has no layer that compressm knows"):
            find_layers(module)
