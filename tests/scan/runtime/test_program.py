"""Programs: where words lead, what stands between kernels, and who does which item."""

import pytest
import torch
from torch import Tensor

from compressm.scan.runtime import Kernel, gemm_addresses
from compressm.scan.runtime import program as program_module
from compressm.scan.runtime.program import Gathered, Matrix, Parts, Place, Program, can_multiply, sum_of

ITEMS = 5


def matrix(place: Place, x: Tensor) -> Matrix:
    """All of a matrix that lies at a place."""
    return Matrix(place, *x.shape[-2:], x.shape[-1])


def per_item(x: Tensor) -> int:
    return x[0].numel() * x.element_size()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_item_finds_its_own_rows_and_each_worker_its_own_memory(workers: int) -> None:
    """An item is copied to its worker's room, doubled there, and copied to its place."""
    x, y = torch.randn(ITEMS, 37), torch.zeros(ITEMS, 37)
    program = Program()
    source, out = (program.operand(name, per_item=per_item(t)) for name, t in (("x", x), ("y", y)))
    unused, room = program.room(3, 4), program.room(37, 4)
    program.copy(source, unused.plus(0), 3)
    program.copy(source, room, 37)
    program.copy(source, room, 37, accumulate=True)
    program.copy(room, out, 37)
    program.run({"x": x, "y": y}, ITEMS, workers)
    assert torch.equal(y, 2 * x)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_sums_of_workers_add_up_to_those_of_all_items(workers: int) -> None:
    x = torch.randn(ITEMS, 40)
    program = Program()
    source = program.operand("x", per_item=per_item(x))
    first, second = program.sums(3), program.sums(40)
    program.copy(source, first, 3, accumulate=True)
    program.copy(source, second, 40, accumulate=True)
    for _ in range(2):  # sums begin anew
        sums = sum_of(program.run({"x": x}, ITEMS, workers))
        assert torch.allclose(sums[:3], x.sum(0)[:3], atol=1e-6)
        assert torch.allclose(sums[16:56], x.sum(0), atol=1e-6)
        assert sums.untyped_storage().nbytes() == sums.numel() * 4  # those of one worker


