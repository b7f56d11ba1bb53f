"""The tables of ranking.py: correlations with the end, energy at the end, and Weyl's bound."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any

Result = dict[str, Any]

SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)
EARLY = 0.1


def make_table(results: list[Result]) -> str:
    """Markdown, a part for each layer; means with every seed's own number in brackets."""
    settings = results[0]["settings"]
    model = settings["model"]
    accuracy = [100 * result["accuracy"] for result in results]
    seeds = ", ".join(str(result["settings"]["seed"]) for result in results)
    lines = [
        f"Task {settings['task']}, {settings['steps']:,} steps, {model['num_layers']} x "
        f"(H={model['model_dim']}, N={model['state_dim']}), no cuts; seeds {seeds}. Test accuracy of the "
        f"full model: {several(accuracy, '.2f')} %.",
    ]
    for name in results[0]["layers"]:
        lines += ["", f"**Layer {name}**", "", weyl(results, name), ""]
        lines += [*correlations(results, name), "", *energies(results, name)]
    return "\n".join(lines) + "\n"


def at_share(result: Result, layer: str, share: float) -> dict[str, Any]:
    """The comparison with the end of the check at a share of training.

    Raises:
        ValueError: If there was none.
    """
    step = round(share * result["settings"]["steps"])
    for found in result["layers"][layer]["against_end"]:
        if found["step"] == step:
            entry: dict[str, Any] = found
            return entry
    raise ValueError(f"layer {layer!r}: no check at step {step}")


def correlations(results: list[Result], layer: str) -> list[str]:
    """How alike the order of states, and that of modes, is to the order at the end."""
    lines = [
        "| training done | Spearman with the end: states followed | of them found at the end | "
        "Spearman with the end: modes |",
        "|---:|---|---:|---|",
    ]
    for share in SHARES:
        found = [at_share(result, layer, share) for result in results]
        shared = statistics.mean(entry["shared"] for entry in found)
        lines.append(
            f"| {share:.0%} | {several((e['tracks'] for e in found), '.2f')} | {shared:.0f} | "
            f"{several((e['modes'] for e in found), '.2f')} |"
        )
    return lines


def energies(results: list[Result], layer: str) -> list[str]:
    """What a cut at each moment would have lost, in % of the sum of values at the end."""
    lines = [
        "| training done | cut to | lost by the end, % of the sum of values | least possible | "
        "bottom states then, share at the end, % | bottom modes then, % |",
        "|---:|---:|---|---:|---|---|",
    ]
    for size in results[0]["sizes"]:
        for share in SHARES:
            found = [at_share(result, layer, share)["sizes"][str(size)] for result in results]

            def column(value: Callable[[dict[str, float]], float], found: list[Any] = found) -> str:
                return several((100 * value(entry) for entry in found), ".1f")

            least = statistics.mean(100 * (1 - entry["best"]) for entry in found)
            lines.append(
                f"| {share:.0%} | {size} | {column(lambda e: 1 - e['kept'])} | {least:.1f} | "
                f"{column(lambda e: e['bottom_tracks'])} | {column(lambda e: e['bottom_modes'])} |"
            )
    return lines


def weyl(results: list[Result], layer: str) -> str:
    """In how many intervals the values moved by no more than the bound, and how near they came to it."""
    checks = [c for r in results for c in r["layers"][layer]["checks"] if c["moved"] is not None]
    likeness = statistics.mean(check["likeness"] for check in checks)
    recognised = f"States were recognised from check to check with a mean likeness of {likeness:.2f}."
    checks = [check for check in checks if check["distance"] is not None]
    if not checks:
        return recognised  # weighted values have no such bound
    held = sum(check["moved"] <= check["distance"] * (1 + 1e-9) for check in checks)
    ratios = [check["moved"] / check["distance"] for check in checks if check["distance"] > 0]
    return (
        f"Weyl's bound held in {held} of {len(checks)} intervals; the farthest move was "
        f"{statistics.median(ratios):.2f} of the bound in the median and {max(ratios):.2f} at most. "
        f"{recognised}"
    )


def several(values: Iterable[float | None], form: str) -> str:
    """The mean, and every number."""
    found = [value for value in values if value is not None]
    if not found:
        return "—"
    each = ", ".join(format(value, form) for value in found)
    return f"{format(statistics.mean(found), form)} ({each})"
