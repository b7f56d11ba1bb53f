"""RetNet: balanced truncation of keys, against singular value decompositions and plain loops."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import compressm
from compressm.adapters import RetNetAdapter, Weighting, find_layers
from compressm.adapters.key_balancing import KeyBalancing, KeyReduction
from compressm.adapters.weighting import WEIGHTINGS
from compressm.layers import RetNet

H, K, HEADS, RANK = 7, 5, 2, 3
ADAPTER = RetNetAdapter()
INPUTS = torch.randn(3, 16, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
INPUTS = INPUTS * torch.linspace(0.2, 3.0, H, dtype=torch.float64)


def layer(rank: int | None = None) -> RetNet:
    """A layer whose keys and queries have ``rank`` directions only, none of them an axis."""
    torch.manual_seed(0)
    module = RetNet(H, K, num_heads=HEADS, value_dim=4).double()
    if rank is not None:
        for projection in (module.q_proj, module.k_proj):
            left, right = torch.randn(HEADS, K, rank).double(), torch.randn(HEADS, rank, H).double()
            projection.weight.data = (left @ right).flatten(0, 1)
    return module


def known(module: RetNet, kind: Any) -> Weighting:
    gradients = torch.randn(INPUTS.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    del module
    return Weighting(kind, inputs=[INPUTS], gradients=[gradients])


def cut(module: RetNet, reduction: Any) -> RetNet:
    smaller = copy.deepcopy(module)
    for name, update in ADAPTER.write_back(module, reduction).items():
        smaller.get_parameter(name).data = update.value.double()
        smaller.get_parameter(name).grad = None
    ADAPTER.refresh(smaller)
    return smaller


def products(module: RetNet) -> Tensor:
    """All that outputs depend on: ``K^-1/2 W_q^T W_k`` of each head, ``(M, H, H)``."""
    q, k = (w.detach().reshape(HEADS, -1, H) for w in (module.q_proj.weight, module.k_proj.weight))
    return module.state_dim**-0.5 * q.mT @ k


@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_the_rank_of_keys_and_queries_is_enough(kind: str) -> None:
    module = layer(RANK)
    ranked = ADAPTER.balance(module, "real", known(module, kind))
    assert (ranked.hankel_singular_values[:RANK] > 1e-6).all()
    assert (ranked.hankel_singular_values[RANK:] < 1e-12 * ranked.hankel_singular_values[0]).all()
    smaller = cut(module, ranked.truncate(RANK))
    assert smaller.state_dim == RANK
    torch.testing.assert_close(smaller(INPUTS)[0], module(INPUTS)[0], rtol=0.0, atol=1e-10)
    rows = (w.detach().norm(dim=1) for w in (smaller.q_proj.weight, smaller.k_proj.weight))
    torch.testing.assert_close(*rows)
    more = ranked.truncate(K)
    assert more.order == RANK
    assert more.note == f"order {K} asked for: keys and queries have rank {RANK}"


@pytest.mark.parametrize("order", [1, 2, 4])
def test_without_data_no_smaller_layer_is_closer(order: int) -> None:
    module = layer()
    ranked = ADAPTER.balance(module, "real", Weighting())
    smaller = products(cut(module, ranked.truncate(order)))
    for head, M in enumerate(products(module).numpy()):
        U, sigma, Vh = np.linalg.svd(M)
        best = (U[:, :order] * sigma[:order]) @ Vh[:order]
        np.testing.assert_allclose(smaller[head], best, atol=1e-12)
        np.testing.assert_allclose(ranked.values[head], K**0.5 * sigma[:K], rtol=1e-10)


def gramians(module: RetNet, kind: str, head: int) -> tuple[Tensor, Tensor]:
    """``P`` and ``Q`` of a head step by step, adjoint states by autograd."""
    rows = slice(K * head, K * head + K)
    k, q = INPUTS @ module.k_proj.weight[rows].T, INPUTS @ module.q_proj.weight[rows].T
    v = (INPUTS @ module.v_proj.weight.T).reshape(3, 16, HEADS, 4)[:, :, head]
    decay, steps = 1 - 2.0 ** (-5 - head), 3 * 16
    S = torch.zeros(3, K, 4, dtype=torch.float64)
    states, outputs = [], []
    for t in range(16):
        S = decay * S + k[:, t, :, None] * v[:, t, None]
        S.retain_grad()
        states.append(S)
        outputs.append(K**-0.5 * (q[:, t, :, None] * S).sum(1))
    y = module.g_norm_swish_gate(torch.stack(outputs, 1))
    gate = (INPUTS @ module.g_proj.weight.T).reshape(3, 16, HEADS, 4)[:, :, head]
    out = (y * torch.nn.functional.silu(gate)) @ module.o_proj.weight[:, 4 * head : 4 * head + 4].T
    (out * known(module, "none").gradients[0]).sum().backward()
    visited = torch.stack([S.detach() for S in states])
    adjoint = torch.stack([S.grad for S in states if S.grad is not None])
    P = torch.einsum("tbkv,tbjv->kj", visited, visited) / (4 * steps)
    if kind == "covariance":
        P = torch.einsum("btk,btj->kj", k, k).detach() / steps
    if kind == "gradients":
        return P, torch.einsum("tbkv,tbjv->kj", adjoint, adjoint) / (4 * steps)
    return P, torch.einsum("btk,btj->kj", q, q).detach() / steps


@pytest.mark.parametrize("kind", ["states", "gradients", "covariance"])
def test_with_data_no_other_projection_loses_less(kind: str) -> None:
    module, order = layer(), 2
    ranked = ADAPTER.balance(module, "real", known(module, kind))
    reduction = ranked.truncate(order)
    generator = torch.Generator().manual_seed(0)
    for head in range(HEADS):
        P, Q = gramians(module, kind, head)
        squares = np.sort(np.linalg.eigvals(P.numpy() @ Q.numpy()).real)[::-1]
        np.testing.assert_allclose(ranked.values[head].square(), squares, rtol=1e-8)

        def loss(X: Tensor, Y: Tensor, P: Tensor = P, Q: Tensor = Q) -> float:
            rest = torch.eye(K) - X.mT @ Y
            return float(torch.trace(Q @ rest @ P @ rest.mT))

        X, Y = reduction.queries[head], reduction.keys[head]
        torch.testing.assert_close(Y @ X.mT, torch.eye(order, dtype=torch.float64), rtol=0, atol=1e-10)
        least = loss(X, Y)
        assert least == pytest.approx(squares[order:].sum(), rel=1e-8)
        for size in (1.0, 0.1, 0.01):
            for _ in range(50):
                noise = torch.randn(2, *X.shape, generator=generator, dtype=torch.float64)
                assert loss(X + size * noise[0] * X.norm(), Y + size * noise[1] * Y.norm()) > least


def test_moments_move_with_the_basis() -> None:
    module = layer()
    target = torch.randn(INPUTS.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def gradients(of: RetNet) -> dict[str, Tensor]:
        ((of(INPUTS)[0] - target) ** 2).sum().backward()
        return {name: p.grad for name, p in of.named_parameters() if p.grad is not None}

    before = gradients(module)
    ranked = ADAPTER.balance(module, "real", known(module, "states"))
    reduction = ranked.truncate(K)
    updates = ADAPTER.write_back(module, reduction)
    assert set(updates) == {"q_proj.weight", "k_proj.weight"}
    after = gradients(cut(module, reduction))
    for name, update in updates.items():
        assert update.first_moment is not None
        assert update.second_moment is not None
        torch.testing.assert_close(update.first_moment(before[name]), after[name], rtol=1e-9, atol=1e-10)
        # The variance of a linear map of independent entries: squares of its coefficients.
        units = torch.eye(HEADS * K, dtype=torch.float64)
        coefficients = update.first_moment(units)
        variance = before[name].square()
        expected = coefficients.square() @ variance
        torch.testing.assert_close(update.second_moment(variance), expected, rtol=1e-9, atol=0.0)


def test_heads_of_unequal_rank_share_a_size_and_can_go_on_learning() -> None:
    module = layer()
    with torch.no_grad():
        module.k_proj.weight[:K] = torch.outer(torch.arange(1.0, K + 1), torch.ones(H))  # rank 1 in head 0
    ranked = ADAPTER.balance(module, "real", Weighting())
    assert ((ranked.values > 0).sum(dim=1) == torch.tensor([1, K])).all()
    with torch.no_grad():
        module.k_proj.weight[K:].view(K, H)[3:] = 0.0  # rank 3 in head 1
    smaller = cut(module, ADAPTER.balance(module, "real", Weighting()).truncate(3))
    torch.testing.assert_close(smaller(INPUTS)[0], module(INPUTS)[0], rtol=0.0, atol=1e-10)
    smaller(INPUTS)[0].square().sum().backward()
    assert smaller.q_proj.weight.grad is not None
    assert (smaller.q_proj.weight.grad.norm(dim=1) > 0).all()


def test_a_head_that_tells_nothing_keeps_a_finite_channel() -> None:
    module = layer()
    torch.nn.init.zeros_(module.q_proj.weight)
    reduction = ADAPTER.balance(module, "real", Weighting()).truncate(2)
    assert reduction.order == 1
    smaller = cut(module, reduction)
    assert torch.equal(smaller(INPUTS)[0], module(INPUTS)[0])


def test_states_can_be_selected_too_and_step_equals_parallel() -> None:
    module = layer()
    for reduction in ("qr", "states"):
        smaller = copy.deepcopy(module)
        compressm.compress(smaller, rank=compressm.FixedRank(2), calibration=[INPUTS], reduction=reduction)
        whole, last = smaller(INPUTS)
        state, outputs = None, []
        for k in range(INPUTS.shape[1]):
            y, state = smaller.step(INPUTS[:, k], state)
            outputs.append(y)
        torch.testing.assert_close(torch.stack(outputs, dim=1), whole, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(state, last, rtol=1e-9, atol=1e-11)


def test_what_it_cannot_do_is_refused() -> None:
    module = layer()
    with pytest.raises(ValueError, match="weighting 'states' needs recorded inputs"):
        ADAPTER.balance(module, "real", Weighting("states"))
    with pytest.raises(ValueError, match="weighting 'gradients' needs recorded gradients"):
        ADAPTER.balance(module, "real", Weighting("gradients", inputs=[INPUTS]))
    ranked = find_layers(module)[0].balance("complex", Weighting())
    assert isinstance(ranked, KeyBalancing)
    with pytest.raises(ValueError, match=r"order must be in 1\.\.5"):
        ranked.truncate(6)
    reduction = ranked.truncate(2)
    assert isinstance(reduction, KeyReduction)
    assert (reduction.kept, reduction.error, reduction.error_bound, reduction.note) == (2, None, None, "")
