"""Transformers' models on disk: built again by name, every layer with its size, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

import compressm
from compressm.adapters import find_layers
from compressm.cli import main

STATES = 8
COMMON = {"vocab_size": 13, "hidden_size": 16, "num_hidden_layers": 2}
ATTENTION = {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HEADS = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": STATES,
         "mamba_chunk_size": 8}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "Mamba": {"state_size": STATES, "time_step_rank": 2},
    "FalconMamba": {"state_size": STATES, "time_step_rank": 2},
    "Jamba": {**ATTENTION, **SPECIAL, "num_experts": 1, "num_experts_per_tok": 1, "attn_layer_period": 2,
              "attn_layer_offset": 1, "mamba_d_state": STATES, "mamba_dt_rank": 2},
    "Mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 2, "state_size": STATES, "chunk_size": 8},
    "Bamba": {**ATTENTION, **HEADS, "attn_layer_indices": [1]},
    "FalconH1": {**ATTENTION, **HEADS, "mamba_d_ssm": 32, "ssm_multipliers": [0.5, 0.6, 0.7, 0.8, 0.9]},
}  # fmt: skip
TOKENS = torch.tensor([[3, 7, 5, 12, 4, 9, 3], [8, 6, 11, 10, 5, 7, 12]])


def made(name: str, *sizes: int, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model, whose known layers are cut to these sizes, in turn."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**COMMON, **MODELS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    layers = find_layers(model)
    with torch.no_grad():
        for layer in layers:
            (
                layer.module.x_proj if hasattr(layer.module, "x_proj") else layer.module.in_proj
            ).weight.normal_()
    for layer, size in zip(layers, sizes, strict=False):
        compressm.compress(layer.module, rank=compressm.FixedRank(size), reduction="magnitude")
    return model.to(dtype)


def sizes(model: Any) -> list[int]:
    return [layer.state_dim for layer in find_layers(model)]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(TOKENS).logits
    return found


def generated(model: Any) -> torch.Tensor:
    mask = torch.ones_like(TOKENS)
    found: torch.Tensor = model.generate(
        TOKENS, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0
    )
    return found


def cache_bytes(model: Any) -> int:
    """Bytes of convolution and recurrent states after a prompt."""
    out = model(TOKENS, use_cache=True)
    cache = out.cache_params if "cache_params" in out else out.past_key_values
    parts = [state for layer in cache.layers if hasattr(layer, "recurrent_states")
             for kind in (layer.conv_states, layer.recurrent_states) for state in kind.values()]  # fmt: skip
    return sum(state.nbytes for state in parts)


@pytest.mark.parametrize("name", list(MODELS))
def test_one_size_for_all_is_the_configurations_own(name: str, tmp_path: Path) -> None:
    """So that Transformers itself reads the folder."""
    model = made(name, 3, 3)
    compressm.save(model, tmp_path / "m")
    again: Any = compressm.load(tmp_path / "m")
    assert type(again) is type(model)
    assert not again.training
    assert set(sizes(again)) == {3}
    assert torch.equal(logits(again), logits(model))
    assert torch.equal(generated(again), generated(model))
    transformers.utils.logging.disable_progress_bar()
    theirs = type(model).from_pretrained(tmp_path / "m")
    assert torch.equal(logits(theirs.eval()), logits(model))


@pytest.mark.parametrize("name", ["Mamba", "FalconMamba", "Mamba2", "FalconH1"])
def test_layers_of_several_sizes_are_in_per_layer_config(name: str, tmp_path: Path) -> None:
    model = made(name, 5, 3)
    compressm.save(model, tmp_path / "m")
    before = torch.get_rng_state()
    again: Any = compressm.load(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), before)
    assert sizes(again) == [5, 3]
    assert torch.equal(logits(again), logits(model))
    assert torch.equal(generated(again), generated(model))
    config = getattr(transformers, f"{name}Config").from_pretrained(tmp_path / "m")
    attribute = "mamba_d_state" if name == "FalconH1" else "state_size"
    assert [getattr(layer, attribute) for layer in config.per_layer_config] == [5, 3]
    content = json.loads((tmp_path / "m" / "config.json").read_text())
    assert content["per_layer_config"] == {"0": {attribute: 5}, "1": {attribute: 3}}
    compressm.save(again, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == content


IN_A_FRESH_PROCESS = """
import sys, safetensors.torch, torch, compressm
model = compressm.load(sys.argv[1])
tokens = safetensors.torch.load_file(sys.argv[2])["tokens"]
with torch.no_grad():
    logits = model(tokens).logits
