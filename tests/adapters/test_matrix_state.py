"""States and adjoint states of matrix-state layers against autograd through a plain loop in float64."""

import pytest
import torch
from torch import Tensor

from compressm.adapters import Weighting
from compressm.adapters.matrix_state import MAX_STEPS, MatrixStates, StateEnergies, portions

BATCH, LENGTH, HEADS, KEYS, VALUES = 2, 7, 4, 3, 5


def operands(*, per_channel: bool, delta: bool) -> MatrixStates:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(BATCH, LENGTH, HEADS, *shape, generator=generator, dtype=torch.float64)

    decay = draw(KEYS) if per_channel else draw()
    k = draw(KEYS)
    return MatrixStates(
        queries=draw(KEYS),
        keys=k / k.norm(dim=-1, keepdim=True),
        values=draw(VALUES),
        log_decay=-decay.abs(),
        strengths=torch.sigmoid(draw()) if delta else None,
        scale=0.7,
    )


def loop(run: MatrixStates) -> tuple[Tensor, list[Tensor]]:
    """Outputs and states, one head and one sequence at a time, states kept for autograd."""
    S = torch.zeros(BATCH, HEADS, KEYS, VALUES, dtype=torch.float64)
    states, outputs = [], []
    for t in range(LENGTH):
        a = run.log_decay[:, t].exp()
        old = (a[..., None] if a.dim() == 3 else a[..., None, None]) * S
        k, v = run.keys[:, t], run.values[:, t]
        if run.strengths is None:
            S = old + torch.einsum("bhk,bhv->bhkv", k, v)
        else:
            b = run.strengths[:, t]
            reflected = torch.eye(KEYS) - torch.einsum("bh,bhk,bhj->bhkj", b, k, k)
            S = reflected @ old + torch.einsum("bh,bhk,bhv->bhkv", b, k, v)
        if not S.requires_grad:
            S.requires_grad_()
        S.retain_grad()
        states.append(S)
        outputs.append(run.scale * torch.einsum("bhkv,bhk->bhv", S, run.queries[:, t]))
    return torch.stack(outputs, dim=1), states


KINDS = [
    pytest.param(False, False, id="one decay"),
    pytest.param(True, False, id="a decay for each key channel"),
    pytest.param(False, True, id="delta rule"),
]


@pytest.mark.parametrize(("per_channel", "delta"), KINDS)
def test_states_adjoint_states_and_energies(*, per_channel: bool, delta: bool) -> None:
    run = operands(per_channel=per_channel, delta=delta)
    outputs, states = loop(run)
    gradients = torch.randn(outputs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    (outputs * gradients).sum().backward()
    torch.testing.assert_close(run.outputs(), outputs.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(list(run.states()), [S.detach() for S in states], rtol=1e-10, atol=1e-12)
    adjoint = [S.grad for S in states]
    found = list(run.adjoint_states(gradients))[::-1]
    torch.testing.assert_close(found, adjoint, rtol=1e-10, atol=1e-12)

    energies = StateEnergies()
    energies.add(run, gradients)
    energies.add(run, gradients)  # twice the same signals: the same means
    held = torch.stack([S.detach() for S in states]).square().sum(dim=(0, 1, 4))
    asked = torch.stack([W for W in adjoint if W is not None]).square().sum(dim=(0, 1, 4))
    joint = torch.sqrt(held * asked) / (BATCH * LENGTH)
    torch.testing.assert_close(energies.amplitudes(HEADS), joint, rtol=1e-9, atol=0.0)
    grouped = energies.amplitudes(2)
    torch.testing.assert_close(grouped, torch.stack((joint[:2].sum(0), joint[2:].sum(0))), rtol=1e-9, atol=0)


def test_without_gradients_what_a_row_adds_to_the_outputs_counts() -> None:
    run = operands(per_channel=False, delta=False)
    energies = StateEnergies()
    energies.add(run, None)
    added = torch.zeros(HEADS, KEYS, dtype=torch.float64)
    for n in range(KEYS):
        alone = torch.zeros_like(run.queries)
        alone[..., n] = run.queries[..., n]
        y = MatrixStates(alone, run.keys, run.values, run.log_decay, scale=run.scale).outputs()
        added[:, n] = y.square().sum(dim=(0, 1, 3)).sqrt()
    expected = added / added.norm(dim=1, keepdim=True)
    torch.testing.assert_close(energies.amplitudes(HEADS), expected, rtol=1e-9, atol=0.0)


def test_portions_stay_small_and_keep_inputs_and_gradients_together() -> None:
    like = torch.empty(0, dtype=torch.bfloat16)
    u = torch.arange(4 * MAX_STEPS // 16 * 16.0).reshape(-1, 16, 1)
    parts = list(portions(Weighting(inputs=[u, u], gradients=[u + 0.5, u + 0.5]), "this", like))
    steps = [part.shape[0] * part.shape[1] for part, _ in parts]
    assert MAX_STEPS <= sum(steps) <= 1.1 * MAX_STEPS
    assert max(steps) <= MAX_STEPS // 2
    for part, gradients in parts:
        assert part.dtype == torch.float32
        assert gradients is not None
        assert torch.equal(gradients, part + 0.5)
    (part, nothing), *more = portions(Weighting(inputs=[torch.ones(1, 3 * MAX_STEPS, 1)]), "this", like)
    assert part.shape[1] == MAX_STEPS
    assert nothing is None
    assert not more


def test_signals_that_cannot_serve_are_refused() -> None:
    like, u = torch.empty(0), torch.ones(2, 3, 1)
    with pytest.raises(ValueError, match="this needs recorded inputs, and there are none"):
        next(portions(Weighting(), "this", like))
    with pytest.raises(ValueError, match="this: recorded inputs hold values that are not finite"):
        next(portions(Weighting(inputs=[u * torch.inf]), "this", like))
    with pytest.raises(ValueError, match="this: recorded gradients hold values that are not finite"):
        next(portions(Weighting(inputs=[u], gradients=[u * torch.nan]), "this", like))
    for gradients in ([u[:1]], [u, u]):
        with pytest.raises(ValueError, match="do not belong to recorded inputs"):
            next(portions(Weighting(inputs=[u], gradients=gradients), "this", like))
