"""The table of bump.py."""

import statistics
from typing import Any

TREATMENTS = ("transport", "reset", "slice")
FORMS: dict[str, dict[str, str]] = {
    "default": {},
    "balanced": {"reduction": "balanced"},
    "published": {"reduction": "balanced", "realization": "complex"},
}


def make_table(results: list[dict[str, Any]], watched: int) -> str:
    """Mean bump and median recovery of every form and treatment, with every seed's own bump.

    Args:
        results: Lines of results.jsonl.
        watched: Steps for which twins were followed at most; a twin that did not recover counts as that.
    """
    settings = results[0]["settings"]
    model, compression = settings["model"], settings["compression"]
    size = (
        f"tolerance {compression['tolerance']}"
        if compression["rank"] is None
        else f"{compression['rank']} states"
    )
    lines = [
        f"Task {settings['task']}, {settings['steps']:,} steps planned, {model['num_layers']} x "
        f"(H={model['model_dim']}, N={model['state_dim']}), one cut at {compression['stop']:.0%}, {size}.",
        "",
        "| form | optimiser state | states | bump over 50 steps, % (each seed) | over the first 5, % | "
        "recovery, steps |",
        "|---|---|---|---|---:|---:|",
    ]
    for form in FORMS:
        for treatment in TREATMENTS:
            found = [r for r in results if r["form"] == form and r["treatment"] == treatment]
            if not found:
                continue
            found.sort(key=lambda result: result["settings"]["seed"])
            bumps = [100 * r["bump"] for r in found]
            each = ", ".join(f"{bump:.1f}" for bump in bumps)
            first = statistics.mean(100 * r["first"] for r in found)
            late = [watched if r["recovery"] is None else r["recovery"] for r in found]
            sizes = ", ".join("+".join(map(str, r["states"])) for r in found)
            lines.append(
                f"| {form} | {treatment} | {sizes} | {statistics.mean(bumps):.1f} ({each}) | {first:.1f} | "
                f"{statistics.median(late):g} |"
            )
    return "\n".join(lines) + "\n"
