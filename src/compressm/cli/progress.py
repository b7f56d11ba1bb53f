"""What a run shows while it works: bar, loss, accuracy, sizes, and a line for every cut."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from compressm.cli.scores import short_score
from compressm.compression import Cut, LayerCut
from compressm.training import Progress
from compressm.training.loop import Watcher


def describe_error(layer: LayerCut) -> str:
    """``, error 0.3 (bound 2)``: what a cut does to the layer's map, as far as it is known."""
    if layer.error is None:
        return ""
    bound = "" if layer.error_bound is None else f" (bound {layer.error_bound:.2g})"
    return f", error {layer.error:.2g}{bound}"


def describe_cut(cut: Cut) -> list[str]:
    """A line for every layer of a cut, and one for what the guard took back."""
    lines = [] if cut.undid is None else [f"step {cut.undid.step}, cut undone: {cut.undid.reason}"]
    lines += [
        f"step {cut.step}, {layer.name} {layer.old} -> {layer.new} states{describe_error(layer)}"
        for layer in cut.layers
    ]
    return lines


class Display:
    """Live bars with a name and some facts each, while it is entered. Together they fit 80 columns.

    Args:
        console: Where to show them.
        names: Columns for the names.
        facts: Columns for the facts.
    """

    def __init__(self, console: Console, *, names: int, facts: int) -> None:
        self._bars = Bars(
            TextColumn(f"{{task.description:<{names}}}"),
            BarColumn(bar_width=10),
            TaskProgressColumn(),
            TextColumn(f"{{task.fields[facts]:<{facts}}}"),
            TimeElapsedColumn(),
            console=console,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()


class RunDisplay(Display):
    """A live bar for each run, on a terminal; plain lines for the cuts anywhere.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, names=17, facts=34)

    def watch(self, name: str, steps: int) -> Watcher:
        """A watcher that shows one run under ``name``."""
        # Its clock starts with its first sign of life: other runs may come before it.
        task = self._bars.add_task(name, total=steps, facts="waiting", start=False)

        def show(progress: Progress) -> None:
            self._bars.start_task(task)
            sizes = "+".join(map(str, progress.states))
            score = short_score(progress.figures, progress.metric)
            # Square errors fall by orders of magnitude, cross entropies do not.
            loss = f"loss {progress.loss:.3f}" if score else f"loss {progress.loss:.2e}"
            facts = "  ".join(filter(None, (loss, score, f"{sizes} states")))
            self._bars.update(task, completed=progress.step, facts=facts)
            if progress.cut is not None:
                for line in describe_cut(progress.cut):
                    self._bars.console.print(f"{name}: {line}", highlight=False)

        return show
