"""What a run shows while it works: bar, loss, accuracy, sizes, and a line for every cut."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from compressm.training import Progress
from compressm.training.loop import Watcher


class RunDisplay:
    """A live bar for each run, on a terminal; plain lines for the cuts anywhere.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            # Narrow enough for 80 columns.
            TextColumn("{task.description:<17}"),
            BarColumn(bar_width=10),
            TaskProgressColumn(),
            TextColumn("{task.fields[facts]:<34}"),
            TimeElapsedColumn(),
            console=console,
        )

    def __enter__(self) -> "RunDisplay":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def watch(self, name: str, steps: int) -> Watcher:
        """A watcher that shows one run under ``name``."""
        task = self._bars.add_task(name, total=steps, facts="waiting")

        def show(progress: Progress) -> None:
            sizes = "+".join(map(str, progress.states))
            facts = f"loss {progress.loss:.3f}  acc. {progress.accuracy:6.1%}  {sizes} states"
            self._bars.update(task, completed=progress.step, facts=facts)
            if progress.cut is not None:
                for layer in progress.cut.layers:
                    bound = "no bound" if layer.error_bound is None else f"bound {layer.error_bound:.2g}"
                    self._bars.console.print(
                        f"{name}: step {progress.step}, {layer.name} {layer.old} -> {layer.new} states, "
                        f"error {layer.error:.2g} ({bound})",
                        highlight=False,
                    )

        return show
