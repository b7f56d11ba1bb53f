"""Scores in words, the same wherever a command tells one."""

from collections.abc import Mapping

# Figures beside the loss, in the order in which they are told.
_ORDER = ("accuracy", "bits_per_character", "bits_per_sample", "perplexity", "nrmse", "rollout_nrmse")


def describe_score(loss: float, figures: Mapping[str, float], metric: str) -> str:
    """``accuracy 97.12%``, or ``loss 1.6620, 2.398 bits per character, perplexity 5.27``.

    Args:
        loss: Mean loss.
        figures: Other figures by name.
        metric: The one that is compared; where that is accuracy, it says all.
    """
    if metric == "accuracy":
        return f"accuracy {figures['accuracy']:.2%}"
    told = [_figure(name, figures[name]) for name in _ORDER if name in figures and name != "accuracy"]
    return ", ".join((f"loss {loss:.4g}", *told))


def short_score(figures: Mapping[str, float], metric: str) -> str:
    """The figure that is compared, in a few letters; empty where it is not known."""
    if metric not in figures:
        return ""
    value = figures[metric]
    match metric:
        case "accuracy":
            return f"acc. {value:6.1%}"
        case "bits_per_character":
            return f"{value:.3f} bpc"
        case "bits_per_sample":
            return f"{value:.3f} bits"
        case "perplexity":
            return f"ppl {value:.4g}"
        case _:
            return f"{metric} {value:.3g}"


def _figure(name: str, value: float) -> str:
    match name:
        case "bits_per_character":
            return f"{value:.3f} bits per character"
        case "bits_per_sample":
            return f"{value:.3f} bits per sample"
        case "perplexity":
            return f"perplexity {value:.4g}"
        case "nrmse":
            return f"normalised RMSE {value:.4g}"
        case _:
            return f"normalised RMSE of the roll-out {value:.4g}"
