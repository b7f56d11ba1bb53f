"""Does the ranking of the states settle early? Full-size runs whose Hankel singular values are followed.

python experiments/ranking.py --out FOLDER [--task smnist] [--steps 4000] [--seeds 5] [--sizes 8 16 32]
    [--layers 1] [--model-dim 8] [--state-dim 256] [--batch-size 50] [--data-dir DATA]

Nothing is cut. Every 2 % of the steps each layer is balanced in real form, with its own Gramians as in the
paper and once more with the states that the data drives, as the default reduction does, and its states are
followed. At the end every check is compared with the last one by three measures
(compressm.experiments.settling), and every interval's moves with Weyl's bound, the Hankel norm of the change
(own Gramians).
The test accuracy is that of the full model. A line of results.jsonl per seed: the same command goes on after
a stop with the seeds that are missing. Then table.md, settling.png and tracks.png.
"""

import argparse
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ranking_figures import settling_figure, tracks_figure
from ranking_table import make_table

from compressm.adapters import CompressibleLayer, LayerBalancing, Weighting, find_layers
from compressm.compression.tracking import HSVTracker, TrackRecord
from compressm.data import Splits, load
from compressm.experiments.settling import Settling
from compressm.lti import Balancing
from compressm.training import ModelConfig, OptimizerConfig, TrainConfig, evaluate
from compressm.training.session import Session

EVERY = 0.02
ALSO = 0.05
FOLLOWED = 128
BATCHES, SEQUENCES = 4, 16
DRIVEN = ", states driven by data"


def main() -> None:
    """Follow the seeds that are missing; write what was found."""
    given = parse()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    splits = load(given.task, data_dir=given.data_dir)
    for seed in range(given.seeds):
        config = configure(given, seed)
        settings = config.to_dict() | {"data_dir": None}
        found = next((result for result in results if result["settings"]["seed"] == seed), None)
        if found is not None:
            # Compared as configurations: a setting that is newer than the result has its default there.
            same = TrainConfig.from_dict(found["settings"]) == replace(config, data_dir=None)
            if not same or found["sizes"] != given.sizes:
                raise SystemExit(f"{file}: seed {seed} was run with other settings; give another --out")
            continue
        result = {"settings": settings, "sizes": given.sizes} | follow(config, splits, given.sizes)
        results.append(result)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(result) + "\n")
        print(f"seed {seed}: accuracy {result['accuracy']:.4f}, {result['seconds']:.0f} s", flush=True)
    results.sort(key=lambda result: result["settings"]["seed"])
    table = make_table(results)
    (given.out / "table.md").write_text(table, encoding="utf-8")
    settling_figure(results).savefig(given.out / "settling.png")
    tracks_figure(results[0]).savefig(given.out / "tracks.png")
    print(table)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="smnist")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32], help="cuts to judge")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--model-dim", type=int, default=8)
    parser.add_argument("--state-dim", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--data-dir", type=Path)
    return parser.parse_args()


def configure(given: argparse.Namespace, seed: int) -> TrainConfig:
    """A full-size run."""
    return TrainConfig(
        task=given.task,
        data_dir=given.data_dir,
        arm="full",
        seed=seed,
        steps=given.steps,
        batch_size=given.batch_size,
        model=ModelConfig(num_layers=given.layers, model_dim=given.model_dim, state_dim=given.state_dim),
        optimizer=OptimizerConfig(lr=given.lr),
    )


def follow(config: TrainConfig, splits: Splits, sizes: list[int]) -> dict[str, Any]:
    """Train without cuts, check on the way, and judge every check by the last."""
    began = time.perf_counter()
    session = Session(config, splits)
    layers = find_layers(session.model)
    inputs = remember_inputs(layers)
    trackers = {"": HSVTracker(followed=FOLLOWED, exact=True), DRIVEN: HSVTracker(followed=FOLLOWED)}
    settling = {layer.name + view: Settling(sizes) for view in trackers for layer in layers}
    steps = check_steps(config.steps)
    for step in range(config.steps + 1):
        if step > 0:
            train_step(session)
        if step not in steps:
            continue
        for view, tracker in trackers.items():
            if view and step == 0:
                continue  # no data has been seen
            balancings = {}
            for layer in layers:
                weighting = Weighting("states", list(inputs[layer.name])) if view else Weighting()
                balancings[layer.name + view] = one_system(layer.name, layer.balance("real", weighting))
            for record in tracker.observe(step, balancings):
                settling[record.layer].observe(record, balancings[record.layer])
    checks: dict[str, list[dict[str, Any]]] = {name: [] for name in settling}
    for tracker in trackers.values():
        for record in tracker.records:
            checks[record.layer].append(plain(record))
    return {
        "accuracy": evaluate(session.model, splits.test).accuracy,
        "validation": evaluate(session.model, splits.validation).accuracy,
        "seconds": time.perf_counter() - began,
        "layers": {
            name: {"checks": checks[name], "against_end": settling[name].against_end()} for name in checks
        },
    }


def remember_inputs(layers: list[CompressibleLayer]) -> dict[str, deque[torch.Tensor]]:
    """What went into each layer in the last batches, always kept up to date: as much as a cut looks at."""
    seen: dict[str, deque[torch.Tensor]] = {layer.name: deque(maxlen=BATCHES) for layer in layers}

    def hook(kept: deque[torch.Tensor]) -> Callable[[torch.nn.Module, tuple[Any, ...]], None]:
        return lambda _, arguments: kept.append(arguments[0].detach()[:SEQUENCES].clone())

    for layer in layers:
        layer.module.register_forward_pre_hook(hook(seen[layer.name]))
    return seen


def one_system(layer: str, balancing: LayerBalancing) -> Balancing:
    """The balancing, if it is one of a single linear system, whose modes can be followed."""
    if not isinstance(balancing, Balancing):
        raise TypeError(f"layer {layer!r} is not one linear system; its states have no modes in common")
    return balancing


def check_steps(steps: int) -> set[int]:
    """Every 2 % of the steps from 0 on, and 5 %."""
    count = round(1 / EVERY)
    return {round(steps * place / count) for place in range(count + 1)} | {round(ALSO * steps)}


def train_step(session: Session) -> None:
    """One optimiser step."""
    inputs, targets, lengths = next(session.batches)
    session.optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(session.model(inputs, lengths), targets)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} after step {session.step}; lower --lr")
    loss.backward()  # type: ignore[no-untyped-call]
    session.optimizer.step()
    session.scheduler.step()
    session.step += 1


def plain(record: TrackRecord) -> dict[str, Any]:
    """What figures and tables need of a check; values to six digits."""
    values = record.hankel_singular_values
    return {
        "step": record.step,
        "values": [float(f"{value:.6g}") for value in values[:FOLLOWED]],
        "total": sum(values),
        "tracks": list(record.tracks),
        "likeness": record.likeness,
        "moved": record.moved,
        "distance": record.distance,
        "rank_correlation": record.rank_correlation,
    }


if __name__ == "__main__":
    main()
