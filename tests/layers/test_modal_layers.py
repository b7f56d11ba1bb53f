"""Every layer with one system against a plain complex loop, in all its ways of running."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compressm.layers import LRU, S4D, S5, RotationSSM, StateSpaceLayer
from compressm.layers.hippo import hippo_legs_normal, legs_modes
from compressm.layers.modal import ModalLayer
from compressm.models import SequenceClassifier

Definition = Callable[[ModalLayer], tuple[Tensor, Tensor, Tensor]]


def lru_definition(layer: LRU) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues, input and output matrix (of y = Re(C x)), from the formulas alone."""
    lam = torch.exp(torch.complex(-torch.exp(layer.nu.double()), layer.theta.double()))
    return lam, torch.exp(layer.gamma_log.double())[:, None] * as_complex(layer.B), as_complex(layer.C)


def s5_definition(layer: S5) -> tuple[Tensor, Tensor, Tensor]:
    a = torch.complex(-torch.exp(layer.log_A_real.double()), layer.A_imag.double())
    lam = torch.exp(a * torch.exp(layer.log_dt.double()))
    return lam, ((lam - 1) / a)[:, None] * as_complex(layer.B), 2 * as_complex(layer.C)


def rotation_definition(layer: RotationSSM) -> tuple[Tensor, Tensor, Tensor]:
    """The real system of 2N states itself, as a dense matrix; complex only in type."""
    rho, theta, states = torch.sigmoid(layer.rho_logit.double()), layer.theta.double(), layer.state_dim
    A = torch.zeros(2 * states, 2 * states, dtype=torch.float64)
    for n in range(states):
        turn = torch.stack(
            (torch.cos(theta[n]), -torch.sin(theta[n]), torch.sin(theta[n]), torch.cos(theta[n]))
        )
        rows = torch.tensor([n, n, states + n, states + n])
        columns = torch.tensor([n, states + n, n, states + n])
        A = A.index_put((rows, columns), rho[n] * turn)
    return tuple(x.to(torch.complex128) for x in (A, layer.B.double(), layer.C.double()))  # type: ignore[return-value]


def as_complex(pair: Tensor) -> Tensor:
    return torch.complex(pair[0].double(), pair[1].double())