generated = model.generate(
    tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=4, do_sample=False, pad_token_id=0
)
safetensors.torch.save_file({"logits": logits, "generated": generated}, sys.argv[3])
"""


def test_a_fresh_process_gives_the_same_logits_bit_for_bit(tmp_path: Path) -> None:
    model = made("Mamba", 5, 3)
    model.generation_config.suppress_tokens = [3, 12]
    compressm.save(model, tmp_path / "m")
    safetensors.torch.save_file({"tokens": TOKENS}, tmp_path / "in")
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, tmp_path / "m", tmp_path / "in", tmp_path / "out"]
    subprocess.run(command, check=True, timeout=300)
    found = safetensors.torch.load_file(tmp_path / "out")
    assert torch.equal(found["logits"], logits(model))
    assert torch.equal(found["generated"], generated(model))
    model.generation_config.suppress_tokens = None
    assert not torch.equal(found["generated"], generated(model))


@pytest.mark.parametrize("name", ["Mamba", "Mamba2"])
def test_the_cache_holds_the_smaller_states(name: str, tmp_path: Path) -> None:
    compressm.save(made(name, 5, 3), tmp_path / "m")
    again: Any = compressm.load(tmp_path / "m")
    # Two sequences, 32 channels, four bytes; Mamba-2 also convolves B and C of two groups.
    conv = [4 * (32 + (2 * 2 * size if name == "Mamba2" else 0)) for size in (5, 3)]
    assert cache_bytes(again) == 2 * 4 * (sum(conv) + 32 * (5 + 3))


def test_tied_embeddings_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model = made("Mamba", 3, 3)
    compressm.save(model, tmp_path / "m")
    assert "lm_head.weight" not in safetensors.torch.load_file(tmp_path / "m" / "model.safetensors")
    again: Any = compressm.load(tmp_path / "m")
    assert again.lm_head.weight is again.backbone.embeddings.weight

    model.lm_head.weight = torch.nn.Parameter(torch.randn(13, 16))
    compressm.save(model, tmp_path / "m")
    again = compressm.load(tmp_path / "m")
    assert again.lm_head.weight is not again.backbone.embeddings.weight
    assert torch.equal(logits(again), logits(model))


def test_types_of_numbers_are_kept(tmp_path: Path) -> None:
    """Of each parameter, and of the rotary frequencies that are in no state dict."""
    model = made("Bamba", 3, dtype=torch.bfloat16)
    model.model.layers[0].mamba.A_log.data = model.model.layers[0].mamba.A_log.data.float()
    compressm.save(model, tmp_path / "m")
    again: Any = compressm.load(tmp_path / "m")
    types = {name: tensor.dtype for name, tensor in model.named_parameters()}
    assert {name: tensor.dtype for name, tensor in again.named_parameters()} == types
    assert set(types.values()) == {torch.bfloat16, torch.float32}
    assert again.model.rotary_emb.inv_freq.dtype == torch.bfloat16
    assert torch.equal(logits(again), logits(model))


def test_inspect_takes_a_saved_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compressm.save(made("Mamba", 5, 3), tmp_path / "m")
    main(["inspect", str(tmp_path / "m")])
    assert capsys.readouterr().out.count("backbone") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": {"AutoModel": "a--b"}}, "has auto_map, which may bring code from elsewhere"),
        ({"text_config": {"attn_implementation": "some/kernel"}}, "has attn_implementation"),
        ({"experts_implementation": "some/kernel"}, "has experts_implementation"),
    ],
)
def test_code_from_elsewhere_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = made("Mamba", 3)
    model.config.auto_map = {"AutoModel": "a--b"}  # as it is in configurations that came from a hub
    compressm.save(model, tmp_path / "m")
    compressm.load(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        compressm.load(tmp_path / "m")


@pytest.mark.parametrize("name", ["NoSuchModel", "pipeline", "MambaConfig", "logging.os.system"])
def test_only_models_of_transformers_are_built(name: str, tmp_path: Path) -> None:
    compressm.save(made("Mamba", 3), tmp_path / "m")
    file = tmp_path / "m" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": f"transformers.{name}"}))
    with pytest.raises(ValueError, match=f"{name}, which Transformers .* does not have as a model"):
        compressm.load(tmp_path / "m")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressm.save(made("Mamba", 3), tmp_path / "m")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        with pytest.raises(ModuleNotFoundError, match="pip install 'transformers>=5'"):
            compressm.load(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json does not describe a model"):
        compressm.load(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        compressm.load(tmp_path / "m")


def test_a_class_of_ones_own_is_filled(tmp_path: Path) -> None:
    """Made of Transformers' parts and not offered by it: no folder can name it."""

    class Mine(transformers.MambaForCausalLM):
        pass

    model = Mine(made("Mamba").config).eval()
    compressm.compress(model, rank=compressm.FixedRank(3), reduction="magnitude")
    compressm.save(model, tmp_path / "m")
    with pytest.raises(ValueError, match="holds a Mine, which compressm cannot build"):
        compressm.load(tmp_path / "m")
    again: Any = compressm.load(tmp_path / "m", Mine(made("Mamba").config))
    assert sizes(again) == [3, 3]
    assert torch.equal(logits(again), logits(model))
    assert torch.equal(generated(again), generated(model))
