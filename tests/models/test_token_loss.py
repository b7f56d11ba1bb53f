"""A language model's loss in one go, against float64 and against the model's parts."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressm.layers import mamba_sequences
from compressm.models import LanguageModel, normed_head, token_loss
from compressm.models.pre_norm_block import LANGUAGE_MIXERS
from compressm.scan.runtime import gemm_addresses

V, L, BATCH = 23, 37, 6

products = pytest.mark.skipif(
    "gemm_bf16bf16f32_" not in (gemm_addresses() or {}), reason="PyTorch was built without MKL's products"
)


@pytest.fixture(autouse=True)
def every_product_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of bfloat16, which are emulated where the processor has none, are right if slow."""
    for module in (normed_head, mamba_sequences):
        monkeypatch.setattr(module, "can_multiply", lambda _: True)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def make(state_dim: list[int] | int = (5, 12), vocab_size: int = V, **changes: object) -> LanguageModel:  # type: ignore[assignment]
    torch.manual_seed(0)
    sizes = [state_dim] if isinstance(state_dim, int) else list(state_dim)
    options = {"num_layers": len(sizes), "model_dim": 16, "state_dim": sizes} | changes
    model = LanguageModel(vocab_size, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        model.embeddings.weight.mul_(20)  # logits that differ
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 2)
    return model


def text(batch: int = BATCH, length: int = L, vocab_size: int = V) -> tuple[Tensor, Tensor]:
    drawn = torch.randint(vocab_size, (batch, length + 1), generator=torch.Generator().manual_seed(1))
    return drawn[:, :-1], drawn[:, 1:]


def reference(model: LanguageModel, tokens: Tensor, targets: Tensor) -> tuple[float, int, list[Tensor]]:
    """Loss, hits and gradients in float64, by the model's parts."""
    exact = copy.deepcopy(model).double()
    exact.zero_grad()
    logits = exact(tokens)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    hits = ((logits.argmax(-1) == targets) & (targets != -100)).sum()
    return loss.item(), int(hits), [parameter.grad for parameter in exact.parameters()]  # type: ignore[misc]


def largest_error(model: LanguageModel, wanted: list[Tensor]) -> float:
    found = [parameter.grad for parameter in model.parameters()]
    return max(
        ((a.double() - b).norm() / b.norm()).item()
        for a, b in zip(found, wanted, strict=True)
        if a is not None
    )


def in_one_go(loss: Tensor) -> bool:
    return type(loss.grad_fn).__name__ == "_TokenLossBackward"


@products
@pytest.mark.usefixtures("threads")
def test_loss_and_all_gradients_are_those_of_float64() -> None:
    model, (tokens, targets) = make(), text()
    targets = targets.clone()
    targets[1, 3:] = targets[4, 7] = -100
    wanted, hits, gradients = reference(model, tokens, targets)
    found = model.loss(tokens, targets)
    found.mean.backward()
    assert in_one_go(found.mean)
    assert found.mean.item() == pytest.approx(wanted, rel=1e-6)
    assert (int(found.correct), int(found.counted)) == (hits, int((targets != -100).sum()))
    assert largest_error(model, gradients) < 5e-6
    with torch.no_grad():
        scored = model.loss(tokens, targets)
    assert scored.mean.item() == pytest.approx(wanted, rel=1e-6)
    assert int(scored.correct) == hits


@products
def test_in_half_precision_it_is_as_near_as_the_parts() -> None:
    model, (tokens, targets) = make(), text()
    *_, gradients = reference(model, tokens, targets)
    errors = []
    for parts in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if parts:
                loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
            else:
                loss = model.loss(tokens, targets).mean
        loss.backward()
        assert in_one_go(loss) != parts
        errors.append(largest_error(model, gradients))
    assert errors[0] < 1.1 * errors[1] < 0.1


@products
@settings(deadline=None, max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    length=st.integers(2, 70),
    vocab_size=st.sampled_from([1, 2, 31, 32, 33, 65]),
    model_dim=st.sampled_from([16, 48]),
)
def test_of_any_sizes(sizes: list[int], length: int, vocab_size: int, model_dim: int) -> None:
    model = make(sizes, vocab_size, model_dim=model_dim)
    tokens, targets = text(2, length, vocab_size)
    wanted, hits, gradients = reference(model, tokens, targets)
    found = model.loss(tokens, targets)
    (3 * found.mean).backward()
    assert in_one_go(found.mean)
    assert found.mean.item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert int(found.correct) == hits
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        # With one word there is nothing to learn, and gradients are rounding errors.
        assert (parameter.grad.double() - 3 * gradient).norm() <= 3e-5 * gradient.norm() + 1e-5


@products
def test_it_can_be_differentiated_again_and_only_once() -> None:
    model, (tokens, targets) = make(), text()
    loss = model.loss(tokens, targets).mean
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]
    for parameter in model.parameters():
        parameter.grad.zero_()  # type: ignore[union-attr]
    loss.backward(retain_graph=True)
    loss.backward()
    for parameter, gradient in zip(model.parameters(), once, strict=True):
        assert torch.allclose(parameter.grad, 2 * gradient)  # type: ignore[arg-type]
    (grad,) = torch.autograd.grad(model.loss(tokens, targets).mean, model.norm_f.weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        grad.sum().backward()


@products
def test_parameters_may_lie_anywhere() -> None:
    """A transposed or strided parameter is one like any other."""
    model, (tokens, targets) = make(), text()
    wanted = model.loss(tokens, targets).mean
    wanted.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            spread = torch.full((*parameter.shape, 2), torch.nan)
            spread[..., 0] = parameter
            parameter.grad, parameter.data = None, spread[..., 0]
    assert not model.embeddings.weight.is_contiguous()
    loss = model.loss(tokens, targets).mean
    loss.backward()
    assert in_one_go(loss)
    assert torch.equal(loss, wanted)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, expected[name]), name  # type: ignore[arg-type]


