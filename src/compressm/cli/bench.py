"""``compressm bench``: speed and memory beside peers."""

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from compressm.bench import Outcome, Plan, Settings, Watcher, choose, run, with_dropout, write_figures
from compressm.bench.tables import choice_table, comparison_table, sweep_table
from compressm.report.numbers import plural
from compressm.report.table import Table, to_rich


def bench(
    out: Path = Path("bench"),
    cases: tuple[str, ...] = (),
    peers: bool = True,
    rounds: int = 9,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    dropout: float = 0.0,
    tf32: bool = False,
    bf16: bool = False,
    compile: bool = False,  # noqa: A002 - the option's name
    memory: bool = True,
    scaling: bool = False,
    form: str = "auto",
    grid: bool = False,
    calibrate: bool = False,
    quick: bool = False,
    cpu_time: bool = False,
) -> None:
    """Measure training steps and recurrences beside peers, in turns, and beside the least they could cost.

    Every case is a whole training step (forward, backward, AdamW) or a recurrence forward and backward.
    Alternatives run in turns in one process after a warm-up; peers must give our outputs and gradients first.
    --scaling, --grid and --calibrate measure that alone, unless --cases names cases as well.

    Args:
        out: Folder for bench.json and the figures.
        cases: Names of cases: smnist, smnist-28, medium, scifar, scifar-93, selective, selective-16,
            selective-12, mamba, ssd, s4d; all if not given. And scifar-50, scifar-50-93 (the paper's
            batch), too large for most processors.
        peers: Also other implementations, where they are installed.
        rounds: Measurements of each alternative.
        threads: PyTorch's threads; as many as it takes by itself, if not given. JAX's pool gets as many.
        device: Where to compute.
        dropout: Dropout of the classifiers; above 0 without peers.
        tf32: Matrix products of everybody in TF32, on a GPU.
        bf16: Also ours under autocast with bfloat16.
        compile: Also ours with torch.compile on every block.
        memory: Measure peak memory, each in a process of its own.
        scaling: Time and memory against length (2^8 to 2^17), states, channels and batch.
        form: Form of lti_scan under --scaling: auto, scan, convolution or reference.
        grid: The chosen form and chunk against the best, over a grid of shapes.
        calibrate: Measure the cost model's constants on this machine and keep them.
        quick: 3 rounds, no memory, short axes, a part of the grid: a first look.
        cpu_time: Processor time instead of time; with one thread it depends little on what else runs.
    """
    import torch

    console = Console()
    nothing_named = not (cases or scaling or grid or calibrate)
    plan = Plan(
        cases=with_dropout(choose(cases) if cases or nothing_named else [], dropout),
        settings=Settings(
            threads=torch.get_num_threads() if threads is None else threads,
            device=device,
            tf32=tf32,
            bf16=bf16,
            compile=compile,
            peers=peers,
        ),
        rounds=rounds,
        memory=memory,
        scaling=scaling,
        form=form,
        grid=grid,
        calibrate=calibrate,
        quick=quick,
        cpu_time=cpu_time,
    )
    with _Display(console) as display:
        outcome = run(plan, out, display)
    _show(outcome, console)
    for path in (out / "bench.json", *write_figures(outcome, out)):
        console.print(Text(f"wrote {path}"))


class _Display(Watcher):
    """A bar for each part."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "_Display":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, part: str, rounds: int) -> None:
        if self._task is not None:
            self._bars.stop_task(self._task)
        self._task = self._bars.add_task(part, total=rounds)

    def tick(self) -> None:
        if self._task is not None:
            self._bars.advance(self._task)


def _show(outcome: Outcome, console: Console) -> None:
    machine = outcome.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    console.print(
        Text(
            f"{machine['processor']}, {machine['cores']} cores, device {machine['device']}; PyTorch on "
            f"{plural(machine['threads'], 'thread')}, JAX on {machine['jax_threads']}; {machine['dtype']}; "
            f"{outcome.method['rounds']} rounds; {outcome.method['bytes_per_second'] / 1e9:.1f} GB/s copied; "
            f"kernels compiled or loaded in {outcome.method['kernel_seconds']:.1f} s; {versions}"
        )
    )
    if outcome.constants is not None:
        console.print("the cost model's constants of this machine are kept for later processes")
    if outcome.comparisons:
        _print(comparison_table(outcome.comparisons), console)
    for sweep in outcome.sweeps:
        console.print(Text(f"{sweep.operation} against {sweep.axis}", style="bold"))
        _print(sweep_table(sweep), console)
    for title, choices in (
        ("forms of lti_scan", outcome.forms),
        ("linear attention and the delta rule", outcome.chunks),
    ):
        if choices:
            console.print(Text(title, style="bold"))
            _print(choice_table(choices), console)


def _print(table: Table, console: Console) -> None:
    console.print(to_rich(table, compact=True))
    for note in table.notes:
        console.print(Text(note, style="dim"))
