"""Every form gives the definition: outputs, final state and all gradients."""

from types import SimpleNamespace

import pytest
import torch

from compressm.scan.selective import selective_scan

SHAPES = [
    pytest.param(1, 1, 1, 1, id="one of everything"),
    pytest.param(2, 1, 5, 12, id="one step"),
    pytest.param(1, 7, 3, 1, id="one state"),
    pytest.param(2, 33, 40, 12, id="a step more than a chunk"),
    pytest.param(1, 16, 32, 3, id="half a chunk"),
    pytest.param(1, 32, 33, 2, id="a whole chunk, a channel more than a vector"),
    pytest.param(3, 9, 2, 93, id="93 states"),
    pytest.param(1, 71, 130, 2, id="five blocks of channels"),
    pytest.param(17, 5, 65, 2, id="many sequences"),
]
OPTIONS = [
    pytest.param((), False, id="plain"),
    pytest.param(("D", "z", "delta_bias", "state"), True, id="all"),
    pytest.param(("D",), True, id="D, softplus"),
    pytest.param(("z",), False, id="z"),
    pytest.param(("delta_bias",), True, id="bias, softplus"),
    pytest.param(("delta_bias", "state"), False, id="bias, state"),
]


@pytest.mark.parametrize(("batch", "L", "d", "N"), SHAPES)
def test_every_shape(oracle: SimpleNamespace, batch: int, L: int, d: int, N: int) -> None:
    given = oracle.operands(batch, L, d, N, torch.float32)
    exact = oracle.wide(given)
    wanted = oracle.gradients(oracle.naive, exact, delta_softplus=True)
    found = oracle.gradients(selective_scan, given, delta_softplus=True, form="scan")
    wrong = oracle.errors(found, wanted)
    assert max(wrong.values()) < 3e-6, wrong
    reference = oracle.gradients(selective_scan, exact, delta_softplus=True, form="reference")
    wrong = oracle.errors(reference, wanted)
    assert max(wrong.values()) < 1e-12, wrong


@pytest.mark.parametrize(("optional", "softplus"), OPTIONS)
@pytest.mark.parametrize("through", ["y", "final", "both"])
def test_every_option(
    oracle: SimpleNamespace, optional: tuple[str, ...], softplus: bool, through: str
) -> None:
    given = oracle.operands(2, 37, 9, 3, torch.float32, given=optional)
    exact = oracle.wide(given)
    options = {"through": through, "delta_softplus": softplus}
    wanted = oracle.gradients(oracle.naive, exact, **options)
    wrong = oracle.errors(oracle.gradients(selective_scan, given, form="scan", **options), wanted)
    assert max(wrong.values()) < 3e-6, wrong
    wrong = oracle.errors(oracle.gradients(selective_scan, exact, form="reference", **options), wanted)
    assert max(wrong.values()) < 1e-12, wrong


def test_gradients_of_the_reference_are_those_of_finite_differences(oracle: SimpleNamespace) -> None:
    given = oracle.operands(2, 3, 2, 2, torch.float64)
    names = list(given)

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return selective_scan(**dict(zip(names, values, strict=True)), delta_softplus=True)

    assert torch.autograd.gradcheck(run, tuple(given.values()))


def test_auto_takes_the_kernels_where_they_serve(oracle: SimpleNamespace) -> None:
    narrow = oracle.operands(2, 40, 5, 4, torch.float32)
    assert torch.equal(selective_scan(**narrow)[0], selective_scan(**narrow, form="scan")[0])
    exact = oracle.operands(2, 40, 5, 4, torch.float64)
    assert torch.equal(selective_scan(**exact)[0], selective_scan(**exact, form="reference")[0])


def test_softplus_to_its_last_digits() -> None:
    """With u, B, C and one state of rate 0, the output of a single step is the time step itself."""
    delta = torch.linspace(-100.0, 40.0, 80_000).view(-1, 1, 4)
    ones = torch.ones(delta.shape[0], 1, 1)
    y, _ = selective_scan(
        torch.ones_like(delta), delta, torch.zeros(4, 1), ones, ones, delta_softplus=True, form="scan"
    )
    exact = torch.nn.functional.softplus(delta.double(), threshold=100.0)
    # Below -2 it is an exponential, with the rounding of its exponent in log 2.
    allowed = exact * (3e-7 + 1.2e-7 * (-delta.double() - 2).clamp(min=0)) + 2.0**-63
    assert ((y.double() - exact).abs() <= allowed).all()


def test_decays_to_their_last_digits() -> None:
    """With no input, a state of 1 becomes ``exp(delta A)``: to one rounding of the exponent and two more."""
    exponent = torch.linspace(-60.0, 0.0, 40_000).view(-1, 1, 4)
    nothing = torch.zeros(exponent.shape[0], 1, 1)
    one = torch.ones(exponent.shape[0], 4, 1)
    _, final = selective_scan(
        torch.zeros_like(exponent), -exponent, -torch.ones(4, 1), nothing, nothing, state=one, form="scan"
    )
    exact = exponent.double().exp().view_as(final)
    allowed = exact * (2e-7 + 1.5e-7 * exponent.double().abs().view_as(final))
    below = exact < 2.0**-64
    assert ((final.double() - exact).abs() <= allowed)[~below].all()
    assert (final[below] == 0).all()
    assert below.any()
    assert final[-1, -1, 0] == 1
