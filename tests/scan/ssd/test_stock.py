"""fla's kernels are called in their own terms, where they are right and faster. A stand-in plays them."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from compressm.scan import linear_attention_scan, ssd
from compressm.scan.ssd import preference, stock
from compressm.scan.ssd.chunked import chunked_scan
from compressm.scan.ssd.reference import reference_scan

CALLS: list[dict[str, Any]] = []
both_decays = pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])


def stand_in(name: str) -> Callable[..., Any]:
    """fla's present signature: time before heads, logarithms of decays, states (batch, heads, K, V)."""

    def function(
        q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float | None = None,
        initial_state: Tensor | None = None, output_final_state: bool = False, **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        assert not kwargs
        assert g.shape == (q.shape if name == "chunk_gla" else q.shape[:3])
        CALLS.append({"name": name, "state": initial_state is not None, "scale": scale})
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        y, final = reference_scan(q, k, v, g, initial_state, scale=scale)
        return y, final if output_final_state else None

    return function


def older(function: Callable[..., Any]) -> Callable[..., Any]:
    """A version that takes heads before time unless told."""

    def chunk(*given: Tensor, head_first: bool = True, **options: Any) -> Any:
        assert not head_first
        return function(*given, **options)

    return chunk


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    CALLS.clear()
    stock.stock_function.cache_clear()
    for name in ("fla", "fla.ops", stock.SCALAR[0], stock.VECTOR[0]):
        module: Any = ModuleType(name)
        module.__spec__ = SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, module)
    for name, function in (stock.SCALAR, stock.VECTOR):
        monkeypatch.setattr(sys.modules[name], function, stand_in(function), raising=False)
    yield
    stock.stock_function.cache_clear()


