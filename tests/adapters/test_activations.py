"""Selection by rank-revealing QR on keys and queries."""

import pytest
import torch
from torch import Tensor

from compressm.adapters.activations import MAX_TOKENS, by_activations

LIKE = torch.empty(0, dtype=torch.float64)


def split(u: Tensor) -> tuple[Tensor, Tensor]:
    """Channels 0..5 as keys of two groups, 6..17 as queries of two heads in each."""
    return u[..., :6].reshape(*u.shape[:2], 2, 1, 3), u[..., 6:].reshape(*u.shape[:2], 2, 2, 3)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_factors_hold_the_moments_of_keys_and_queries_at_equal_size() -> None:
    u = draw(4, 9, 18)
    found = by_activations([u[:1], u[1:]], split, LIKE)
    for group in range(2):
        keys = u[..., 3 * group : 3 * group + 3].reshape(-1, 3)
        queries = u[..., 6 + 6 * group : 12 + 6 * group].reshape(-1, 3)
        expected = sum(rows.mT @ rows / rows.square().mean() for rows in (keys, queries))
        factor = found.factors[group]
        torch.testing.assert_close(factor.mT @ factor, expected, rtol=1e-9, atol=1e-9)
    scaled = u.clone()
    scaled[..., :6] *= 1e3  # keys larger, queries not: the same selection
    torch.testing.assert_close(
        by_activations([scaled], split, LIKE).hankel_singular_values,
        found.hankel_singular_values,
        rtol=1e-9,
        atol=0.0,
    )


def test_chosen_states_span_and_unused_ones_go_first() -> None:
    u = draw(4, 30, 18)
    for block in range(0, 18, 3):
        odd = block in (3, 12, 15)  # blocks of the second group
        u[..., block + (0 if odd else 2)] = 0.0
    found = by_activations([u], split, LIKE)
    assert found.hankel_singular_values[2] == 0.0
    assert found.truncate(2).indices.tolist() == [[0, 1], [1, 2]]
    assert found.truncate(keep=3).indices.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert found.truncate(2).states == 3


def test_few_tokens_are_drawn_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(u: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(u.shape[0] * u.shape[1])
        return split(u)

    u = draw(40, 256, 18)
    first = by_activations([u], counted, LIKE)
    assert sum(seen) == 40 * 256
    assert max(seen) <= 2048  # in portions
    assert float(first.factors[0].norm() ** 2) == pytest.approx(3 * 3 * MAX_TOKENS)  # one key, two queries
    assert torch.equal(first.factors, by_activations([u], split, LIKE).factors)
    monkeypatch.setattr("compressm.adapters.activations._SEED", 1)
    assert not torch.equal(first.factors, by_activations([u], split, LIKE).factors)


def test_signals_that_cannot_serve_are_refused() -> None:
    with pytest.raises(ValueError, match="selection by 'qr' needs recorded inputs"):
        by_activations([], split, LIKE)
    with pytest.raises(ValueError, match="keys or queries of the layer are not finite"):
        by_activations([draw(1, 2, 18)], lambda u: split(u / 0.0), LIKE)
