"""Costs, the mean of the best seeds, LaTeX."""

from dataclasses import replace
from pathlib import Path

import pytest

from compressm.report import Column, Measurement, Row, Run, Stage, Summary, Table, costs_table, to_latex
from compressm.report.summary import best_mean, summary_table


def run(seed: int, accuracy: float, **summary: object) -> Run:
    base = Summary(parameters=500, states=(8,), total_seconds=90.0, step_seconds_after=0.02)
    return Run(
        folder=Path(f"run-{seed}"),
        config={"arm": "default", "task": "toy", "seed": seed},
        test=Measurement(step=10, accuracy=accuracy, loss=1.0),
        summary=replace(base, **summary),  # type: ignore[arg-type]
    )


def test_costs_are_means_over_seeds() -> None:
    stages = (Stage(after=0, states=(16,), step_seconds=0.05), Stage(after=9, states=(8,), step_seconds=0.02))
    told = {"stages": stages, "flops_per_step": 2.5e9, "peak_memory": 3e8, "streamed_per_second": 1000.0}
    table = costs_table([run(0, 0.5, **told), run(1, 0.6, **told | {"peak_memory": 5e8})])
    assert table.column("training steps a second") == ("20.0 → 50.0",)
    assert table.column("training peak memory (MB)") == ("400",)
    assert table.column("training GFLOP a step") == ("2.5",)
    assert table.column("model steps a second, one by one") == ("1,000",)
    assert table.column("whole run (s)") == ("90.0",)
    with pytest.raises(KeyError):
        table.column("its teacher (s)")
    taught = costs_table([run(0, 0.5, teacher_seconds=30.0)])
    assert taught.column("its teacher (s)") == ("30.0",)
    # A run from before these were measured.
    assert costs_table([run(0, 0.5)]).column("training steps a second") == ("50.0",)


def test_the_best_three_stand_beside_the_mean_from_four_on() -> None:
    accuracies = [0.5, 0.9, 0.7, 0.8, 0.6]
    table = summary_table([run(seed, accuracy) for seed, accuracy in enumerate(accuracies)])
    assert table.column("test accuracy mean (%)") == ("70.00",)
    assert table.column("test accuracy top 3 (%)") == ("80.00",)
    with pytest.raises(KeyError):
        summary_table([run(seed, 0.5) for seed in range(3)]).column("test accuracy top 3 (%)")
    assert best_mean([1.0, 2.0, 3.0, 10.0], higher_is_better=False) == 2.0


def test_latex_escapes_its_own_signs() -> None:
    columns = (Column("arm", align="left"), Column("± sd", "%", group="test_x"))
    table = Table(columns, (Row(("a_b & c", "1 → 2"), strong=True), Row(("{d}", "—"))), ("50 %\nof it",))
    assert to_latex(table).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\hline",
        r"arm & test\_x $\pm$ sd (\%) \\",
        r"\hline",
        r"\textbf{a\_b \& c} & \textbf{1 $\to$ 2} \\",
        r"\{d\} & --- \\",
        r"\hline",
        r"\end{tabular}",
        "% 50 % of it",
    ]
