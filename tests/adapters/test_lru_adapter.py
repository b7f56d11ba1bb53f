"""The LRU's way into the systems theory and back, with every corner case of the write-back."""

import math

import pytest
import torch

from compressm.adapters import LRUAdapter
from compressm.compression.optimizer_state import replace_value
from compressm.layers import LRU
from compressm.lti import DiagonalSystem, balance, balanced_truncation, modal_truncation

ADAPTER = LRUAdapter()


def impulse_response(layer: LRU, length: int) -> torch.Tensor:
    """The layer's own, by running it: (length, H, H)."""
    u = torch.zeros(layer.input_dim, length, layer.input_dim, dtype=layer.B.dtype)
    u[:, 0] = torch.eye(layer.input_dim, dtype=layer.B.dtype)
    with torch.no_grad():
        return layer(u)[0].permute(1, 2, 0)


def layer_of(
    log_A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, dtype: torch.dtype = torch.float64
) -> LRU:
    """An LRU with given dynamics, D = 0."""
    layer = LRU(B.shape[1], len(log_A)).to(dtype)
    gamma = torch.sqrt(-torch.expm1(2 * log_A.real))
    with torch.no_grad():
        layer.nu.copy_(torch.log(-log_A.real))
        layer.theta.copy_(log_A.imag)
        layer.gamma_log.copy_(torch.log(gamma))
        layer.B.copy_(torch.stack(((B / gamma[:, None]).real, (B / gamma[:, None]).imag)))
        layer.C.copy_(torch.stack((C.real, C.imag)))
        layer.D.zero_()
    return layer


def write(layer: LRU, reduction: object) -> None:
    for name, update in ADAPTER.write_back(layer, reduction).items():  # type: ignore[arg-type]
        replace_value(getattr(layer, name), update.value)


def test_the_system_is_the_layer() -> None:
    torch.manual_seed(0)
    layer = LRU(4, 12).double()
    assert torch.allclose(ADAPTER.system(layer).impulse_response(60), impulse_response(layer, 60), atol=1e-10)


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_what_is_written_back_is_the_reduced_system(realization: str) -> None:
    torch.manual_seed(1)
    layer = LRU(3, 20).double()
    reduction = balanced_truncation(ADAPTER.system(layer), order=6, realization=realization)  # type: ignore[arg-type]
    write(layer, reduction)
    assert layer.state_dim == reduction.order
    assert layer.nu.shape == layer.theta.shape == layer.gamma_log.shape == (6,)
    assert torch.allclose(reduction.system.impulse_response(80), impulse_response(layer, 80), atol=1e-10)
    # gamma is the input normalisation of the new eigenvalues, and the free scale balances B against C.
    magnitude = torch.exp(-torch.exp(layer.nu))
    assert torch.allclose(torch.exp(layer.gamma_log), torch.sqrt(1 - magnitude**2), rtol=1e-8)
    rows, columns = layer.B.square().sum((0, 2)), layer.C.square().sum((0, 1))
    assert torch.allclose(rows, columns, rtol=1e-8)


def test_real_eigenvalues_of_either_sign() -> None:
    log_A = torch.tensor(
        [complex(-0.1, 0.0), complex(-0.2, math.pi), complex(-0.05, 1.0), complex(-2.0, 0.5)]
    )
    B = torch.tensor([[1.0, 0.5], [0.7, -1.0], [0.3 + 1j, 0.2], [1e-7, 1e-7j]], dtype=torch.complex128)
    C = torch.tensor([[1.0, 0.8, 0.5 - 0.5j, 1e-7]], dtype=torch.complex128)
    layer = layer_of(log_A.to(torch.complex128), B, torch.cat((C, 0.3 * C)))
    reduction = balanced_truncation(ADAPTER.system(layer), order=3)
    assert int(reduction.real_modes.sum()) == 2
    before = impulse_response(layer, 50)
    write(layer, reduction)
    assert torch.allclose(impulse_response(layer, 50), before, atol=1e-6)
    sines = torch.sin(layer.theta).abs()
    assert int((sines < 1e-12).sum()) == 2  # exactly on the real axis, one on each side
    assert torch.isfinite(layer.nu).all()
    u = torch.randn(2, 30, 2, dtype=torch.float64)
    layer(u)[0].square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())
    assert (layer.nu.grad.abs() > 0).all()


@pytest.mark.parametrize("magnitude", [0.0, 1e-300, 1e-30, 1e-9, 1 - 1e-6])
def test_magnitudes_near_zero_and_one(magnitude: float) -> None:
    torch.manual_seed(2)
    A = torch.tensor([0.9 * complex(math.cos(0.4), math.sin(0.4)), magnitude], dtype=torch.complex128)
    B = torch.randn(2, 2, dtype=torch.complex128)
    C = torch.randn(2, 2, dtype=torch.complex128)
    target = DiagonalSystem(A, B, C)
    keep_all = modal_truncation(target, order=2, kind="h2")
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 3e-4)):
        layer = LRU(2, 5).to(dtype)
        write(layer, keep_all)
        with torch.no_grad():
            layer.D.zero_()
        assert torch.isfinite(layer.nu).all()
        assert torch.isfinite(layer.gamma_log).all()
        assert torch.allclose(
            impulse_response(layer, 200).double(), target.impulse_response(200), atol=tolerance
        )


def test_nearly_defective_dynamics_stay_usable_in_single_precision() -> None:
    """Two almost equal eigenvalues with huge opposite residues: a Jordan block in all but name."""
    log_A = torch.log(torch.tensor([0.9, 0.9 - 1e-7, 0.5], dtype=torch.complex128))
    B = torch.tensor([[1.0], [1.0], [1e-3]], dtype=torch.complex128)
    C = torch.tensor([[1e5, -1e5, 1e-3]], dtype=torch.complex128)
    system = DiagonalSystem(None, B, C, log_A=log_A)
    reduction = balance(system, "real").truncate(order=2)
    layer = LRU(1, 3)
    write(layer, reduction)
    with torch.no_grad():
        layer.D.zero_()
    difference = impulse_response(layer, 300).double() - system.impulse_response(300)
    largest = system.impulse_response(300).abs().max()
    bound = reduction.error_bound
    assert bound is not None
    # What single precision loses on the written layer is small beside the map itself.
    assert difference.abs().max() <= bound + 1e-4 * largest


def test_a_silent_layer_becomes_one_silent_state() -> None:
    layer = LRU(2, 6)
    with torch.no_grad():
        layer.B.zero_()
    reduction = balance(ADAPTER.system(layer), "real").truncate(order=3)
    u = torch.randn(1, 10, 2)
    before = layer(u)[0]
    write(layer, reduction)
    assert layer.state_dim == 1
    assert torch.equal(layer(u)[0], before)


def test_a_full_feedthrough_is_refused() -> None:
    from compressm.lti.perturbation import singular_perturbation

    torch.manual_seed(3)
    layer = LRU(3, 8)
    with pytest.raises(ValueError, match="the D of an LRU is a vector"):
        ADAPTER.write_back(layer, singular_perturbation(ADAPTER.system(layer), 4, "real"))
