"""Both forms against the definition in float64, outputs, windows and every gradient."""

from types import SimpleNamespace

import pytest
import torch

from compressm.scan.short_convolution import short_convolution

FORMS = ("kernel", "reference")
# One step, shorter than the filter, one chunk, odd, several chunks; channels below, at and above a vector.
SHAPES = [(1, 1, 5, 4), (2, 2, 33, 4), (3, 32, 32, 2), (2, 45, 37, 8), (1, 101, 70, 3), (2, 66, 64, 1)]
# Four steps and whole vectors have a way of their own; one run of chunks, or several, of which the last is
# shorter than the filter, or does not exist.
SHAPES += [(1, 2, 32, 4), (2, 3, 32, 4), (1, 33, 64, 4), (16, 70, 32, 4), (1, 96, 96, 4), (3, 290, 32, 4)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("given", [(), ("bias",), ("window",), ("bias", "window")])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients(
    oracle: SimpleNamespace, shape: tuple[int, int, int, int], given: tuple[str, ...], silu: bool, form: str
) -> None:
    made = oracle.operands(*shape, given=given)
    wanted = oracle.results(oracle.naive, oracle.wide(made), silu=silu)
    found = oracle.results(short_convolution, made, silu=silu, form=form)
    for name, error in oracle.errors(found, wanted).items():
        assert error < 3e-6, name


@pytest.mark.parametrize("filters", [torch.bfloat16, torch.float32], ids=["half", "autocast"])
@pytest.mark.parametrize("given", [(), ("bias", "window")])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_half_precision_each_number_is_rounded_once(
    oracle: SimpleNamespace, shape: tuple[int, int, int, int], given: tuple[str, ...], filters: torch.dtype
) -> None:
    """Against the definition in float64 of the same bfloat16 inputs: half a unit in the last place, 2^-8."""
    made = oracle.operands(*shape, torch.bfloat16, given=given)
    made |= {name: made[name].detach().to(filters).requires_grad_() for name in made if name != "x"}
    wanted = oracle.results(oracle.naive, oracle.wide(made), silu=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=filters == torch.float32):
        found = oracle.results(short_convolution, made, silu=True, form="kernel")
    assert found["y"].dtype == torch.bfloat16
    for name, error in oracle.errors(found, wanted).items():
        # Gradients of outputs were rounded before the kernel saw them, and those of weights are sums of many.
        assert error < (2**-8 + 1e-6 if name in ("y", "final") else 2**-6), name


@pytest.mark.parametrize("through", ["y", "final"])
@pytest.mark.parametrize("L", [2, 3, 34, 40])
@pytest.mark.parametrize(("channels", "K"), [(35, 5), (64, 4)])
def test_gradients_of_one_result_alone(
    oracle: SimpleNamespace, channels: int, K: int, L: int, through: str
) -> None:
    made = oracle.operands(2, L, channels, K)
    wanted = oracle.results(oracle.naive, oracle.wide(made), through=through, silu=True)
    found = oracle.results(short_convolution, made, through=through, silu=True, form="kernel")
    for name, error in oracle.errors(found, wanted).items():
        assert error < 3e-6, name


def test_the_reference_in_float64_is_its_own_gradient(oracle: SimpleNamespace) -> None:
    made = oracle.operands(2, 5, 3, 4, torch.float64)
    torch.autograd.gradcheck(
        lambda *given: short_convolution(*given, silu=True), tuple(made.values()), fast_mode=True
    )


@pytest.mark.parametrize("channels", [40, 64])
@pytest.mark.parametrize("layout", ["slice", "transposed", "expanded"])
def test_inputs_and_gradients_may_lie_anywhere(oracle: SimpleNamespace, layout: str, channels: int) -> None:
    made = oracle.operands(2, 70, channels, 4)
    plain = oracle.results(short_convolution, made, silu=True, form="kernel")
    x = made["x"].detach()
    if layout == "slice":
        whole = torch.full((2, 70, 100 + channels), torch.nan)
        whole[..., 31 : 31 + channels] = x
        x = whole[..., 31 : 31 + channels]
    elif layout == "transposed":
        x = x.mT.contiguous().mT
    else:
        x = x[:1].expand(2, 70, channels)
        made["x"] = x.contiguous().requires_grad_()
        plain = oracle.results(short_convolution, made, silu=True, form="kernel")
    assert not x.is_contiguous()
    made["x"] = x.requires_grad_()

    def through_a_slice(**given: object) -> tuple[torch.Tensor, torch.Tensor]:
        """A consumer that hands back gradients with the strides of a wider tensor."""
        y, final = short_convolution(**given, form="kernel")  # type: ignore[arg-type]
        return torch.cat((y, y), dim=2)[..., :channels], final

    found = oracle.results(through_a_slice, made, silu=True)
    for name, value in plain.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    ("dtype", "L", "on_kernels"),
    [
        (torch.float32, 9, True),
        (torch.float32, 1, False),
        (torch.float64, 9, False),
        (torch.bfloat16, 9, True),
        (torch.float16, 9, False),
    ],
)
def test_auto_streams_in_plain_pytorch_and_serves_other_types(
    oracle: SimpleNamespace, dtype: torch.dtype, L: int, on_kernels: bool
) -> None:
    y, _ = short_convolution(**oracle.operands(2, L, 6, 4, dtype))
    assert y.dtype == dtype
    assert y.grad_fn is not None
    assert ("short_convolution" in y.grad_fn.name()) is on_kernels
