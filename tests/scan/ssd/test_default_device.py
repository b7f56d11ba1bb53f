"""Kernels' own memory is the processor's, wherever new tensors go by default."""

import torch

from compressm.scan import delta_rule_scan, linear_attention_scan


def test_kernels_read_their_settings_whatever_the_default_device() -> None:
    q, k, v = (torch.randn(2, 20, 2, 8) for _ in range(3))
    log_decay, beta = -torch.rand(2, 20, 2), torch.rand(2, 20, 2)
    wanted = linear_attention_scan(q, k, v, log_decay), delta_rule_scan(q, k, v, beta, log_decay)
    with torch.device("meta"):
        found = linear_attention_scan(q, k, v, log_decay), delta_rule_scan(q, k, v, beta, log_decay)
    for ours, others in zip(found, wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))
