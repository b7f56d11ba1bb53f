"""What one sees in each figure, in plain words."""

from collections.abc import Sequence

from .figure_spectra import MOST_LAYERS, run_with_spectra
from .figure_tracks import run_with_tracks
from .groups import group_runs
from .metric import metric_of
from .runs import Run


def captions(runs: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """Return for each figure's name a leading sentence and the explanation."""
    metric = metric_of(runs)
    arms = {group.arm for group in group_runs(runs)}
    good = "Higher is better" if metric.higher_is_better else "Lower is better"
    full = " The dashed line is the full model." if "full" in arms else ""
    several = any(len(group.runs) > 1 for group in group_runs(runs))
    spread = ", the upright line a standard deviation to each side" if several else ""
    bundles = " Pale lines are single seeds, strong lines their means." if several else ""
    tested = " Open marks at the end are test results." if any(run.test is not None for run in runs) else ""
    return {
        "accuracy": (
            f"Test {metric.name} against the size of the state at the end.",
            f"Every mark is one seed, every bar the mean of a setting{spread}. {good}, and further left is "
            f"smaller.{full}",
        ),
        "spectra": ("How much each state contributes, at every check.", _spectra(run_with_spectra(runs))),
        "speed": (
            "Size of the state and time of a training step.",
            "Above: states per layer, falling at each cut. "
            f"Below: what a step costs{_floors(runs)}.{bundles}",
        ),
        "tracks": ("How the states' ranking forms and settles.", _tracks(run_with_tracks(runs))),
        "training": (
            f"Loss and {metric.name} over the training.",
            f"{_cut_lines(runs)}{bundles}{tested}",
        ),
    }


def _spectra(run: Run | None) -> str:
    if run is None:
        return ""
    layers = {layer.name for cut in run.cuts for layer in cut.layers}
    kinds = {layer.realization for cut in run.cuts for layer in cut.layers}
    words = (
        f"Hankel singular values of the run “{run.name}”, divided by the largest; light curves are early "
        "attempts, dark ones late. A dot and a dashed line mark the boundary: what lies left of it was kept, "
        "the pale rest was cut. The faster a curve falls, the less is lost by cutting."
    )
    if "real" in kinds:
        words += " In the real form two values make one state."
    if len(layers) > MOST_LAYERS:
        words += f" The first {MOST_LAYERS} of {len(layers)} layers are shown."
    return words


def _tracks(run: Run | None) -> str:
    if run is None:
        return ""
    layers = len({check.layer for check in run.checks})
    words = (
        f"The run “{run.name}”. Above: Hankel singular values of {run.checks[0].layer}; every line on the "
        "left follows one state, and strong ones are those that a cut at the last check would keep. Below: "
        "how alike the orders of the states are (1: the same), which share of all pairs changed places, how "
        "much energy a cut some checks earlier would have kept beside the most that as many states can hold, "
        "and how far a value moved between checks beside the bound by the change of the whole layer."
    )
    if layers > 1:
        words += f" The lower panels show all {layers} layers pale and their mean strong."
    return words


def _floors(runs: Sequence[Run]) -> str:
    floors = any(run.floor_final is not None for run in runs)
    return "; dotted lines are the floor, the same step without its recurrences" if floors else ""


def _cut_lines(runs: Sequence[Run]) -> str:
    if any(run.effective_cuts for run in runs):
        return (
            "Thin vertical lines mark the steps at which a model was cut: a cut that loses nothing leaves no "
            "jump there."
        )
    return "No model was cut in training."
