"""What holds beyond the formula: carried windows, clean buffers, repeatable bits."""

from types import SimpleNamespace

import pytest
import torch

from compressm.scan.short_convolution import short_convolution


@pytest.mark.usefixtures("poisoned_buffers")
@pytest.mark.parametrize("given", [(), ("bias", "window")])
def test_no_unwritten_memory_is_read(oracle: SimpleNamespace, given: tuple[str, ...]) -> None:
    made = oracle.operands(3, 45, 37, 4, given=given)
    for name, value in oracle.results(short_convolution, made, silu=True, form="kernel").items():
        assert value.isfinite().all(), name


@pytest.mark.parametrize("cut", [1, 2, 32, 41])
def test_carrying_the_window_over_a_split_changes_nothing(oracle: SimpleNamespace, cut: int) -> None:
    made = {name: value.detach() for name, value in oracle.operands(2, 70, 37, 5).items()}
    y, final = short_convolution(**made, form="kernel")
    x, window = made.pop("x"), made.pop("window")
    first, window = short_convolution(x[:, :cut], window=window, **made, form="kernel")
    second, window = short_convolution(x[:, cut:], window=window, **made, form="kernel")
    assert torch.equal(torch.cat((first, second), dim=1), y)
    assert torch.equal(window, final)


def test_the_same_bits_every_time_on_any_number_of_threads(oracle: SimpleNamespace) -> None:
    made = oracle.operands(3, 300, 80, 4)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            found.append(oracle.results(short_convolution, made, silu=True, form="kernel"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(value, other[name]), name


def test_extreme_inputs_of_silu_stay_finite(oracle: SimpleNamespace) -> None:
    made = oracle.operands(1, 8, 4, 2)
    made["x"] = (1e4 * made["x"].detach()).requires_grad_()
    wanted = oracle.results(oracle.naive, oracle.wide(made), silu=True)
    found = oracle.results(short_convolution, made, silu=True, form="kernel")
    for name, error in oracle.errors(found, wanted).items():
        assert error < 3e-6, name


def test_under_autocast_products_are_in_half_precision(oracle: SimpleNamespace) -> None:
    made = {name: value.detach() for name, value in oracle.operands(2, 9, 6, 4).items()}
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = short_convolution(**made)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), short_convolution(**made)[0], rtol=0.05, atol=0.05)
