"""One total for all layers, error bounds, and sizes that kernels like."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressm.compression import (
    EnergyRank,
    ErrorBoundRank,
    FixedRank,
    GlobalBudget,
    RankRule,
    Spectrum,
    Target,
)
from compressm.lti import energy_rank


def spectrum(name: str, values: list[float], *, real: bool = True, reduction: str = "gradients") -> Spectrum:
    ordered = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    states = len(values) // 2 if real else len(values)
    return Spectrum(name, ordered, states, states, reduction)


def orders(rule: RankRule, spectra: list[Spectrum]) -> list[int]:
    found = rule.targets(spectra, 1, 1)
    assert all(target.order is not None for target in found)
    return [target.order or 0 for target in found]


values = st.lists(st.floats(0, 1e3, allow_subnormal=False), min_size=2, max_size=30).filter(
    lambda found: len(found) % 2 == 0
)


@pytest.mark.parametrize("by", ["energy", "score", "loss"])
@given(layers=st.lists(values, min_size=1, max_size=5), share=st.floats(0, 1))
def test_the_total_is_kept_and_no_layer_is_empty(layers: list[list[float]], share: float, by: Any) -> None:
    spectra = [spectrum(f"layer {i}", found) for i, found in enumerate(layers)]
    all_states = sum(s.state_dim for s in spectra)
    total = max(len(spectra), round(share * all_states))
    found = orders(GlobalBudget(total, by), spectra)
    assert sum(found) <= total
    assert all(1 <= order <= s.state_dim for order, s in zip(found, spectra, strict=True))


def test_equal_energy_by_hand() -> None:
    steep, flat = spectrum("steep", [8, 1, 0.5, 0.5], real=False), spectrum("flat", [1, 1, 1, 1], real=False)
    # Losing a tenth of the energy of either: 2 of steep (9 of 10) and 4 of flat; losing a quarter: 1 and 3.
    assert orders(GlobalBudget(6), [steep, flat]) == [2, 4]
    assert orders(GlobalBudget(4), [steep, flat]) == [1, 3]
    level = [energy_rank(s.hankel_singular_values, 0.25) for s in (steep, flat)]
    assert level == [1, 3]


def test_scores_know_their_layer_and_losses_compare_layers() -> None:
    loud, quiet = spectrum("loud", [100, 90, 80], real=False), spectrum("quiet", [1, 0.9, 0.8], real=False)
    assert orders(GlobalBudget(4, "score"), [loud, quiet]) == [2, 2]
    assert orders(GlobalBudget(4, "loss"), [loud, quiet]) == [3, 1]
    with pytest.raises(ValueError, match="'quiet' was ranked by 'states': take reduction='gradients'"):
        GlobalBudget(4, "loss").targets(
            [loud, spectrum("quiet", [1, 0.9, 0.8], real=False, reduction="states")], 1, 1
        )


def test_the_total_shrinks_along_the_path() -> None:
    spectra = [spectrum(f"layer {i}", list(range(1, 129))) for i in range(2)]
    sums = [
        sum(target.order or 0 for target in GlobalBudget(16).targets(spectra, attempt, 3))
        for attempt in (1, 2, 3)
    ]
    assert sums == [64, 32, 16]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (GlobalBudget(2), r"in 3\.\.24"),
        (GlobalBudget(25), r"in 3\.\.24"),
        (GlobalBudget(5, minimum=2), r"in 6\.\.24"),
    ],
)
def test_an_impossible_total_is_refused(rule: GlobalBudget, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule.check({"a": 8, "b": 8, "c": 8})


def test_the_bound_decides() -> None:
    (target,) = ErrorBoundRank(tolerance=0.5).targets([spectrum("a", [8, 4, 1.5, 0.5])], 1, 1)
    assert target == Target(keep=2)  # 2 (1.5 + 0.5) <= 0.5 * 8 < 2 (4 + 1.5 + 0.5)


class TestSizes:
    """Rounding and limits, with any rule."""

    def test_multiples_limits_and_present_sizes(self) -> None:
        layer = spectrum("a", [1.0] * 60)
        for rank, rule, expected in (
            (5, {"multiple_of": 8}, 8),
            (16, {"multiple_of": 8}, 16),
            (29, {"multiple_of": 8}, 30),  # no more than there are
            (2, {"minimum": 6}, 6),
            (20, {"maximum": 12}, 12),
            (20, {"maximum": 12, "multiple_of": 8}, 16),
        ):
            (target,) = FixedRank(rank, **rule).targets([layer], 1, 1)
            assert target.order == expected

    def test_energy_in_multiples_is_a_size(self) -> None:
        rule = EnergyRank(tolerance=0.5, multiple_of=4)
        assert rule.targets([spectrum("a", [1.0] * 24)], 1, 1) == [
            Target(order=8)
        ]  # 12 of 24 values: 6 states

    def test_a_table_by_layers(self) -> None:
        rule = FixedRank({"a": 2})
        spectra = [spectrum("a", [1.0] * 16), spectrum("b", [1.0] * 16)]
        assert [target.order for target in rule.targets(spectra, 4, 4)] == [2, 8]
        with pytest.raises(ValueError, match=r"no layer 'c'; the layers are a, b"):
            FixedRank({"c": 2}).check({"a": 8, "b": 8})
        with pytest.raises(ValueError, match="rank is 9, but layer 'a' has only 8"):
            FixedRank({"a": 9}).check({"a": 8, "b": 8})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"multiple_of": 0}, "multiple_of is 0"),
            ({"minimum": 0}, "minimum is 0"),
            ({"minimum": 5, "maximum": 4}, "maximum is 4, below the minimum of 5"),
        ],
    )
    def test_bad_limits_are_refused(self, arguments: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FixedRank(8, **arguments)
