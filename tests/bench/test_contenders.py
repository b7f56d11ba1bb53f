"""Who takes part, that all compute the same, and that the benchmark refuses who does not."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compressm import bench
from compressm.bench.cases import (
    CASES,
    FOR_A_GPU,
    AttentionCase,
    Case,
    ChannelsCase,
    ClassifierCase,
    LtiCase,
    MambaCase,
    SelectiveCase,
    choose,
)
from compressm.bench.classifier import OurClassifier, classifier, classifier_batch
from compressm.bench.comparison import Method, compare
from compressm.bench.contender import (
    TOLERANCE,
    Arrays,
    Contender,
    DisagreementError,
    Settings,
    check_agreement,
)
from compressm.bench.contenders import contenders_of
from compressm.bench.lti import OurLti
from compressm.bench.runner import with_dropout
from compressm.bench.timing import Step

SETTINGS = Settings(threads=1)
TINY: list[Case] = [
    ClassifierCase(name="classifier", batch=2, L=8, layers=1, H=3, N=5, input_dim=2),
    SelectiveCase(name="selective", batch=2, L=20, d=6, N=4),
    MambaCase(name="mamba", batch=2, L=20, layers=1, hidden=16, N=4, vocabulary=11),
    AttentionCase(name="attention", batch=2, L=20, heads=2, K=4, V=3),
    AttentionCase(name="attention by channel", batch=2, L=20, heads=2, K=4, V=3, per_channel=True),
    ChannelsCase(name="channels", batch=2, L=20, channels=3, N=4),
]


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_peers_that_are_here_agree_with_ours(case: Case) -> None:
    ours, *peers = contenders_of(case, SETTINGS)
    if ours.missing() is not None:
        pytest.skip(f"{case.name}: {ours.missing()}")
    for peer in peers:
        if peer.missing() is None:
            peer.load(case)
            assert check_agreement(ours, peer, case) < TOLERANCE
        else:
            assert "pip install" in str(peer.missing()) or "--device cuda" in str(peer.missing())


def test_our_forms_agree() -> None:
    case = LtiCase(name="lti", batch=2, L=20, H=3, N=4)
    expected = OurLti(SETTINGS).outputs(replace(case, form="reference"))
    for form in ("scan", "convolution"):
        found = OurLti(SETTINGS).outputs(replace(case, form=form))
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-3)


def test_our_training_step_is_adamw_on_the_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    case = TINY[0]
    assert isinstance(case, ClassifierCase)
    built = []

    def remembered(given: ClassifierCase) -> torch.nn.Module:
        built.append(classifier(given))
        return built[-1]

    monkeypatch.setattr("compressm.bench.classifier.classifier", remembered)
    step = OurClassifier(SETTINGS).step(case)
    for _ in range(3):
        step()
    (trained,) = built
    by_hand = classifier(case).train()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=4e-4, weight_decay=0.05)
    inputs, targets = classifier_batch(case)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(by_hand(inputs), targets).backward()
        optimizer.step()
    for (name, ours), expected in zip(trained.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_bfloat16_is_near_and_not_held_to_the_tolerance() -> None:
    case = TINY[0]
    exact, half = contenders_of(case, replace(SETTINGS, bf16=True, peers=False))
    assert (exact.exact, half.exact, half.name) == (True, False, "compressm bf16")
    logits, rounded = exact.outputs(case)["logits"], half.outputs(case)["logits"]
    assert 0 < np.abs(rounded - logits).max() < 0.1


def test_variants_and_peers_by_settings() -> None:
    everything = Settings(threads=1, bf16=True, compile=True)
    names = [one.name for one in contenders_of(CASES["smnist"], everything)]
    assert names == ["compressm", "compressm bf16", "compressm compiled", "JAX associative scan"]
    dropped, selective = with_dropout([CASES["smnist"], CASES["selective"]], 0.1)
    assert [one.name for one in contenders_of(dropped, SETTINGS)] == ["compressm"]
    assert (dropped.dropout, selective) == (0.1, CASES["selective"])
    with pytest.raises(TypeError, match="Case"):
        contenders_of(Case(name="none", batch=1, L=1), SETTINGS)


class Wrong(Contender[SelectiveCase]):
    """Gives ours, after a change."""

    name = "wrong"
    change = staticmethod(lambda arrays: arrays)

    def step(self, case: SelectiveCase) -> Step:
        raise AssertionError(f"{case.name}: a contender that was refused is not to run")

    def load(self, case: SelectiveCase) -> None:
        pass

    def outputs(self, case: SelectiveCase) -> Arrays:
        changed: Arrays = self.change(contenders_of(case, SETTINGS)[0].outputs(case))
        return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: {**arrays, "C": 1.002 * arrays["C"]}, "C of wrong differs from ours by 0.002"),
        (lambda arrays: {**arrays, "y": np.full_like(arrays["y"], np.nan)}, "y of wrong differs"),
        (lambda arrays: {**arrays, "y": arrays["y"][:1]}, "y of wrong has shape"),
        (lambda arrays: {"y": arrays["y"]}, r"wrong gives \['y'\]"),
    ],
)
def test_who_computes_something_else_is_refused(
    change: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = TINY[1]
    wrong = Wrong(SETTINGS)
    monkeypatch.setattr(Wrong, "change", staticmethod(change))
    ours = contenders_of(case, SETTINGS)[0]
    with pytest.raises(DisagreementError, match=message):
        check_agreement(ours, wrong, case)
    monkeypatch.setattr("compressm.bench.comparison.contenders_of", lambda *_: [ours, wrong])
    result = compare(
        case, SETTINGS, Method(rounds=1, memory=False, bandwidth=1e9, clock=lambda: 1.0 + calls())
    )
    assert [one.name for one in result.measured] == ["compressm"]
    assert result.absent["wrong"].startswith("refused: ")


def calls(count: list[int] = [0]) -> float:  # noqa: B006 - the clock's memory
    """A clock that goes on by a second at every look."""
    count[0] += 1
    return float(count[0])


def test_a_package_that_is_not_there_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for name, package in (("smnist", "jax"), ("selective", "mambapy"), ("mamba", "transformers")):
        reasons = [one.missing() for one in contenders_of(CASES[name], SETTINGS)]
        assert f"not installed: pip install {package}" in reasons
    result = compare(CASES["mamba"], SETTINGS, Method(rounds=1, memory=False, bandwidth=1e9, clock=calls))
    assert result.measured == []
    assert set(result.absent) == {"compressm", "Transformers", "Transformers with mambapy"}


def test_no_peer_is_imported_before_it_is_needed() -> None:
    for file in Path(bench.__file__).parent.glob("*.py"):
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in statement.names]
                names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
                roots = {name.partition(".")[0] for name in names}
                assert not roots & {"jax", "mambapy", "transformers", "matplotlib"}, file.name


def test_cases_by_name() -> None:
    assert choose(()) == [case for name, case in CASES.items() if name not in FOR_A_GPU]
    assert [case.name for case in choose(("ssd", "smnist"))] == ["ssd", "smnist"]
    with pytest.raises(ValueError, match="unknown case 'mnist'; choose from smnist"):
        choose(("mnist",))
