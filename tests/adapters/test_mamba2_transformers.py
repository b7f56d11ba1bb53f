"""Transformers' models that contain a mixer of Mamba-2: cut by structure, generating as before."""

from typing import Any

import pytest
import torch
import transformers

import compressm
from compressm.adapters import find_layers
from compressm.adapters.mamba2_structure import sizes
from compressm.compression.oneshot import compress_with_record

VOCABULARY, STATES = 31, 10
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2}
ATTENTION = {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
BAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": STATES,
         "mamba_chunk_size": 8}  # fmt: skip

MODELS: dict[str, dict[str, Any]] = {
    "Mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 2, "state_size": STATES, "chunk_size": 8},
    "Bamba": {**ATTENTION, **BAMBA, "attn_layer_indices": [1]},
    "Zamba2": {"layers_block_type": ["mamba", "hybrid"], "num_attention_heads": 2, "intermediate_size": 16,
               "mamba_d_state": STATES, "mamba_ngroups": 2, "n_mamba_heads": 4, "mamba_headdim": 8,
               "num_mem_blocks": 1, "chunk_size": 8, "adapter_rank": 4},
    "FalconH1": {**ATTENTION, **BAMBA, "mamba_d_ssm": 32, "ssm_in_multiplier": 0.7,
                 "ssm_multipliers": [0.5, 0.6, 0.7, 0.8, 0.9]},
    "GraniteMoeHybrid": {**ATTENTION, **BAMBA, "shared_intermediate_size": 16, "num_local_experts": 0,
                         "layer_types": ["mamba", "attention"]},
    "NemotronH": {**ATTENTION, "layers_block_type": ["mamba", "attention"], "head_dim": 8, "n_groups": 2,
                  "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": STATES, "chunk_size": 8},
}  # fmt: skip


@pytest.mark.parametrize("name", list(MODELS))
def test_states_that_nothing_uses_go_and_no_logit_changes(name: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**COMMON, **MODELS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    mixers: list[Any] = [found.module for found in find_layers(model)]
    unused = torch.tensor([1, 4, 7, 8])
    for mixer in mixers:
        size = sizes(mixer)
        rows = (torch.arange(4)[:, None] * STATES + unused).flatten()  # of B and C in both groups
        with torch.no_grad():
            mixer.conv1d.bias.normal_()
            mixer.in_proj.weight[size.first_B + rows] = 0.0
            mixer.conv1d.bias[size.inner + rows] = 0.0
    tokens = torch.randint(1, VOCABULARY, (3, 11))
    with torch.no_grad():
        before = model(tokens).logits
    generated = model.generate(tokens, max_new_tokens=5, do_sample=False, pad_token_id=0)
    batch = {"input_ids": tokens, "labels": tokens}
    record = compress_with_record(model, rank=compressm.FixedRank(STATES - len(unused)), calibration=[batch])
    assert [(cut.old, cut.new, cut.reduction) for cut in record.layers] == [(10, 6, "energy")] * len(mixers)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, before, rtol=0.0, atol=1e-6)
    assert torch.equal(model.generate(tokens, max_new_tokens=5, do_sample=False, pad_token_id=0), generated)
    for mixer in mixers:
        assert mixer.ssm_state_size == 6
        assert mixer.conv_dim == mixer.conv1d.in_channels == mixer.conv1d.groups == 32 + 2 * 2 * 6
        assert mixer.in_proj.out_features == len(mixer.in_proj.weight) == 32 + mixer.conv_dim + 4
    if name == "Mamba2":
        cache = model(tokens, use_cache=True).cache_params
        assert cache.layers[0].recurrent_states[0].shape == (3, 4, 8, 6)
    model.train()(**batch).loss.backward()
    assert all(mixer.in_proj.weight.grad.shape == mixer.in_proj.weight.shape for mixer in mixers)
