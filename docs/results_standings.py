"""Where the default stands among its rivals: which are ahead, and which the seeds do not tell apart."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from results_reading import Comparison, Scores

from compressm.report import Column, Row, Table, to_markdown
from compressm.report.groups import deviation
from compressm.report.numbers import fixed

AHEAD = """Rivals of the same final size whose mean is better than the default's, and whether by more than a
pooled standard deviation:
"""
UNDECIDED = """Rivals that the default leads by less than a pooled standard deviation, with the sizes: the
seeds that were run do not tell these apart.
"""


def told_standings(comparisons: Sequence[Comparison]) -> str:
    """Both, as a part of the page."""
    found = list(standings(comparisons))
    return "\n".join([AHEAD, ahead(found), UNDECIDED, *undecided(found), ""])


@dataclass(frozen=True)
class Standing:
    """A rival beside the default at one size, over the seeds that both have."""

    comparison: Comparison
    rival: str
    size: float
    ours: Scores
    theirs: Scores

    @property
    def lead(self) -> float:
        """By how much the default is better; negative where the rival is."""
        sign = 1 if self.comparison.metric.higher_is_better else -1
        return sign * (self.ours.mean - self.theirs.mean)

    @property
    def clear(self) -> bool:
        """Whether they are further apart than a pooled standard deviation; never with one seed."""
        spreads = [deviation(scores.values) for scores in (self.ours, self.theirs)]
        known = [spread for spread in spreads if spread is not None]
        return bool(known) and abs(self.lead) > math.sqrt(math.fsum(s**2 for s in known) / len(known))


def standings(comparisons: Sequence[Comparison]) -> Iterator[Standing]:
    """Every other arm beside the default of its size, in the order of the page."""
    for comparison in (each.beside_default(comparisons) for each in comparisons):
        families = comparison.families()
        own = {f"{family}default" for family in families}
        for arm in dict.fromkeys(record["arm"] for record in comparison.records):
            family = max((f for f in families if arm.startswith(f)), key=len, default=None)
            if family is None or arm in own:
                continue
            for size in comparison.sizes(arm):
                ours, theirs = comparison.scores(f"{family}default", size), comparison.scores(arm, size)
                if ours is not None and theirs is not None:
                    yield Standing(comparison, arm, size, *ours.shared(theirs))


def ahead(found: Sequence[Standing]) -> str:
    """A table of the rivals whose mean is above the default's."""
    rows = []
    for standing in found:
        if standing.lead >= 0:
            continue
        metric = standing.comparison.metric
        told = (standing.theirs.told(metric), standing.ours.told(metric))
        gap, clear = fixed(-standing.lead, metric.decimals), "yes" if standing.clear else "no"
        size = f"{standing.size:g}"
        rows.append(Row((standing.comparison.title, size, standing.rival, *told, gap, clear)))
    if not rows:
        return "No rival of the same size has a better mean than the default in these results.\n"
    headings = ("states", "rival", "its score", "default", "apart", "beyond one sd")
    return to_markdown(Table((Column("comparison", align="left"), *map(Column, headings)), tuple(rows), ()))


def undecided(found: Sequence[Standing]) -> Iterator[str]:
    """A line for each comparison with rivals that the default leads by less than a pooled deviation."""
    by_title: dict[str, dict[str, list[str]]] = {}
    for standing in found:
        if standing.lead >= 0 and not standing.clear:
            rivals = by_title.setdefault(standing.comparison.title, {})
            rivals.setdefault(standing.rival, []).append(f"{standing.size:g}")
    for title, rivals in by_title.items():
        yield f"- {title}: " + "; ".join(f"*{arm}* at {', '.join(at)}" for arm, at in rivals.items()) + "."
