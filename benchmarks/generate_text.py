"""Where the tokens and the model of ``generate.py`` come from: chance, or training on tiny Shakespeare.

Without CUDA kernels a training step of Transformers (2 layers of width 64, 64 states, 8 windows of 128)
takes 10 s of processor time, with mambapy's scan 1 s: too slow for hundreds of steps. So the recurrences of
training are computed by compressm, on Transformers' parameters and by the same formulas, in 0.04 s. Then the
parameters go into the unchanged class, which computes everything after training, losses too.
"""

import importlib
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.bench.cases import MambaCase
from compressm.bench.contender import Settings
from compressm.bench.mamba_model import OurMamba
from compressm.data import Batches, Split, load, ordered_batches, token_ids
from compressm.data.shakespeare import VOCAB_SIZE

transformers: Any = importlib.import_module("transformers")  # most of its functions have no types

Calibration = list[dict[str, Tensor]]
WINDOW = 128
BATCH = 8
RATE = 3e-3
WARM_UP = 30
CALIBRATION = 8  # batches: 64 windows, as experiments/text.toml takes for one cut
RANDOM_VOCABULARY = 1000


class Source(Protocol):
    """What the benchmark needs of it."""

    vocabulary: int

    def calibration(self) -> Calibration:
        """Batches for the cut."""

    def prompt(self, batch: int, length: int) -> Tensor:
        """Token ids ``(batch, length)`` to go on from."""


class RandomTokens:
    """Tokens by chance, from the global random state."""

    vocabulary = RANDOM_VOCABULARY

    def calibration(self) -> Calibration:
        """Short sequences, because backward through the stock loop costs the length squared."""
        batches = [torch.randint(RANDOM_VOCABULARY, (8, 16)) for _ in range(4)]
        return [{"input_ids": tokens, "labels": tokens} for tokens in batches]

    def prompt(self, batch: int, length: int) -> Tensor:
        """Random tokens."""
        return torch.randint(RANDOM_VOCABULARY, (batch, length))


class Shakespeare:
    """Characters of tiny Shakespeare: windows of 128, the first halves of the project's windows of 256.

    Args:
        data_dir: Folder that holds ``tinyshakespeare/input.txt``.
    """

    vocabulary = VOCAB_SIZE

    def __init__(self, data_dir: Path) -> None:
        splits = load("shakespeare", data_dir=data_dir)
        self._train, self._validation = halved(splits.train), halved(splits.validation)

    def calibration(self) -> Calibration:
        """Windows of the training text, drawn in another order than training draws them in."""
        batches = Batches(self._train, BATCH, seed=1)
        drawn = [next(batches).inputs for _ in range(CALIBRATION)]
        return [{"input_ids": tokens, "labels": tokens} for tokens in drawn]

    def prompt(self, batch: int, length: int) -> Tensor:
        """Beginnings of the first windows of the validation text."""
        if batch > len(self._validation) or length > WINDOW:
            raise ValueError(
                f"this text has {len(self._validation)} prompts of at most {WINDOW} characters, got "
                f"--batch {batch} and --prompt {length}; lower them"
            )
        return self._validation.batch(slice(0, batch)).inputs[:, :length].contiguous()

    def bits(self, model: Any) -> float:
        """Validation loss in bits per character, over the first half of every window."""
        total = 0.0
        with torch.no_grad():
            for tokens, targets, _ in ordered_batches(self._validation, 31):
                logits = model(tokens, use_cache=False).logits
                total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        return total / self._validation.targets.size / math.log(2)

    def trained(self, model: Any, steps: int) -> None:
        """Train a Transformers model in place: AdamW, linear warm-up, then a constant rate."""
        config = model.config
        case = MambaCase(
            name="training",
            batch=BATCH,
            L=WINDOW,
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            N=config.state_size,
            vocabulary=self.vocabulary,
        )
        fast: Any = OurMamba(Settings(threads=1)).model(case)
        fast.load_state_dict(model.state_dict())
        optimizer = torch.optim.AdamW(fast.parameters(), lr=RATE)
        warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARM_UP, total_iters=WARM_UP)
        batches, began = Batches(self._train, BATCH, seed=0), time.process_time()
        for step in range(1, steps + 1):
            tokens, targets, _ = next(batches)
            optimizer.zero_grad()
            loss = F.cross_entropy(fast(tokens).logits.flatten(0, 1), targets.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            warm_up.step()
            if step % 50 == 0 or step == steps:
                spent = time.process_time() - began
                print(
                    f"step {step} of {steps}: {loss.item() / math.log(2):.3f} bits, {spent:.0f} s", flush=True
                )
        model.load_state_dict(fast.state_dict())


def halved(split: Split) -> Split:
    """The first half of every window, as token ids."""
    return replace(
        split, inputs=split.inputs[:, :WINDOW], targets=split.targets[:, :WINDOW], encode=token_ids
    )
