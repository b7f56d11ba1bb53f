"""Parameters of Mamba in the kernels' order, against float64."""

import torch

from compressm.layers.mamba_sequences import LayerOperands, prepared
from compressm.scan.runtime.widths import LANES

d, N, RANK, H = 3 * LANES, 7, 5, 4


def test_rates_and_weights_are_where_the_recurrence_looks() -> None:
    A_log = torch.randn(d, N) * 4
    A_log[0, :3] = torch.tensor([0.0, 30.0, -100.0])
    made = LayerOperands(
        u=torch.zeros(2, 3, H), in_weight=torch.zeros(2 * d, H), filters=torch.zeros(d, 1, 4),
        filter_bias=None, select=torch.zeros(RANK + 2 * N, d), dt_weight=torch.randn(RANK, d).T,
        dt_bias=torch.zeros(d), A_log=A_log, D=torch.ones(d), out_weight=torch.zeros(H, d),
        window=None, state=None,
    )  # fmt: skip
    found = prepared(made, made.sizes)
    wanted = (-A_log.double().exp() / torch.tensor(2.0).double().log()).view(3, LANES, N).mT
    rates, low = found["A"], found["low_weight"]
    assert rates is not None
    assert low is not None
    # Below 2^-64 nothing decays.
    assert ((rates.double() - wanted).abs() <= 3e-7 * wanted.abs() + 2.0**-64).all()
    assert rates[0, 2, 0] == 0
    assert torch.equal(low, made.dt_weight.reshape(3, LANES, RANK).mT)
