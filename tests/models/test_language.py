"""Language models: their structure, streaming, sampling and saving, with every mixer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

import compressm
from compressm.models import LanguageModel
from compressm.models.pre_norm_block import LANGUAGE_MIXERS, FeedForward
from compressm.models.sampling import draw

MIXERS = sorted(LANGUAGE_MIXERS)


def small(mixer: str = "mamba", **changes: Any) -> LanguageModel:
    torch.manual_seed(0)
    settings = {"num_layers": 2, "model_dim": 12, "state_dim": 5} | changes
    model = LanguageModel(11, mixer=mixer, **settings).eval()
    with torch.no_grad():
        model.embeddings.weight.mul_(20)  # logits that differ
    return model


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("feed_forward", [False, True])
def test_it_is_embeddings_pre_norm_blocks_norm_and_the_embeddings_again(feed_forward: bool) -> None:
    model = small(feed_forward=feed_forward)
    x = tokens(2, 9)

    def norm(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return weight * hidden / torch.sqrt((hidden**2).mean(-1, keepdim=True) + 1e-5)

    hidden = model.embeddings.weight[x]
    for block in model.layers:
        hidden = hidden + block.mixer(norm(hidden, block.norm.weight))[0]
        if feed_forward:
            gate, value = (norm(hidden, block.norm_2.weight) @ block.feed_forward.up.weight.T).chunk(2, -1)
            hidden = hidden + (gate * torch.sigmoid(gate) * value) @ block.feed_forward.down.weight.T
    logits = norm(hidden, model.norm_f.weight) @ model.embeddings.weight.T
    assert logits.shape == (2, 9, 11)
    assert torch.allclose(model(x), logits, atol=1e-5)
    assert sum(p.numel() for p in FeedForward(12).parameters()) == 3 * 12 * 32


@pytest.mark.parametrize("mixer", MIXERS)
def test_streaming_equals_the_parallel_form(mixer: str) -> None:
    model, x = small(mixer), tokens(3, 14)
    with torch.no_grad():
        logits = model(x)
        ahead, state = model.advance(x[:, :6])
        assert torch.allclose(ahead, logits[:, :6], atol=1e-5)
        later, _ = model.advance(x[:, 6:], state)
        assert torch.allclose(later, logits[:, 6:], atol=1e-4)
        for k in range(6, 14):
            one, state = model.step(x[:, k], state)
            assert torch.allclose(one, logits[:, k], atol=1e-4)
        state = None
        for k in range(3):
            one, state = model.step(x[:, k], state)
            assert torch.allclose(one, logits[:, k], atol=1e-4)


@pytest.mark.parametrize("mixer", MIXERS)
def test_no_token_sees_later_ones(mixer: str) -> None:
    model, x = small(mixer), tokens(2, 10)
    changed = x.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 11
    with torch.no_grad():
        before, after = model(x), model(changed)
    assert torch.allclose(before[:, :7], after[:, :7], atol=1e-5)
    assert not torch.allclose(before[:, 7], after[:, 7], atol=1e-2)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_learns_whether_a_token_was_seen(mixer: str) -> None:
    """No layer can know it without a state. Knowing only the position costs about 0.5."""
    model = small(mixer, model_dim=16, state_dim=16, num_layers=1).train()
    with torch.no_grad():
        model.embeddings.weight.div_(20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(80):
        x = torch.randint(11, (8, 17), generator=generator)
        seen = (x == 0).cumsum(1) > 0
        loss = F.cross_entropy(model(x).flatten(0, 1), seen.long().flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.2


@pytest.mark.parametrize("mixer", MIXERS)
def test_saving_keeps_each_layers_size(mixer: str, tmp_path: Path) -> None:
    model = small(mixer, state_dim=[4, 2])
    compressm.save(model, tmp_path / "m")
    again = compressm.load(tmp_path / "m")
    assert isinstance(again, LanguageModel)
    assert again.state_dims == [4, 2]
    assert json.loads((tmp_path / "m" / "model.json").read_text())["config"]["state_dim"] == [4, 2]
    assert torch.equal(again(tokens(2, 9)), model(tokens(2, 9)))


def test_options_reach_the_layers_and_the_saved_model(tmp_path: Path) -> None:
    model = small(mixer_options={"expand": 3, "conv_kernel": 2}, dropout=0.25, feed_forward=True)
    assert model.layers[0].mixer.inner_dim == 36
    compressm.save(model, tmp_path / "m")
    again = compressm.load(tmp_path / "m")
    assert again.config == model.config
    assert torch.equal(again(tokens(2, 9)), model(tokens(2, 9)))
    torch.manual_seed(0)
    noisy = model.train()(tokens(2, 9))
    assert not torch.allclose(noisy, model(tokens(2, 9)))


def test_the_likeliest_continuation_is_that_of_the_parallel_form() -> None:
    model, prompt = small(), tokens(3, 4)
    longer = model.generate(prompt, 6, temperature=0.0)
    assert longer.shape == (3, 10)
    assert torch.equal(longer[:, :4], prompt)
    expected = prompt
    with torch.no_grad():
        for _ in range(6):
            expected = torch.cat((expected, model(expected)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(longer, expected)
    assert torch.equal(model.generate(prompt, 6, top_k=1), expected)
    assert torch.equal(model.generate(prompt, 0), prompt)
    assert len({tuple(row) for row in longer[:, 4:].tolist()}) > 1


def test_sampling_follows_the_generator() -> None:
    model, prompt = small(), tokens(2, 3)

    def sample(seed: int) -> torch.Tensor:
        return model.generate(prompt, 12, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.0, 3), (1.0, 99)])
def test_draws_follow_the_tempered_probabilities(temperature: float, top_k: int | None) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 1.2, 0.0])
    weights = torch.exp(logits.double() / temperature)
    if top_k == 3:
        weights[[1, 4]] = 0
    expected = weights / weights.sum()
    count = 40_000
    drawn = draw(logits.expand(count, 5), temperature, top_k, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=5) / count
    # Five standard deviations of a share; zero where nothing may be drawn.
    assert torch.all((shares - expected).abs() <= 5 * torch.sqrt(expected * (1 - expected) / count))
    assert draw(1e4 * logits[None], 1e-6, None, None).item() == 2


def test_a_language_model_is_compressed_and_saved(tmp_path: Path) -> None:
    """Nothing reaches 12 of 24 states: a cut to 14 finds them, and keeps the logits."""
    model = small("lru", state_dim=24)
    with torch.no_grad():
        for block in model.layers:
            block.mixer.B[:, 12:] = 0
    before = model(tokens(2, 40))
    compressm.compress(model, rank=compressm.FixedRank(14))
    assert all(size <= 14 for size in model.state_dims)
    after = model(tokens(2, 40))
    assert (after - before).norm() < 1e-3 * before.norm()
    compressm.save(model, tmp_path / "m")
    again = compressm.load(tmp_path / "m")
    assert again.state_dims == model.state_dims
    assert torch.equal(again(tokens(2, 40)), after)


# PyTorch's tracer reads .grad of whatever it meets, and warns of it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("mixer", ["mamba", "gated-deltanet"])
def test_a_model_compiles_as_one_graph(mixer: str) -> None:
    model, x = small(mixer, num_layers=1), tokens(2, 9)
    parameters = list(model.parameters())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    logits, expected = compiled(x), model(x)
    assert torch.allclose(logits, expected, atol=1e-5)
    weight = torch.randn_like(logits)
    got = torch.autograd.grad((logits * weight).sum(), parameters)
    wanted = torch.autograd.grad((expected * weight).sum(), parameters)
    for actual, exact in zip(got, wanted, strict=True):
        assert torch.allclose(actual, exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())


@pytest.mark.parametrize("mixer", ["mamba", "mamba2", "gla"])
def test_a_model_of_half_precision_continues_prompts(mixer: str) -> None:
    model = small(mixer).bfloat16()
    exact = small(mixer)
    exact.load_state_dict(model.state_dict())
    assert model.generate(tokens(2, 4), 5, generator=torch.Generator().manual_seed(0)).shape == (2, 9)
    with torch.no_grad():
        logits, expected = model(tokens(2, 12)), exact(tokens(2, 12))
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).norm() < 0.05 * expected.norm()


def test_wrong_uses_say_what_to_do() -> None:
    model = small()
    cases = (
        ({"mixer": "lstm"}, "mixer is 'lstm'; choose one of"),
        ({"state_dim": [3]}, "state_dim has 1 entries for 2 layers"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"dropout": 1.0}, r"dropout is 1.0; it must be in \[0, 1\)"),
        ({"state_dim": 0}, "Mamba: state_dim is 0"),
    )
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            LanguageModel(11, **({"num_layers": 2, "model_dim": 6, "state_dim": 3} | change))
    with pytest.raises(TypeError, match=r"mixer_options \{'heads': 2\} do not fit the mixer 'mamba'"):
        small(mixer_options={"heads": 2})
    with pytest.raises(TypeError, match=r"tokens are torch.float32; give integers"):
        model(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"tokens have shape \(3,\); expected \(batch, L\)"):
        model(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"tokens hold 11; each must be in 0..10"):
        model(torch.tensor([[3, 11]]))
    with pytest.raises(ValueError, match=r"tokens hold -1; each must be in 0..10"):
        model.step(torch.tensor([-1]))
    with pytest.raises(ValueError, match=r"the state holds 1 layers, the model has 2"):
        model.step(torch.tensor([1]), (torch.zeros(1, 3),))
    for settings, message in (
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(tokens(1, 2), **({"max_new_tokens": 3} | settings))
    with pytest.raises(RuntimeError, match=r"call model.eval\(\) first"):
        model.train().generate(tokens(1, 2), 3)


@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
def test_a_backbone_of_transformers_loads_as_it_is(mixer: str) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 12, "state_size": 5, "num_hidden_layers": 2}
    if mixer == "mamba":
        config = transformers.MambaConfig(**sizes, time_step_rank=1, use_associative_scan=False)
        stock, options = transformers.MambaModel(config), {}
    else:
        config = transformers.Mamba2Config(
            **sizes, num_heads=4, head_dim=6, n_groups=2, chunk_size=8, tie_word_embeddings=True
        )
        stock, options = transformers.Mamba2Model(config), {"head_dim": 6, "num_groups": 2}
    model = small(mixer, mixer_options=options)
    model.load_state_dict(stock.state_dict())
    with torch.no_grad():
        hidden = stock.eval()(tokens(2, 13)).last_hidden_state
        expected = hidden @ stock.embeddings.weight.T
        assert torch.allclose(model(tokens(2, 13)), expected, rtol=1e-5, atol=1e-5)
