"""Blocks under torch.compile through cuts: compiled anew where sizes changed, never silently uncompiled."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter

import compressm
from compressm.models import SequenceClassifier, compile_blocks

# PyTorch's tracer reads .grad of whatever it meets, and warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def whole(model: torch.nn.Module) -> torch.nn.Module:
    compiled: torch.nn.Module = torch.compile(model, backend="eager")
    return compiled


def make(layers: int = 6, mixer: str = "lru") -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(2, 3, num_layers=layers, model_dim=4, state_dim=16, mixer=mixer, dropout=0.0)


def step(model: SequenceClassifier) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    loss = F.cross_entropy(model(torch.randn(4, 9, 2, generator=generator)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("reduction", ["balanced", "states"])
def test_at_most_one_compilation_for_each_part_that_changed(reduction: str) -> None:
    model, graphs = make(), CompileCounter()
    rank = compressm.FixedRank({f"blocks.{i}.mixer": i + 2 for i in range(6)})
    compressor = compressm.Compressor(
        model,
        rank=rank,
        schedule=compressm.Schedule(total_steps=8, stop=1.0, cuts=4),
        reduction=reduction,
    )
    compile_blocks(model, backend=graphs)
    step(model)
    parts = graphs.frame_count  # one, or those around the recording of a layer's inputs
    compressor.step()
    allowed = 0
    for _ in range(7):
        before = graphs.frame_count
        step(model)
        assert graphs.frame_count - before <= allowed
        cut = compressor.step()
        allowed = 0 if cut is None else cut.recompilations * parts
    step(model)
    assert [cut.recompilations for cut in compressor.records] == [6, 6, 6, 6]
    count = graphs.frame_count
    step(model)
    assert graphs.frame_count == count


def test_a_model_compiled_as_a_whole_counts_once_and_an_uncompiled_one_not_at_all() -> None:
    for wrap, expected in ((whole, 1), (lambda model: model, 0)):
        model = wrap(make(2))
        compressor = compressm.Compressor(
            model,
            rank=compressm.FixedRank(3),
            schedule=compressm.Schedule(total_steps=1, stop=1.0, cuts=1),
            reduction="balanced",
        )
        cut = compressor.step()
        assert cut is not None
        assert cut.recompilations == expected


@pytest.mark.parametrize("mixer", ["lru", "mamba", "gla"])
def test_compiled_blocks_compute_the_same_before_and_after_a_cut(mixer: str) -> None:
    plain, compiled = make(2, mixer), compile_blocks(make(2, mixer), backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(step(plain), step(compiled))  # type: ignore[arg-type]
        for one, two in zip(plain.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad)
        for model in (plain, compiled):
            compressm.compress(model, rank=compressm.FixedRank(3))
            model.zero_grad()


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no block to compile"):
        compile_blocks(torch.nn.Linear(2, 2))
