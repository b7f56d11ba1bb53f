"""Every form gives the definition: outputs, final state and all gradients."""

from types import SimpleNamespace

import pytest
import torch

from compressm.scan.ssd import linear_attention_scan

SHAPES = [
    pytest.param(1, 1, 1, 1, 1, id="one of everything"),
    pytest.param(2, 1, 3, 4, 5, id="one step"),
    pytest.param(1, 2, 1, 3, 2, id="two steps"),
    pytest.param(2, 37, 2, 5, 3, id="a chunk and a part"),
    pytest.param(1, 64, 1, 1, 6, id="one key channel, whole chunks"),
    pytest.param(1, 23, 3, 12, 1, id="one value channel"),
]


@pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])
@pytest.mark.parametrize(("batch", "L", "heads", "K", "V"), SHAPES)
def test_every_shape(
    oracle: SimpleNamespace, batch: int, L: int, heads: int, K: int, V: int, per_channel: bool
) -> None:
    given = oracle.operands(batch, L, heads, K, V, torch.float64, per_channel=per_channel, strength=0.2)
    wanted = oracle.gradients(oracle.naive, given, scale=0.7)
    for form in ("reference", "chunked"):
        wrong = oracle.errors(oracle.gradients(linear_attention_scan, given, form=form, scale=0.7), wanted)
        assert max(wrong.values()) < 1e-12, (form, wrong)
    narrow = {name: value.detach().float().requires_grad_() for name, value in given.items()}
    wanted = oracle.gradients(oracle.naive, oracle.wide(narrow))
    wrong = oracle.errors(oracle.gradients(linear_attention_scan, narrow), wanted)
    assert max(wrong.values()) < 2e-6, wrong


@pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])
@pytest.mark.parametrize(
    ("batch", "L", "heads", "K", "V"),
    [
        pytest.param(1, 33, 2, 5, 17, id="a value channel more than a part"),
        pytest.param(2, 65, 1, 12, 32, id="a vector"),
        pytest.param(1, 32, 3, 3, 64, id="a double vector"),
        pytest.param(1, 20, 1, 2, 96, id="three vectors, summed in groups"),
        pytest.param(1, 70, 2, 93, 128, id="two double vectors, 93 key channels"),
        pytest.param(17, 5, 1, 4, 16, id="many sequences"),
    ],
)
def test_kernels_at_every_width(
    oracle: SimpleNamespace, batch: int, L: int, heads: int, K: int, V: int, per_channel: bool
) -> None:
    given = oracle.operands(batch, L, heads, K, V, torch.float32, per_channel=per_channel, strength=0.2)
    wanted = oracle.gradients(oracle.naive, oracle.wide(given), scale=0.7)
    found = oracle.gradients(linear_attention_scan, given, form="recurrent", scale=0.7)
    wrong = oracle.errors(found, wanted)
    assert max(wrong.values()) < 2e-6, wrong


@pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])
@pytest.mark.parametrize("through", ["y", "final"])
@pytest.mark.parametrize("state", [False, True])
def test_kernels_at_every_end(oracle: SimpleNamespace, per_channel: bool, through: str, state: bool) -> None:
    given = oracle.operands(2, 37, 2, 3, 4, torch.float32, per_channel=per_channel, state=state)
    wanted = oracle.gradients(oracle.naive, oracle.wide(given), through=through)
    found = oracle.gradients(linear_attention_scan, given, through=through, form="recurrent")
    wrong = oracle.errors(found, wanted)
    assert max(wrong.values()) < 2e-6, wrong


@pytest.mark.parametrize("layout", ["slice", "transposed", "one for all heads"])
def test_operands_may_lie_anywhere(oracle: SimpleNamespace, layout: str) -> None:
    made = oracle.operands(2, 40, 3, 8, 5, torch.float32, per_channel=True)
    given = {name: value.detach() for name, value in made.items()}
    if layout == "slice":
        whole = torch.full((2, 40, 3, 20), torch.nan)
        whole[..., 2:10], whole[..., 11:19] = given["q"], given["k"]
        given["q"], given["k"] = whole[..., 2:10], whole[..., 11:19]
    elif layout == "transposed":
        given = {name: value.mT.contiguous().mT for name, value in given.items()}
    else:
        given["q"], given["k"] = (given[name][:, :, :1].expand(-1, -1, 3, -1) for name in ("q", "k"))
    assert not given["q"].is_contiguous()
    plain = {name: value.clone(memory_format=torch.contiguous_format) for name, value in given.items()}
    results = [
        oracle.gradients(
            linear_attention_scan, {name: x.requires_grad_() for name, x in each.items()}, form="recurrent"
        )
        for each in (given, plain)
    ]
    for name, value in results[1].items():
        assert torch.equal(results[0][name], value), name


@pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])
@pytest.mark.parametrize("through", ["y", "final"])
@pytest.mark.parametrize("state", [False, True])
def test_every_end_with_and_without_a_state(
    oracle: SimpleNamespace, per_channel: bool, through: str, state: bool
) -> None:
    given = oracle.operands(2, 19, 2, 3, 4, torch.float64, per_channel=per_channel, state=state)
    wanted = oracle.gradients(oracle.naive, given, through=through)
    for options in ({"form": "reference"}, {"chunk_size": 8}):
        found = oracle.gradients(linear_attention_scan, given, through=through, **options)
        wrong = oracle.errors(found, wanted)
        assert max(wrong.values()) < 1e-12, wrong


@pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])
@pytest.mark.parametrize("chunk_size", [1, 2, 4, 16, 128])
def test_every_chunk_size(oracle: SimpleNamespace, per_channel: bool, chunk_size: int) -> None:
    given = oracle.operands(2, 45, 2, 3, 4, torch.float64, per_channel=per_channel, strength=0.1)
    wanted = oracle.gradients(linear_attention_scan, given, form="reference")
    wrong = oracle.errors(oracle.gradients(linear_attention_scan, given, chunk_size=chunk_size), wanted)
    assert max(wrong.values()) < 1e-12, wrong


@pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])
def test_gradients_are_those_of_finite_differences(oracle: SimpleNamespace, per_channel: bool) -> None:
    given = oracle.operands(1, 5, 1, 2, 2, torch.float64, per_channel=per_channel)
    for form in ("reference", "chunked"):

        def run(*values: torch.Tensor, form: str = form) -> tuple[torch.Tensor, torch.Tensor]:
            return linear_attention_scan(*values, form=form, chunk_size=2)

        assert torch.autograd.gradcheck(run, tuple(given.values()))