@products
def test_frozen_parameters_get_no_gradient() -> None:
    model, (tokens, targets) = make(), text()
    model.embeddings.weight.requires_grad_(False)
    loss = model.loss(tokens, targets).mean
    loss.backward()
    assert in_one_go(loss)
    assert model.embeddings.weight.grad is None
    assert all(p.grad is not None for p in model.layers.parameters())
    model.requires_grad_(False)
    assert not model.loss(tokens, targets).mean.requires_grad


@products
def test_memory_for_the_backward_pass_does_not_grow_with_the_batch() -> None:
    model = make()

    def held(batch: int) -> int:
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: kept.append(x.untyped_storage().nbytes()) or x,
            lambda x: x,  # type: ignore[func-returns-value]
        ):
            model.loss(*text(batch))
        return sum(kept)

    assert 0 < held(2) == held(40)


@products
def test_sums_of_all_cores_are_not_to_take_more_than_they_save(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    monkeypatch.setattr(token_loss, "_LITTLE", 0)
    assert in_one_go(model.loss(*text(2, 200)).mean)
    assert not in_one_go(model.loss(*text(2, 3)).mean)
    monkeypatch.undo()
    assert in_one_go(model.loss(*text(2, 3)).mean)


@products
def test_whoever_watches_a_part_sees_it() -> None:
    model, (tokens, targets) = make(), text()
    wanted = model.loss(tokens, targets).mean
    assert in_one_go(wanted)
    seen: list[nn.Module] = []
    watched = [model, model.embeddings, model.norm_f, *model.layers, model.layers[1].mixer.conv1d]
    for module in watched:
        handle = module.register_forward_hook(lambda module, *_: seen.append(module))
        loss = model.loss(tokens, targets).mean
        assert not in_one_go(loss)
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
        assert seen.pop() is module
        handle.remove()
    block, x = copy.deepcopy(model.layers[0]), torch.zeros(BATCH, L, 16)
    assert block.operands(x) is not None
    # What block.compile() leaves there; it would load all of the compiler.
    block._compiled_call_impl = block.forward
    assert block.operands(x) is None

    class Doubled(LanguageModel):
        def forward(self, tokens: Tensor) -> Tensor:
            return 2 * super().forward(tokens)

    other = Doubled(**model.config)
    other.load_state_dict(model.state_dict())
    expected = F.cross_entropy(2 * model(tokens).flatten(0, 1), targets.flatten())
    assert other.loss(tokens, targets).mean.item() == pytest.approx(expected.item(), rel=1e-5)


@products
def test_what_it_does_not_serve_is_made_by_the_parts() -> None:
    tokens, targets = text()
    for model in (
        make(dropout=0.5),
        make(feed_forward=True),
        make(mixer_options={"expand": 1}),  # 16 channels inside fill no vector
        make().double(),
        *(make(mixer=mixer) for mixer in LANGUAGE_MIXERS if mixer != "mamba"),
    ):
        torch.manual_seed(5)
        found = model.loss(tokens, targets)
        torch.manual_seed(5)
        logits = model(tokens)
        assert not in_one_go(found.mean)
        assert torch.allclose(found.mean, F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
        assert int(found.correct) == int((logits.argmax(-1) == targets).sum())
        assert int(found.counted) == targets.numel()
    assert in_one_go(make(dropout=0.5).eval().loss(tokens, targets).mean)


def test_ties_go_to_the_first_word_and_broken_logits_break_the_loss() -> None:
    model, (tokens, targets) = make(), text()
    with torch.no_grad():
        model.norm_f.weight.zero_()  # all logits are 0
        found = model.loss(tokens, targets)
        assert int(found.correct) == int((targets == 0).sum())
        model.norm_f.weight.fill_(float("nan"))
        assert model.loss(tokens, targets).mean.isnan()
        assert make().loss(tokens, torch.full_like(targets, -100)).mean.isnan()


def test_targets_are_looked_at() -> None:
    model, (tokens, targets) = make(), text()
    with pytest.raises(TypeError, match=r"targets are torch\.float32"):
        model.loss(tokens, targets.float())
    with pytest.raises(ValueError, match=r"targets have shape \(6, 36\), tokens \(6, 37\)"):
        model.loss(tokens, targets[:, 1:])
    with pytest.raises(ValueError, match="tokens hold 23"):
        model.loss(tokens + V - int(tokens.max()), targets)
    for wrong in (-1, V):
        broken = targets.clone()
        broken[2, 2] = wrong
        with pytest.raises(ValueError, match=f"targets hold {wrong}; each must be in 0..22, or -100"):
            model.loss(tokens, broken)
    # A word of the vocabulary may be what does not count.
    found = model.loss(tokens, targets, ignore_index=3)
    assert int(found.counted) == int((targets != 3).sum())
    expected = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=3)
    assert torch.allclose(found.mean, expected)