def chosen(monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    """CPU tensors are treated as those of a card, and the measurement's answer is given."""
    monkeypatch.setattr(ssd, "serves", lambda *_: True)
    monkeypatch.setattr(ssd, "stock_is_faster", lambda *_, **__: faster)

    def own(*given: Any) -> tuple[Tensor, Tensor]:
        CALLS.append({"name": "own"})
        return chunked_scan(*given[:5], scale=given[5], chunk_size=16)

    monkeypatch.setattr(ssd, "scan_on_kernels", own)


@pytest.mark.usefixtures("installed")
@both_decays
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("version", ["present", "older"])
def test_operands_and_results_and_gradients_are_brought_over(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, per_channel: bool, state: bool, version: str
) -> None:
    module, name = stock.VECTOR if per_channel else stock.SCALAR
    if version == "older":
        monkeypatch.setattr(sys.modules[module], name, older(stand_in(name)))
    chosen(monkeypatch, faster=True)
    given = oracle.operands(2, 7, 2, 3, 5, torch.float32, per_channel=per_channel, state=state)
    wanted = oracle.gradients(oracle.naive, oracle.wide(given), scale=0.3)
    wrong = oracle.errors(oracle.gradients(linear_attention_scan, given, scale=0.3), wanted)
    assert max(wrong.values()) < 2e-6, wrong
    (call,) = CALLS
    assert call == {"name": name, "state": state, "scale": 0.3}


@pytest.mark.usefixtures("installed")
def test_only_where_it_is_faster_and_no_other_form_is_named(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = oracle.operands(1, 4, 1, 2, 3, torch.float32, per_channel=False)
    chosen(monkeypatch, faster=True)
    for options in ({"form": "chunked"}, {"form": "reference"}, {"chunk_size": 16}):
        linear_attention_scan(**given, **options)
    assert not CALLS
    monkeypatch.setattr(ssd, "stock_is_faster", lambda *_, **__: False)
    linear_attention_scan(**given)
    assert [call["name"] for call in CALLS] == ["own"]


def card(log_decay: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Any, Tensor]:
    return SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype), log_decay


@pytest.mark.usefixtures("installed", "tf32")
def test_it_serves_only_what_it_computes_right() -> None:
    weak = torch.full((1, 4, 2), -1.0)
    assert stock.serves(*card(weak))
    assert stock.serves(*card(weak[..., None]))
    assert not stock.serves(*card(100.5 * weak))
    assert not stock.serves(*card(weak * float("inf")))
    assert not stock.serves(*card(weak, torch.float64))
    assert not stock.serves(torch.zeros(1, 4, 2, 3), weak)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert not stock.serves(*card(weak))


@pytest.mark.usefixtures("tf32")
def test_without_the_package_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    stock.stock_function.cache_clear()
    monkeypatch.setattr(stock, "PACKAGE", "compressm_no_such_package")
    assert not stock.serves(*card(torch.zeros(1, 4, 2)))
    x = torch.ones(1, 2, 1, 3)
    with pytest.raises(RuntimeError, match="not installed"):
        stock.stock_scan(x, x, x, -x, None, scale=1.0)
    stock.stock_function.cache_clear()


@pytest.mark.usefixtures("installed", "tf32")
@pytest.mark.parametrize("broken", ["module", "function"])
def test_a_broken_installation_is_told(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    if broken == "module":
        monkeypatch.delitem(sys.modules, stock.SCALAR[0])
    else:
        monkeypatch.delattr(sys.modules[stock.SCALAR[0]], stock.SCALAR[1])
    with pytest.warns(UserWarning, match="install a flash-linear-attention"):
        assert not stock.serves(*card(torch.zeros(1, 4, 2)))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, float]:
    """A machine without measurements; its clock gives what is set, after one run of what it times."""
    times = {"own": 2.0, "stock": 1.0}
    monkeypatch.setenv("COMPRESSM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(preference, "_known", {})
    monkeypatch.setattr(preference, "device_name", lambda _: "card")

    def own(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
        CALLS.append({"name": "own", "training": given[-1]})
        y, final = chunked_scan(*given[:5], scale=given[5], chunk_size=16)
        return y, final, y

    def seconds(run: Callable[[], object]) -> float:
        run()
        return times["own" if CALLS[-1]["name"] == "own" else "stock"]

    monkeypatch.setattr(preference, "linear_attention_op", own)
    monkeypatch.setattr(preference, "seconds", seconds)
    return times


def asked(oracle: SimpleNamespace, L: int = 5, *, training: bool = True) -> bool:
    given = oracle.operands(3, L, 2, 3, 4, torch.float32, per_channel=True)
    return preference.stock_is_faster(given["q"], given["v"], given["log_decay"], training=training)


@pytest.mark.usefixtures("installed")
def test_both_are_timed_once_and_the_answer_is_kept(
    oracle: SimpleNamespace, timed: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_rng_state()
    assert asked(oracle)
    assert torch.equal(torch.get_rng_state(), before)
    assert [call["name"] for call in CALLS] == ["own", "chunk_gla"]
    assert CALLS[0]["training"]
    # From now on neither this process nor a later one measures, whatever the clock would say.
    timed["stock"] = 3.0
    assert asked(oracle, L=8)
    monkeypatch.setattr(preference, "_known", {})
    assert asked(oracle)
    assert len(CALLS) == 2
    # Other lengths and inference are other cases.
    assert not asked(oracle, L=9)
    assert not asked(oracle, training=False)
    assert [call.get("training") for call in CALLS if call["name"] == "own"] == [True, True, False]
    assert len(json.loads(preference.file().read_text())) == 3


@pytest.mark.usefixtures("installed", "timed")
def test_nothing_is_measured_while_a_graph_is_captured(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preference, "capturing", lambda _: True)
    assert not asked(oracle)
    assert not CALLS
    monkeypatch.setattr(preference, "capturing", lambda _: False)
    assert asked(oracle)


def test_long_batches_are_measured_by_a_part() -> None:
    q, v = torch.empty(300, 1000, 2, 12, device="meta"), torch.empty(300, 1000, 2, 5, device="meta")
    case = preference.Case.of(q, v, q[..., 0], training=False)
    assert case == (32, 1024, 2, 12, 5, False, False)
    case = preference.Case.of(q.new_empty(2, 10**6, 1, 4), v, q[..., 0], training=True)
    assert (case.batch, case.L) == (1, preference.MOST_STEPS)


@pytest.mark.usefixtures("installed", "timed")
@pytest.mark.parametrize("text", ["no", "[]", '{"a": {"own": 1}}'])
def test_a_file_of_something_else_is_named(oracle: SimpleNamespace, text: str) -> None:
    preference.file().write_text(text)
    with pytest.raises(ValueError, match=r"linear_attention.json does not hold measurements .* delete it"):
        asked(oracle)