def test_fewer_workers_than_asked_for_leave_no_sum_uncleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP gives fewer threads inside another parallel region."""
    run = program_module.run_kernel
    monkeypatch.setattr(program_module, "run_kernel", lambda kernel, words, _: run(kernel, words, 1))
    x, program = torch.randn(ITEMS, 40), Program()
    program.copy(program.operand("x", per_item=per_item(x)), program.sums(40), 40, accumulate=True)
    torch.full((3, 48), torch.nan)  # memory that the sums may get
    assert torch.allclose(sum_of(program.run({"x": x}, ITEMS, 3))[:40], x.sum(0), atol=1e-6)


def test_memory_is_of_the_processor_whatever_new_tensors_are_by_default() -> None:
    x, program = torch.randn(ITEMS, 16), Program()
    room = program.room(16, 4)
    program.copy(program.operand("x", per_item=per_item(x)), room, 16)
    program.copy(room, program.sums(16), 16, accumulate=True)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            sums = sum_of(program.run({"x": x}, ITEMS, 2))
    finally:
        torch.set_default_dtype(default)
    assert sums.dtype == torch.float32
    assert torch.allclose(sums, x.sum(0), atol=1e-6)


def test_memory_that_only_passes_is_given_again_but_what_was_there_before_is_not() -> None:
    x, y = torch.randn(ITEMS, 16), torch.zeros(ITEMS, 16)
    program = Program()
    source, out = (program.operand(name, per_item=per_item(t)) for name, t in (("x", x), ("y", y)))
    lasting = program.room(16, 4)
    program.copy(source, lasting, 16)
    with program.passing():
        first = program.room(64, 4)
        with program.passing():
            inner = program.room(16, 4)
        program.clear(first, 64)
    with program.passing():
        second = program.room(16, 4)
        program.copy(source, second, 16)
    assert first == second
    assert inner not in (first, lasting)
    program.copy(second, out, 16)
    program.copy(lasting, out, 16, accumulate=True)
    program.run({"x": x, "y": y}, ITEMS, 2)
    assert torch.equal(y, 2 * x)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("rated", [False, True])
@pytest.mark.parametrize("sizes", [(3, 7, 32, 2, 4), (1, 5, 12, 0, 4), (1, 1, 71, 0, 1), (2, 3, 40, 2, 1)])
def test_parts_are_summed_and_turned(parts: int, rated: bool, sizes: tuple[int, ...]) -> None:
    blocks, rows, lanes, first, width = sizes
    count, gap = blocks * rows * lanes, blocks * rows * lanes + 8
    sums, factor = torch.randn(parts, gap), torch.tensor(0.7)
    rates, out = torch.randn(blocks, width, lanes), torch.full((5 + blocks * lanes * width,), torch.nan)
    program = Program()
    places = {name: program.operand(name) for name in ("sums", "factor", "rates", "out")}
    to = Gathered(places["out"].plus(20), places["factor"], places["rates"] if rated else None)
    program.gather(Parts(places["sums"].plus(16), parts, gap), (blocks, rows, lanes), (first, width), to)
    program.run({"sums": sums, "factor": factor, "rates": rates, "out": out}, 1, 1)
    lying = sums[:, 4 : 4 + count].double().sum(0).view(blocks, rows, lanes)[:, first : first + width]
    wanted = 0.7 * lying * (rates.double() * torch.tensor(2.0).double().log() if rated else 1.0)
    assert torch.allclose(out[5:].double(), wanted.mT.reshape(-1), atol=1e-6)
    assert out[:5].isnan().all()


def test_rounding_and_clearing() -> None:
    x, half, old = torch.randn(ITEMS, 70), torch.zeros(ITEMS, 70).bfloat16(), torch.ones(ITEMS, 64)
    more = torch.randn(ITEMS, 70).bfloat16()
    wanted = (more.float() + x).bfloat16()
    program = Program()
    places = {
        name: program.operand(name, per_item=per_item(t))
        for name, t in (("x", x), ("half", half), ("more", more), ("old", old))
    }
    program.narrow(places["x"], places["half"], 70)
    program.narrow(places["x"], places["more"], 70, accumulate=True)
    program.clear(places["old"], 64)
    program.run({"x": x, "half": half, "more": more, "old": old}, ITEMS, 2)
    assert torch.equal(half, x.bfloat16())
    assert torch.equal(more, wanted)
    assert not old.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turned_a", [False, True])
@pytest.mark.parametrize("turned_b", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_products(dtype: torch.dtype, turned_a: bool, turned_b: bool, accumulate: bool) -> None:
    """Also of some rows, and of some columns of wider ones."""
    found = gemm_addresses()
    if found is None or (dtype == torch.bfloat16 and "gemm_bf16bf16f32_" not in found):
        pytest.skip("PyTorch was built without such a product of MKL's")
    rows, inner, columns = 6, 9, 5
    a = torch.randn(ITEMS, *((inner, rows) if turned_a else (rows, inner))).to(dtype)
    b = torch.randn(*((columns, inner) if turned_b else (inner, columns))).to(dtype)
    c = torch.randn(ITEMS, rows, columns + 2)
    began = c.clone()
    program = Program()
    left = matrix(program.operand("a", per_item=per_item(a)), a)
    right = matrix(program.operand("b"), b)
    left, right = left.T if turned_a else left, right.T if turned_b else right
    out = matrix(program.operand("c", per_item=per_item(c)), c)._replace(columns=columns)
    few = left.some_rows(2, 3, a.element_size()), out.some_rows(2, 3, c.element_size())
    program.multiply(few[0], right, few[1], dtype, accumulate=accumulate)
    program.run({"a": a, "b": b, "c": c}, ITEMS, 2)
    whole = (a.mT if turned_a else a).double() @ (b.mT if turned_b else b).double()
    wanted = began.double()
    wanted[:, 2:5, :columns] = whole[:, 2:5] + (began[:, 2:5, :columns] if accumulate else 0.0)
    assert torch.allclose(c.double(), wanted, atol=1e-5)


def test_items_may_pass_the_first_stages_alone() -> None:
    x, y = torch.randn(ITEMS, 16), torch.zeros(ITEMS, 16)
    program = Program()
    source, out = (program.operand(name, per_item=per_item(t)) for name, t in (("x", x), ("y", y)))
    program.copy(source, out, 16)
    program.clear(source, 16)
    assert [stage.rpartition(".")[2] for stage in program.stages] == ["copy", "clear"]
    program.run({"x": x, "y": y}, ITEMS, 2, stages=0)
    assert not y.any()
    program.run({"x": x, "y": y}, ITEMS, 2, stages=1)
    assert x.all()
    assert torch.equal(x, y)
    program.run({"x": x, "y": y}, ITEMS, 2)
    assert not x.any()


def test_a_kernel_with_too_many_words_is_refused() -> None:
    program = Program()
    with pytest.raises(ValueError, match="62 words, not 63"):
        program.add(Kernel("compressm.scan.runtime.program_kernels", "copy"), [0] * 63)


def test_halves_are_multiplied_only_by_instructions_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = {"amx_bf16": False}
    monkeypatch.setattr(program_module, "processor_has", capabilities.get)
    assert not can_multiply(torch.bfloat16)
    assert not can_multiply(torch.float64)
    assert can_multiply(torch.float32) == (gemm_addresses() is not None)
    capabilities["amx_bf16"] = True
    assert can_multiply(torch.bfloat16) == ("gemm_bf16bf16f32_" in (gemm_addresses() or {}))
