"""The bump in the loss after a cut: twins on the same batches, one cut, one not.

python experiments/bump.py --out FOLDER [--task smnist] [--steps 2000] [--seeds 5] [--tolerance 0.02]
    [--rank R] [--layers 1] [--model-dim 8] [--state-dim 256] [--batch-size 50] [--data-dir DATA]

One run without cuts goes on past the end of the warm-up (10 % of the steps), where its twins are cut, each in
another form or with another treatment of the optimiser's state. They start from a checkpoint of that run
shortly before the cut, and must repeat its losses up to the cut. Bump: mean training loss over the 50 steps
after the cut, relative to the uncut run's on the same batches with the same dropout masks. Recovery: steps
until the mean of the last 20 losses is within 1 % of the uncut run's; twins are followed until then, at least
50 steps and at most 400. A line of results.jsonl per twin; the same command goes on after a stop.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bump_table import FORMS, TREATMENTS, make_table

from compressm.data import Splits, load
from compressm.training import CompressionConfig, ModelConfig, OptimizerConfig, TrainConfig
from compressm.training.session import Session

AFTER = 50
WATCHED = 400
BEFORE = 12
"""Steps before the cut from which twins run: more than those in which signals for the cut are recorded."""


def main() -> None:
    """Run the twins that are missing; write results.jsonl and table.md."""
    given = parse()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    splits = load(given.task, data_dir=given.data_dir)
    for seed in range(given.seeds):
        config = configure(given, seed)
        settings = config.to_dict() | {"data_dir": None}
        found = [result for result in done if result["settings"]["seed"] == seed]
        # Compared as configurations: a setting that is newer than the result has its default there.
        if any(
            TrainConfig.from_dict(result["settings"]) != replace(config, data_dir=None) for result in found
        ):
            raise SystemExit(f"{file}: seed {seed} was run with other settings; give another --out")
        there = {(result["form"], result["treatment"]) for result in found}
        missing = [(form, how) for form in FORMS for how in TREATMENTS if (form, how) not in there]
        if not missing:
            continue
        checkpoint, plain = uncut(config, splits)
        for form, treatment in missing:
            result = twin(config, splits, checkpoint, plain, form, treatment)
            done.append({"settings": settings} | result)
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(done[-1]) + "\n")
            print({"seed": seed} | {k: v for k, v in result.items() if k != "losses"}, flush=True)
    table = make_table(done, WATCHED)
    (given.out / "table.md").write_text(table, encoding="utf-8")
    print(table)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="smnist")
    parser.add_argument("--steps", type=int, default=2000, help="of the whole training, which ends earlier")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--rank", type=int, help="cut to this size instead")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--model-dim", type=int, default=8)
    parser.add_argument("--state-dim", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--data-dir", type=Path)
    return parser.parse_args()


def configure(given: argparse.Namespace, seed: int) -> TrainConfig:
    """A run with one cut in the default form, after the warm-up."""
    size = {"rank": given.rank} if given.rank else {"tolerance": given.tolerance}
    return TrainConfig(
        task=given.task,
        data_dir=given.data_dir,
        seed=seed,
        steps=given.steps,
        batch_size=given.batch_size,
        model=ModelConfig(num_layers=given.layers, model_dim=given.model_dim, state_dim=given.state_dim),
        optimizer=OptimizerConfig(lr=given.lr),
        compression=CompressionConfig(**size, cuts=1, stop=0.1),
    )


def cut_step(config: TrainConfig) -> int:
    """The step after which twins are cut."""
    return round(config.compression.stop * config.steps)


def uncut(config: TrainConfig, splits: Splits) -> tuple[dict[str, Any], list[float]]:
    """A checkpoint from before the cut, and the losses from there on without one."""
    session = Session(replace(config, compression=CompressionConfig()), splits)
    start = cut_step(config) - BEFORE
    if start < 0:
        raise SystemExit(f"--steps {config.steps} is too few: the warm-up must have {BEFORE} steps")
    for _ in range(start):
        train_step(session)
    checkpoint = frozen(session.state_dict())
    return checkpoint, [train_step(session) for _ in range(BEFORE + WATCHED)]


def twin(
    config: TrainConfig,
    splits: Splits,
    checkpoint: dict[str, Any],
    plain: list[float],
    form: str,
    treatment: str,
) -> dict[str, Any]:
    """Go on from the checkpoint with one cut, and compare."""
    settings: Any = {"optimizer_state": treatment, **FORMS[form]}
    config = replace(config, compression=replace(config.compression, **settings))
    # What the compressor would hold at that step: it has only counted so far.
    fresh = Session(config, splits).compressor
    if fresh is None:
        raise RuntimeError("a twin without a compressor; this is a defect of the experiment")
    counted = fresh.state_dict() | {"step": checkpoint["step"]}
    session = Session(config, splits, frozen(checkpoint) | {"compressor": counted})
    losses: list[float] = []
    while len(losses) < len(plain):
        losses.append(train_step(session))
        after = len(losses) - BEFORE
        if after >= AFTER and recovery(losses[BEFORE:], plain[BEFORE:]) is not None:
            break
    if losses[:BEFORE] != plain[:BEFORE]:
        raise RuntimeError("twins differ before the cut; this is a defect of the experiment")
    steps = [record.step for record in session.records]
    if steps != [cut_step(config)]:
        raise RuntimeError(f"cuts at steps {steps}, not at {cut_step(config)}; a defect of the experiment")
    cut, kept = losses[BEFORE:], plain[BEFORE:]
    return {
        "form": form,
        "treatment": treatment,
        "states": session.model.state_dims,
        "bump": sum(cut[:AFTER]) / sum(kept[:AFTER]) - 1,
        "first": sum(cut[:5]) / sum(kept[:5]) - 1,
        "recovery": recovery(cut, kept),
        "losses": [float(f"{loss:.5g}") for loss in cut[:AFTER]],
    }


def train_step(session: Session) -> float:
    """One optimiser step, and the cut if it is time; returns the loss before the step."""
    # The masks of a step depend on the seed and the step alone, whatever a cut drew.
    torch.manual_seed(session.config.seed * 1_000_003 + session.step)
    inputs, targets, lengths = next(session.batches)
    session.optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(session.model(inputs, lengths), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    session.optimizer.step()
    session.scheduler.step()
    session.step += 1
    session.cut(loss.detach(), lambda: 0.0)
    return loss.item()


def frozen(state: Any) -> Any:
    """A copy that shares no tensor: training writes in place, and loading may keep what it is given."""
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: frozen(value) for key, value in state.items()}
    if isinstance(state, list):
        return [frozen(value) for value in state]
    return state


def recovery(cut: list[float], plain: list[float], *, window: int = 20, within: float = 1.01) -> int | None:
    """Steps until the mean of the last losses is close to the twin's; None if it is not so far."""
    for step in range(window, len(cut) + 1):
        if sum(cut[step - window : step]) <= within * sum(plain[step - window : step]):
            return step - window
    return None


if __name__ == "__main__":
    main()