def run(
    definition: tuple[Tensor, Tensor, Tensor], D: Tensor, u: Tensor, x: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step at a time in complex128; ``x`` is the state before the first."""
    A, B, C = definition
    A = torch.diag(A) if A.dim() == 1 else A
    u = u.to(torch.complex128)
    x = torch.zeros(u.shape[0], A.shape[0], dtype=torch.complex128) if x is None else x
    outputs = []
    for k in range(u.shape[1]):
        x = x @ A.T + u[:, k] @ B.T
        outputs.append((x @ C.T).real)
    direct = D.double() * u.real
    return torch.stack(outputs, 1) + direct, x


CASES = [
    (lambda: LRU(4, 9), lru_definition),
    (lambda: S5(4, 9), s5_definition),
    (lambda: S5(3, 8, blocks=2, dt_min=0.01, dt_max=0.5), s5_definition),
    (lambda: RotationSSM(4, 9), rotation_definition),
]
NAMES = ["lru", "s5", "s5-blocks", "rotation"]


@pytest.mark.parametrize(("make", "definition"), CASES, ids=NAMES)
@pytest.mark.parametrize("with_state", [False, True])
def test_forward_and_step_equal_the_definition(
    make: Callable[[], ModalLayer], definition: Definition, with_state: bool
) -> None:
    torch.manual_seed(0)
    layer = make()
    u = torch.randn(3, 37, layer.input_dim)
    state = torch.randn(3, 2, layer.state_dim) if with_state else None
    start = None
    if state is not None:
        start = torch.complex(state[:, 0].double(), state[:, 1].double())
        if definition is rotation_definition:
            start = state.flatten(1).to(torch.complex128)
    expected, expected_state = run(definition(layer), layer.D, u, start)
    if definition is rotation_definition:
        first, second = expected_state.real.tensor_split(2, dim=1)
        expected_state = torch.complex(first, second)
    y, last = layer(u, state)
    scale = expected.abs().max().item()
    assert torch.allclose(y.double(), expected, atol=1e-5 * scale)
    assert torch.allclose(
        last.double(), torch.stack((expected_state.real, expected_state.imag), 1), atol=1e-5 * scale
    )
    running = state
    for k in range(u.shape[1]):
        y_k, running = layer.step(u[:, k], running)
        assert torch.allclose(y_k.double(), expected[:, k], atol=1e-5 * scale)
    assert torch.allclose(running, last, atol=1e-5 * scale)


@pytest.mark.parametrize(("make", "definition"), CASES, ids=NAMES)
def test_gradients_equal_those_of_the_definition(
    make: Callable[[], ModalLayer], definition: Definition
) -> None:
    torch.manual_seed(1)
    layer = make().double()
    u = torch.randn(2, 19, layer.input_dim, dtype=torch.float64)
    weight = torch.randn(2, 19, layer.input_dim, dtype=torch.float64)
    parameters = dict(layer.named_parameters())
    expected = torch.autograd.grad(
        (run(definition(layer), layer.D, u)[0] * weight).sum(), list(parameters.values())
    )
    actual = torch.autograd.grad((layer(u)[0] * weight).sum(), list(parameters.values()))
    for name, a, e in zip(parameters, actual, expected, strict=True):
        assert torch.allclose(a, e, rtol=1e-8, atol=1e-10 * e.abs().max().item()), name


@pytest.mark.parametrize(
    ("make", "definition"),
    [
        (lambda: LRU(3, 7, bidirectional=True), lru_definition),
        (lambda: S5(3, 7, bidirectional=True), s5_definition),
    ],
    ids=["lru", "s5"],
)
def test_bidirectional_is_the_sum_of_two_directions(
    make: Callable[[], ModalLayer], definition: Definition
) -> None:
    torch.manual_seed(2)
    layer = make().double()
    assert layer.bidirectional
    assert layer.C.shape == (2, 6, 7)
    u = torch.randn(2, 23, 3, dtype=torch.float64)
    A, B, C = definition(layer)
    nothing = torch.zeros(3)
    ahead = run((A, B, C[:3]), layer.D, u)[0]
    back = run((A, B, C[3:]), nothing, u.flip(1))[0].flip(1)
    assert torch.allclose(layer(u)[0], ahead + back, atol=1e-12)
    # Causal it is not: the first output feels the last input.
    moved = u.clone()
    moved[:, -1] += 1.0
    assert not torch.allclose(layer(moved)[0][:, 0], layer(u)[0][:, 0], atol=1e-6)


@pytest.mark.parametrize("make", [LRU, S5])
def test_a_bidirectional_layer_has_no_steps_and_no_state_before_the_first(make: type[LRU] | type[S5]) -> None:
    layer = make(3, 4, bidirectional=True)
    assert "bidirectional=True" in repr(layer)
    with pytest.raises(RuntimeError, match=r"cannot step\(\).*bidirectional=False"):
        layer.step(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="takes no state"):
        layer(torch.zeros(2, 5, 3), torch.zeros(2, 2, 4))


@pytest.mark.parametrize("mixer", ["lru-bi", "s5-bi"])
def test_padding_does_not_reach_the_backward_direction(mixer: str) -> None:
    torch.manual_seed(3)
    model = SequenceClassifier(2, 3, num_layers=2, model_dim=4, state_dim=6, mixer=mixer).eval()
    for block in model.blocks:
        block.norm.running_mean.normal_()  # zero inputs would not be zero after the norm
    x = torch.randn(3, 21, 2)
    lengths = torch.tensor([21, 13, 5])
    together = model(x, lengths)
    for index, length in enumerate(lengths.tolist()):
        alone = model(x[index : index + 1, :length])
        assert torch.allclose(together[index], alone[0], atol=1e-5)
    elsewhere = x.clone()
    elsewhere[1, 13:] = 100.0
    assert torch.equal(model(elsewhere, lengths), together)


def test_s5_starts_as_the_dense_hippo_system() -> None:
    """Half of the eigenbasis, doubled in the output, is the real HiPPO system with its own B and C."""
    torch.manual_seed(4)
    layer = S5(3, 6, dt_min=0.07, dt_max=0.07).double()
    # The eigenvectors of the other half are conjugates, so the real matrices are twice the real parts. The
    # layer's parameters went through float32.
    _, V = legs_modes(6)
    B = 2 * (V @ as_complex(layer.B)).real
    C = 2 * (as_complex(layer.C) @ V.mH).real
    A = hippo_legs_normal(12)
    Ad = torch.linalg.matrix_exp(0.07 * A)
    Bd = torch.linalg.solve(A, (Ad - torch.eye(12, dtype=torch.float64)) @ B)
    response = torch.stack([C @ torch.linalg.matrix_power(Ad, k) @ Bd for k in range(30)])
    u = torch.zeros(3, 30, 3, dtype=torch.float64)
    u[:, 0] = torch.eye(3)
    actual = layer(u)[0].permute(1, 2, 0) - torch.diag(layer.D) * (torch.arange(30) == 0)[:, None, None]
    assert torch.allclose(actual, response, atol=1e-6 * response.abs().max().item())
    # And B and C have the sizes that their real forms were drawn with.
    wide = S5(400, 50)
    real_B = 2 * (legs_modes(50)[1] @ as_complex(wide.B)).real
    assert real_B.std().item() == pytest.approx(1 / math.sqrt(400), rel=0.03)
    real_C = 2 * (as_complex(wide.C) @ legs_modes(50)[1].mH).real
    assert real_C.std().item() == pytest.approx(1 / math.sqrt(100), rel=0.03)


def test_rotations_start_on_the_ring_with_states_of_equal_size() -> None:
    torch.manual_seed(5)
    layer = RotationSSM(8, 20_000, r_min=0.5, r_max=0.99)
    rho = torch.sigmoid(layer.rho_logit.double())
    assert rho.min() >= 0.5 - 1e-6
    assert rho.max() <= 0.99 + 1e-6
    assert (rho**2).mean().item() == pytest.approx((0.25 + 0.99**2) / 2, abs=0.01)
    assert layer.theta.min() >= 0
    assert layer.theta.max() <= math.pi
    power = layer.B.double().square().sum(1).view(2, -1).sum(0) / (1 - rho**2)  # E|x|^2 under white noise
    assert power.mean().item() == pytest.approx(1.0, rel=0.03)
    slow = rho > 0.9
    assert power[slow].mean().item() == pytest.approx(power[~slow].mean().item(), rel=0.1)
    edge = RotationSSM(2, 50, r_min=0.0, r_max=1e-9)
    assert torch.isfinite(edge.rho_logit).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: S5(0, 4), "S5: input_dim is 0"),
        (lambda: S5(4, 6, blocks=4), "4 blocks cannot share 6 states"),
        (lambda: S5(4, 6, dt_min=0.0), "S5: dt_min=0.0"),
        (lambda: RotationSSM(4, 0), "RotationSSM: state_dim is 0"),
        (lambda: RotationSSM(4, 4, r_max=1.0), r"RotationSSM: the ring \[0.9, 1.0\]"),
    ],
)
def test_bad_sizes_are_refused(build: Callable[[], ModalLayer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("make", [S5, RotationSSM])
def test_bad_inputs_are_refused(make: type[S5] | type[RotationSSM]) -> None:
    layer = make(4, 8)
    with pytest.raises(ValueError, match=r"\(2, 10, 3\); expected \(batch, L, 4\)"):
        layer(torch.zeros(2, 10, 3))
    with pytest.raises(ValueError, match=r"expected \(batch, 4\)"):
        layer.step(torch.zeros(2, 10, 4))
    with pytest.raises(ValueError, match="from before a cut"):
        layer(torch.zeros(2, 10, 4), torch.zeros(2, 2, 16))


@pytest.mark.parametrize("make", [LRU, S5, RotationSSM, S4D])
def test_layers_compile_as_one_graph(make: Callable[[int, int], StateSpaceLayer]) -> None:
    torch.manual_seed(6)
    layer = make(3, 5)
    u = torch.randn(2, 16, 3)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(u)[0], layer(u)[0], atol=1e-6)
