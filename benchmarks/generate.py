"""A Transformers Mamba cut in one call: logits from a fresh process, bytes of its cache, seconds per token.

python benchmarks/generate.py [--width 256] [--layers 4] [--states 128] [--keep 16] [--json FILE]
python benchmarks/generate.py --data-dir DATA [--train-steps 500] ...

The model is random and so are the calibration tokens: what is measured is speed and exactness, not quality.
With --data-dir the model is first trained on tiny Shakespeare and calibrated on its training text; its
validation loss is told before and after the cut, and for three random selections of as many states.
Seconds are this process's own, on one thread. The two models take turns, and the ratio is the median of the
turns' ratios, because what else a machine does slows both.

benchmarks/results/generate-trained.json was made with
python benchmarks/generate.py --data-dir DATA --train-steps 500 --width 64 --layers 2 --states 64 --keep 8 \\
    --json benchmarks/results/generate-trained.json
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from generate_text import RandomTokens, Shakespeare, Source

import compressm
from compressm.compression import Selected

transformers: Any = importlib.import_module("transformers")  # most of its functions have no types

NOT_WRITTEN = ("batch", "json", "answer", "data_dir", "train_steps")


def main() -> None:
    """Compress, save, load elsewhere, compare, and time both models in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("width", 256), ("layers", 4), ("states", 128), ("keep", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("prompt", 16), ("tokens", 24), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="sequences generated together")
    parser.add_argument("--data-dir", type=Path, help="holds tinyshakespeare/input.txt: train on it first")
    parser.add_argument("--train-steps", type=int, help="steps of that training (500)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train_steps is not None and given.data_dir is None:
        parser.error("--train-steps needs --data-dir, the folder of the text to train on")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if given.answer is not None:
        answer(given.answer)
        return
    found = measure(given)
    print(
        f"{given.layers} layers of width {given.width}, {given.states} -> {given.keep} states, one thread\n"
        f"one call of compress: {found['compress_seconds']:.1f} s\n"
        f"logits in a fresh process: {'the same bits' if found['same_logits'] else 'DIFFERENT'}"
    )
    if (bits := found.get("bits_per_character")) is not None:
        chance = ", ".join(f"{value:.3f}" for value in bits["random"])
        print(
            f"validation, bits per character: {bits['full']:.3f}, cut {bits['compressed']:.3f}, "
            f"random selection {chance}"
        )
    for run in found["generate"]:
        cache, seconds = run["cache_bytes"], run["seconds_per_token"]
        print(
            f"batch {run['batch']}: cache {cache['full']:,} -> {cache['compressed']:,} bytes "
            f"({run['cache_ratio']:.2f}x smaller); a token of each {1e3 * seconds['full']:.2f} -> "
            f"{1e3 * seconds['compressed']:.2f} ms (median of ratios {run['speed_up']:.2f})"
        )
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    text = None if given.data_dir is None else Shakespeare(given.data_dir)
    source: Source = RandomTokens() if text is None else text
    full = make(given, source.vocabulary, trained=text is not None)
    found: dict[str, Any] = {}
    if text is not None:
        steps = 500 if given.train_steps is None else given.train_steps
        text.trained(full, steps)
        found["train_steps"] = steps
    rank = compressm.FixedRank(given.keep)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        compressm.save(full, path / "full")
        smaller: Any = compressm.load(path / "full")
        batches = source.calibration()
        began = time.process_time()
        compressm.compress(smaller, rank=rank, calibration=batches)
        seconds = time.process_time() - began
        compressm.save(smaller, path / "model")
        same = same_elsewhere(path, smaller, source.prompt(2, given.prompt))
        if text is not None:
            found["bits_per_character"] = {
                "full": text.bits(full),
                "compressed": text.bits(compressm.load(path / "model")),
                "random": [text.bits(by_chance(path / "full", rank, seed)) for seed in range(3)],
            }
    return {
        **{name: value for name, value in vars(given).items() if name not in NOT_WRITTEN},
        **found,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "compress_seconds": seconds,
        "same_logits": same,
        "generate": [
            compare(full, smaller, given, source.prompt(batch, given.prompt)) for batch in given.batch
        ],
    }


def compare(full: Any, smaller: Any, given: argparse.Namespace, prompt: torch.Tensor) -> dict[str, Any]:
    """Both models in turns, each round a ratio: what else the machine does slows both."""
    models = {"full": full, "compressed": smaller}
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(given.rounds + 1):
        for name, model in models.items():
            spent = seconds_per_token(model, prompt, given.tokens)
            if turn:  # the first is a warm-up
                times[name].append(spent)
    bytes_of = {name: cache_bytes(model, prompt) for name, model in models.items()}
    ratios = [a / b for a, b in zip(times["full"], times["compressed"], strict=True)]
    return {
        "batch": len(prompt),
        "cache_bytes": bytes_of,
        "cache_ratio": bytes_of["full"] / bytes_of["compressed"],
        "seconds_per_token": {name: statistics.median(values) for name, values in times.items()},
        "speed_up": statistics.median(ratios),
        "speed_up_each": ratios,
    }


def make(given: argparse.Namespace, vocabulary: int, *, trained: bool) -> Any:
    """A random model, with Transformers' own initialisation.

    One to be trained takes mambapy's scan, if it is installed: calibration goes backward through sequences
    that are too long for the stock loop.
    """
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=vocabulary,
        hidden_size=given.width,
        num_hidden_layers=given.layers,
        state_size=given.states,
        use_mambapy=trained,
    )
    return transformers.MambaForCausalLM(config).eval()


def by_chance(path: Path, rank: compressm.FixedRank, seed: int) -> Any:
    """The saved model with states kept at random."""
    model = compressm.load(path)
    return compressm.compress(model, rank=rank, reduction=Selected("random", seed))


def same_elsewhere(folder: Path, model: Any, prompt: torch.Tensor) -> bool:
    """Whether another process, with nothing but the saved folder, computes the same logits to the bit."""
    safetensors.torch.save_file({"prompt": prompt}, folder / "prompt")
    subprocess.run([sys.executable, __file__, "--answer", str(folder)], check=True)  # noqa: S603 - itself
    with torch.no_grad():
        expected = model(prompt).logits
    return torch.equal(safetensors.torch.load_file(folder / "logits")["logits"], expected)


def answer(folder: Path) -> None:
    """In the other process: load and compute."""
    model = compressm.load(folder / "model")
    prompt = safetensors.torch.load_file(folder / "prompt")["prompt"]
    with torch.no_grad():
        safetensors.torch.save_file({"logits": model(prompt).logits}, folder / "logits")


def seconds_per_token(model: Any, prompt: torch.Tensor, tokens: int) -> float:
    """Seconds of a generated token: prompt and one token taken off, so that only steps are counted."""
    spent = []
    for count in (1, 1 + tokens):
        began = time.process_time()
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            min_new_tokens=count,
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
        spent.append(time.process_time() - began)
    return (spent[1] - spent[0]) / tokens


def cache_bytes(model: Any, prompt: torch.Tensor) -> int:
    """Bytes of the states, of convolution and recurrence, that generation carries along."""
    with torch.no_grad():
        cache = model(prompt, use_cache=True).cache_params
    return sum(
        state.nbytes
        for layer in cache.layers
        for states in (layer.conv_states, layer.recurrent_states)
        for state in states.values()
    )


if __name__ == "__main__":
    main()
