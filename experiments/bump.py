"""The bump in the loss after a cut: twins on the same batches, one cut, one not.

python experiments/bump.py --out FOLDER [--task smnist] [--steps 2000] [--seeds 5] [--tolerance 0.02]
    [--rank R] [--data-dir DATA]

Twins train alike up to the cut, which comes after the warm-up (10 % of the steps). Bump: mean training loss
over the 50 steps after it, relative to the uncut twin's on the same batches with the same dropout masks where
shapes agree. Recovery: steps until the mean of the last 20 losses is within 1 % of the twin's.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from compressm.data import Splits, load
from compressm.training import CompressionConfig, ModelConfig, TrainConfig
from compressm.training.session import Session

AFTER = 50
WATCHED = 400
TREATMENTS = ("transport", "reset", "slice")
FORMS: dict[str, dict[str, str]] = {
    "default": {},
    "balanced": {"reduction": "balanced"},
    "published": {"reduction": "balanced", "realization": "complex"},
}


def main() -> None:
    """Run all twins; write results.jsonl and table.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="smnist")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--rank", type=int, help="cut to this size instead")
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    splits = load(given.task, data_dir=given.data_dir)
    for seed in range(given.seeds):
        if any(result["seed"] == seed for result in done):
            continue
        for result in twins(seed, splits, given):
            done.append(result)
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(result) + "\n")
            print({key: value for key, value in result.items() if key != "losses"}, flush=True)
    (given.out / "table.md").write_text(table(done), encoding="utf-8")
    print(table(done))


def twins(seed: int, splits: Splits, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One uncut run, and its twins cut at the same step in every form and with every treatment."""
    step = round(0.1 * given.steps)
    plain, _ = losses(seed, splits, given, None, step + WATCHED)
    found = []
    for form, options in FORMS.items():
        for treatment in TREATMENTS:
            size = {"rank": given.rank} if given.rank else {"tolerance": given.tolerance}
            settings = CompressionConfig(
                **size,
                cuts=1,
                stop=0.1,
                optimizer_state=treatment,
                **options,  # type: ignore[arg-type]
            )
            cut, states = losses(seed, splits, given, settings, step + WATCHED)
            if cut[:step] != plain[:step]:
                raise RuntimeError("twins differ before the cut; this is a defect of the experiment")
            bump = sum(cut[step : step + AFTER]) / sum(plain[step : step + AFTER]) - 1
            found.append(
                {"seed": seed, "task": given.task, "form": form, "treatment": treatment, "states": states}
                | {"bump": bump, "recovery": recovery(cut[step:], plain[step:])}
            )
    return found


def losses(
    seed: int, splits: Splits, given: argparse.Namespace, settings: CompressionConfig | None, steps: int
) -> tuple[list[float], list[int]]:
    """Training losses of the first steps of a run, and the sizes it has then."""
    config = TrainConfig(
        task=given.task,
        data_dir=given.data_dir,
        seed=seed,
        steps=given.steps,
        model=ModelConfig(state_dim=256),
        compression=settings or CompressionConfig(),
    )
    session = Session(config, splits)
    found = []
    for _ in range(steps):
        # The masks of a step depend on the seed and the step alone, whatever a cut drew.
        torch.manual_seed(seed * 1_000_003 + session.step)
        inputs, targets, lengths = next(session.batches)
        session.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(session.model(inputs, lengths), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        session.optimizer.step()
        session.scheduler.step()
        session.step += 1
        found.append(loss.item())
        session.cut(loss.detach(), lambda: 0.0)
    return found, session.model.state_dims


def recovery(cut: list[float], plain: list[float], *, window: int = 20, within: float = 1.01) -> int | None:
    """Steps until the mean of the last losses is close to the twin's; None if it never is."""
    for step in range(window, len(cut) + 1):
        if sum(cut[step - window : step]) <= within * sum(plain[step - window : step]):
            return step - window
    return None


def table(results: list[dict[str, Any]]) -> str:
    """Mean bump and median recovery, with every seed's own bump."""
    lines = [
        "| form | optimiser state | states | bump, % (each seed) | recovery, steps |",
        "|---|---|---|---|---|",
    ]
    for form in FORMS:
        for treatment in TREATMENTS:
            found = [r for r in results if r["form"] == form and r["treatment"] == treatment]
            if not found:
                continue
            bumps = [100 * r["bump"] for r in found]
            each = ", ".join(f"{bump:.1f}" for bump in bumps)
            late = [WATCHED if r["recovery"] is None else r["recovery"] for r in found]
            sizes = ", ".join("+".join(map(str, r["states"])) for r in found)
            lines.append(
                f"| {form} | {treatment} | {sizes} | {statistics.mean(bumps):.1f} ({each}) | "
                f"{statistics.median(late):g} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
