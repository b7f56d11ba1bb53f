"""mamba-ssm's kernel is called in its own layout, and only where its result is right. A stand-in plays it."""

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from compressm.scan import selective, selective_scan
from compressm.scan.selective import stock

CALLS: list[dict[str, Any]] = []


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    z: Tensor | None = None, delta_bias: Tensor | None = None, delta_softplus: bool = False,
    return_last_state: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The signature and layout of mamba-ssm's: (batch, d, L), (batch, N, L); the state is (batch, d, N)."""
    (batch, d, L), N = u.shape, A.shape[1]
    assert return_last_state
    assert delta.shape == (batch, d, L)
    assert A.shape == (d, N)
    assert B.shape == C.shape == (batch, N, L)
    assert z is None or z.shape == (batch, d, L)
    CALLS.append({"D": D, "z": z, "delta_bias": delta_bias})
    delta = delta if delta_bias is None else delta + delta_bias[:, None]
    delta = torch.nn.functional.softplus(delta) if delta_softplus else delta
    h, outputs = u.new_zeros(batch, d, N), []
    for t in range(L):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta * u)[:, :, t, None] * B[:, None, :, t]
        outputs.append((h * C[:, None, :, t]).sum(-1))
    y = torch.stack(outputs, dim=-1)
    y = y if D is None else y + D[:, None] * u
    return y if z is None else y * torch.nn.functional.silu(z), h


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    CALLS.clear()
    stock.stock_function.cache_clear()
    for name in ("mamba_ssm", "mamba_ssm.ops", stock.MODULE):
        module = ModuleType(name)
        module.__spec__ = SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules[stock.MODULE], "selective_scan_fn", selective_scan_fn, raising=False)
    yield
    stock.stock_function.cache_clear()


def on_card(dtype: torch.dtype = torch.float32) -> Any:
    return SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("optional", [(), ("D", "z", "delta_bias")])
def test_operands_and_results_are_brought_into_order(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, optional: tuple[str, ...]
) -> None:
    given = oracle.operands(2, 7, 3, 5, torch.float32, given=optional)
    given = {name: value.detach() for name, value in given.items()}
    wanted = oracle.naive(**oracle.wide(given), delta_softplus=True)
    monkeypatch.setattr(selective, "serves", lambda *_: True)
    found = selective_scan(**given, delta_softplus=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    assert len(CALLS) == 1
    assert [name for name, value in CALLS[0].items() if value is not None] == list(optional)


@pytest.mark.usefixtures("installed")
def test_it_serves_only_what_it_computes_right() -> None:
    A = torch.zeros(3, 256)
    assert stock.serves(on_card(), A, None)
    assert not stock.serves(on_card(), torch.zeros(3, 257), None)
    assert not stock.serves(on_card(), A, torch.zeros(2, 3, 256))
    assert not stock.serves(on_card(torch.float64), A, None)
    assert not stock.serves(torch.zeros(2, 4, 3), A, None)


@pytest.mark.usefixtures("installed")
def test_training_and_named_forms_never_use_it(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selective, "serves", lambda *_: True)
    given = oracle.operands(1, 4, 2, 3, torch.float32, given=())
    selective_scan(**given)
    with torch.no_grad():
        selective_scan(**given, form="scan")
        selective_scan(**given, form="reference")
        assert not CALLS
        selective_scan(**given)
    assert len(CALLS) == 1


def test_without_mamba_ssm_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    stock.stock_function.cache_clear()
    monkeypatch.setattr(stock, "MODULE", "compressm_no_such_package.interface")
    assert not stock.serves(on_card(), torch.zeros(3, 5), None)
    u = torch.ones(1, 2, 3)
    with pytest.raises(RuntimeError, match="not installed"):
        stock.stock_scan(u, u, u[0].mT, u, u, None, None, None, delta_softplus=False)
    stock.stock_function.cache_clear()


@pytest.mark.usefixtures("installed")
def test_a_broken_installation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, stock.MODULE)
    with pytest.warns(UserWarning, match="reinstall mamba-ssm"):
        assert not stock.serves(on_card(), torch.zeros(3, 5), None)
