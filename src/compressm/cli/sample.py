"""``compressm sample``: what a trained model of sound says, as files to listen to."""

import wave
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import compressm
from compressm.data import get_task, load
from compressm.data.mu_law import from_mu_law
from compressm.data.splits import Array
from compressm.models import LanguageModel
from compressm.models.sampling import check_sampling, draw
from compressm.training import RunFolder

CHUNK = 200  # samples between moves of the progress bar


def sample(
    run: Path,
    out: Path,
    count: int = 4,
    seconds: float = 0.5,
    prompt_seconds: float = 0.1,
    temperature: float = 0.9,
    seed: int = 0,
    data_dir: Path | None = None,
) -> None:
    """Let a run's model continue sounds of the test set; writes WAV files and a picture of their waves.

    ``sample-K.wav`` begins with ``prompt_seconds`` of a true recording and goes on with what the model draws.

    Args:
        run: Run folder of a task of sound, such as fsdd-mulaw.
        out: Folder to write; must not exist.
        count: Sounds.
        seconds: Length of what is drawn.
        prompt_seconds: Length of the true beginning.
        temperature: Divides the logits; 0 takes the likeliest level.
        seed: Of the draws, and of where in the test set the beginnings are.
        data_dir: Folder with the task's data; where the run read it, if not given.
    """
    config = RunFolder(run).read_config()
    task = get_task(config.task)
    if task.rate is None:
        raise ValueError(f"{run} is a run of {task.name}, which is no sound; this command takes fsdd-mulaw")
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    drawn, given = round(seconds * task.rate), round(prompt_seconds * task.rate)
    if drawn < 1 or given < 1:
        raise ValueError(
            f"seconds is {seconds} and prompt_seconds {prompt_seconds}; each must be at least one sample of "
            f"1/{task.rate} s"
        )
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder")
    model = compressm.load(RunFolder(run).model_path)
    if not isinstance(model, LanguageModel):
        raise ValueError(f"{run} holds a {type(model).__name__}, which draws nothing")
    stream = load(config.task, data_dir=data_dir or config.data_dir).test.inputs.reshape(-1)
    prompts = _beginnings(stream, count, given, seed)
    levels = _continue(model.eval(), prompts, drawn, temperature, seed)
    sounds = from_mu_law(levels.numpy())
    out.mkdir(parents=True)
    for index, samples in enumerate(sounds):
        write_wav(out / f"sample-{index}.wav", samples, task.rate)
    draw_waves(sounds, given, task.rate).savefig(out / "waves.png", dpi=150, bbox_inches="tight")
    Console().print(
        f"{count} sounds of {(given + drawn) / task.rate:g} s in {out}, the first {given / task.rate:g} s "
        f"true; waves in {out / 'waves.png'}",
        highlight=False,
    )


def write_wav(path: Path, samples: Array, rate: int) -> None:
    """Write int16 samples as a WAV file with one channel."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def draw_waves(sounds: Array, given: int, rate: int) -> Figure:
    """Every sound as a wave, what was given in grey."""
    figure = Figure(figsize=(6.4, 1.1 * len(sounds) + 0.6))
    panels = figure.subplots(len(sounds), sharex=True, squeeze=False)[:, 0]
    seconds = np.arange(sounds.shape[1]) / rate
    for axes, samples in zip(panels, sounds / 32768.0, strict=True):
        axes.plot(seconds[:given], samples[:given], color="0.55", linewidth=0.6, label="given")
        axes.plot(seconds[given:], samples[given:], color="#0072B2", linewidth=0.6, label="drawn")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("amplitude", fontsize=8)
    panels[0].legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    panels[-1].set_xlabel("seconds")
    return figure


def _beginnings(stream: Array, count: int, given: int, seed: int) -> Tensor:
    """Pieces of a stream of levels, int64 ``(count, given)``."""
    if len(stream) < given:
        raise ValueError(f"the test set has {len(stream)} samples; prompt_seconds asks for {given}")
    starts = np.random.RandomState(seed).randint(0, len(stream) - given + 1, size=count)
    rows = np.stack([stream[start : start + given] for start in starts])
    return torch.from_numpy(rows.astype(np.int64))


@torch.no_grad()
def _continue(model: LanguageModel, prompts: Tensor, drawn: int, temperature: float, seed: int) -> Tensor:
    check_sampling(drawn, temperature, None)
    generator = torch.Generator().manual_seed(seed)
    every, state = model.advance(prompts)
    logits, levels = every[:, -1], list(prompts.unbind(1))
    with Progress(console=Console(stderr=True)) as bar:
        shown = bar.add_task("drawing samples", total=drawn)
        for index in range(drawn):
            levels.append(draw(logits, temperature, None, generator))
            logits, state = model.step(levels[-1], state)
            if (index + 1) % CHUNK == 0 or index + 1 == drawn:
                bar.update(shown, completed=index + 1)
    return torch.stack(levels, dim=1)
