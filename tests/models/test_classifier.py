"""The block and the classifier: the paper's structure, padding, streaming, logits."""

import pytest
import torch
import torch.nn.functional as F

from compressm.layers import LRU
from compressm.models import Block, MaskedBatchNorm, SequenceClassifier


def small(**changes: object) -> SequenceClassifier:
    torch.manual_seed(0)
    settings = {"num_layers": 2, "model_dim": 6, "state_dim": 5, "dropout": 0.0} | changes
    return SequenceClassifier(3, 4, **settings)  # type: ignore[arg-type]


def test_block_is_norm_mixer_gelu_glu_residual() -> None:
    torch.manual_seed(0)
    block = Block(LRU(6, 5), 6).train()
    x = torch.randn(3, 11, 6)
    mean, variance = x.mean((0, 1)), x.var((0, 1), unbiased=False)
    y, _ = block.mixer((x - mean) / torch.sqrt(variance + 1e-5))
    a, b = block.glu(0.5 * y * (1 + torch.erf(y / 2**0.5))).chunk(2, dim=-1)
    assert torch.allclose(block(x)[0], x + a * torch.sigmoid(b), atol=1e-5)


def test_classifier_pools_the_mean_and_returns_logits() -> None:
    model = small().eval()
    x = torch.randn(2, 9, 3)
    hidden = model.encoder(x)
    for block in model.blocks:
        hidden, _ = block(hidden)
    logits = model(x)
    assert torch.allclose(logits, model.head(hidden.mean(1)), atol=1e-6)
    assert not torch.allclose(logits.exp().sum(1), torch.ones(2), atol=0.1)
    assert not torch.allclose(logits.sum(1), torch.ones(2), atol=0.1)


def test_sizes_differ_by_layer() -> None:
    model = small(state_dim=[7, 2])
    assert model.state_dims == [7, 2]
    assert SequenceClassifier(**model.config).state_dims == [7, 2]


# The paper's block, and pre-norm ones.
BLOCKS = {
    "lru": {},
    "mamba": {},
    "mamba2": {"head_dim": 4},
    "gla": {"num_heads": 2},
    "gated-deltanet": {"num_heads": 2},
}


@pytest.mark.parametrize("mixer", [*BLOCKS][1:])
def test_selective_layers_keep_their_blocks_and_a_norm_follows_the_last(mixer: str) -> None:
    model, x = small(mixer=mixer, mixer_options=BLOCKS[mixer]).eval(), torch.randn(2, 9, 3)
    hidden = model.encoder(x)
    for block in model.blocks:
        assert (block.feed_forward is not None) == (mixer in ("gla", "gated-deltanet"))
        hidden = hidden + block.mixer(block.norm(hidden))[0]
        if block.feed_forward is not None:
            hidden = hidden + block.feed_forward(block.norm_2(hidden))
    hidden = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(model(x), model.head(hidden.mean(1)), atol=1e-5)
    again = SequenceClassifier(**model.config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))


def test_options_reach_the_layers_and_wrong_ones_are_refused() -> None:
    model = small(mixer="mamba", mixer_options={"expand": 4})
    assert model.blocks[0].mixer.inner_dim == 24
    assert SequenceClassifier(**model.config).blocks[1].mixer.inner_dim == 24
    with pytest.raises(TypeError, match="'width': 3} do not fit the mixer 'lru'"):
        small(mixer_options={"width": 3})


@pytest.mark.parametrize("mixer", BLOCKS)
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing(training: bool, mixer: str) -> None:
    """Neither logits, nor gradients, nor running statistics see what comes after a sequence's end."""
    results = []
    lengths = torch.tensor([4, 9, 1])
    for filler in (0.0, 1e3):
        model = small(mixer=mixer, mixer_options=BLOCKS[mixer]).train(training)
        torch.manual_seed(1)
        x = torch.randn(3, 9, 3)
        for row, length in enumerate(lengths):
            x[row, length:] = filler
        logits = model(x, lengths)
        F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([logits.detach(), *gradients, *model.buffers()])
    for zeros, noise in zip(*results, strict=True):
        assert torch.allclose(zeros, noise, atol=1e-5)


def test_padded_sequence_equals_the_short_one_alone() -> None:
    model = small().eval()
    x = torch.randn(2, 12, 3)
    together = model(x, torch.tensor([5, 12]))
    assert torch.allclose(together[0], model(x[:1, :5])[0], atol=1e-5)
    assert torch.allclose(together[1], model(x[1:])[0], atol=1e-5)


def test_masked_norm_statistics_are_those_of_the_valid_rows() -> None:
    norm = MaskedBatchNorm(2, momentum=1.0)
    x = torch.randn(2, 5, 2)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    y = norm(x, mask)
    valid = torch.cat((x[0], x[1, :2]))
    assert torch.allclose(norm.running_mean, valid.mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, valid.var(0, unbiased=True), atol=1e-6)
    assert torch.equal(y[1, 2:], torch.zeros(3, 2))


@pytest.mark.parametrize("mixer", BLOCKS)
def test_streaming_equals_forward_on_every_prefix(mixer: str) -> None:
    model = small(mixer=mixer, mixer_options=BLOCKS[mixer]).train()
    for _ in range(5):
        model(torch.randn(4, 10, 3) * 2 + 1)  # running statistics that are not the initial ones
    model.eval()
    x = torch.randn(2, 8, 3)
    state = None
    for k in range(8):
        logits, state = model.step(x[:, k], state)
        assert torch.allclose(logits, model(x[:, : k + 1]), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": "lstm"}, "mixer is 'lstm'; choose one of lru"),
        ({"state_dim": [3]}, "1 entries for 2 layers"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_bad_inputs_are_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"\(2, 5\); expected \(batch, L, 3\)"):
        model(torch.zeros(2, 5))
    for lengths, message in (([0, 5], "holds 0"), ([5, 6], "holds 6"), ([5], r"expected \(2,\)")):
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(2, 5, 3), torch.tensor(lengths))
    with pytest.raises(RuntimeError, match="eval"):
        model.step(torch.zeros(2, 3))
