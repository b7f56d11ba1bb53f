"""Regressors and pair classifiers: what they compute, streaming, saving, refusals."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import compressm
from compressm.models import PairClassifier, SequenceClassifier, SequenceRegressor


def regressor(mixer: str = "lru") -> SequenceRegressor:
    torch.manual_seed(0)
    return SequenceRegressor(3, 2, num_layers=2, model_dim=4, state_dim=[5, 3], mixer=mixer).eval()


def pairs() -> PairClassifier:
    torch.manual_seed(0)
    return PairClassifier(3, 2, num_layers=2, model_dim=4, state_dim=[5, 3], dropout=0.0).eval()


@pytest.mark.parametrize("mixer", ["lru", "s5", "s4d", "rotation", "mamba", "mamba2", "retnet", "deltanet"])
def test_a_regressor_streams_what_it_gives_in_parallel_and_looks_back_only(mixer: str) -> None:
    model, x = regressor(mixer), torch.randn(2, 9, 3)
    with torch.no_grad():
        y = model(x)
        assert y.shape == (2, 9, 2)
        state = None
        for step in range(9):
            y_k, state = model.step(x[:, step], state)
            assert torch.allclose(y_k, y[:, step], atol=1e-5)
        later = x.clone()
        later[:, 6:] += 1
        assert torch.allclose(model(later)[:, :6], y[:, :6], atol=1e-5)


def test_padding_does_not_reach_a_regressors_valid_steps() -> None:
    model, x = regressor().train(), torch.randn(2, 9, 3)
    lengths = torch.tensor([5, 9])
    other = x.clone()
    other[0, 5:] = 100.0
    assert torch.allclose(model(x, lengths)[0, :5], model(other, lengths)[0, :5], atol=1e-5)


def test_a_regressor_refuses_layers_that_look_ahead() -> None:
    with pytest.raises(ValueError, match=r"'s5-bi', which looks ahead; .* take 's5'"):
        SequenceRegressor(3, 2, num_layers=1, model_dim=4, state_dim=4, mixer="s5-bi")


def test_pairs_are_two_classifiers_bodies_and_a_small_network() -> None:
    model, x = pairs(), torch.randn(3, 2, 7, 3)
    lengths = torch.tensor([[7, 4], [2, 7], [3, 3]])
    body = SequenceClassifier(3, 4, num_layers=2, model_dim=4, state_dim=[5, 3], dropout=0.0).eval()
    with torch.no_grad():
        own = {name: value for name, value in model.state_dict().items() if "blocks" in name}
        body.load_state_dict({**body.state_dict(), **own})
        body.encoder.load_state_dict(model.encoder.state_dict())
        body.head.weight.copy_(torch.eye(4))
        body.head.bias.zero_()
        a, b = (body(x[:, side], lengths[:, side]) for side in (0, 1))
        hidden = F.gelu(model.compare(torch.cat((a, b, a - b, a * b), dim=1)))
        expected = hidden @ model.head.weight.T + model.head.bias
        assert torch.allclose(model(x, lengths), expected, atol=1e-5)
        whole = model(x, torch.full((3, 2), 7))
        assert torch.allclose(model(x), whole, atol=1e-5)
        assert not torch.allclose(model(x, lengths), whole, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((3, 7, 3), None, r"\(3, 7, 3\); expected pairs \(batch, 2, L, 3\)"),
        ((3, 3, 7, 3), None, "expected pairs"),
        ((3, 2, 7, 4), None, r"expected \(batch, L, 3\)"),
        ((3, 2, 7, 3), torch.ones(3), r"lengths has shape \(3,\); expected \(3, 2\)"),
        ((1, 2, 7, 3), torch.tensor([[8, 1]]), "lengths holds 8"),
    ],
)
def test_pairs_of_a_wrong_shape_are_refused(
    shape: tuple[int, ...], lengths: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pairs()(torch.zeros(shape), lengths)


@pytest.mark.parametrize("make", [regressor, pairs])
def test_they_are_saved_with_their_sizes(make: type, tmp_path: Path) -> None:
    model = make()
    compressm.save(model, tmp_path / "m")
    again = compressm.load(tmp_path / "m")
    x = torch.randn(2, 2, 6, 3) if isinstance(model, PairClassifier) else torch.randn(2, 6, 3)
    assert again.state_dims == [5, 3]
    assert torch.equal(again(x), model(x))
