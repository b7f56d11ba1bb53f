"""Commands by name, and errors as one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from rich.console import Console

from compressm.bench import MemoryMeasurementError
from compressm.cli.bench import bench
from compressm.cli.data import data
from compressm.cli.demo import demo
from compressm.cli.experiment import experiment
from compressm.cli.models import compress, evaluate, inspect
from compressm.cli.report import report
from compressm.cli.reproduce import reproduce
from compressm.cli.sample import sample
from compressm.cli.train import resume, train
from compressm.data import DataError

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "train": train,
    "resume": resume,
    "evaluate": evaluate,
    "inspect": inspect,
    "compress": compress,
    "report": report,
    "sample": sample,
    "experiment": experiment,
    "reproduce": reproduce,
    "bench": bench,
    "data": data,
}

# What bad input, missing files and failed runs raise; anything else is a bug and keeps its traceback.
USER_ERRORS = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    FloatingPointError,
    DataError,
    MemoryMeasurementError,
    ModuleNotFoundError,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after ``compressm``; the process's own if not given.

    Raises:
        SystemExit: With 2 after bad input and 130 after an interrupt, each with one line on standard error.
    """
    console = Console(stderr=True)
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="compressm",
            description="Shrink the state of state-space models while they train.",
            args=sys.argv[1:] if arguments is None else list(arguments),
            config=(
                tyro.conf.OmitArgPrefixes,
                tyro.conf.PositionalRequiredArgs,
                tyro.conf.PositionalMetavarFromFieldName,
            ),
        )
    except USER_ERRORS as error:
        console.print(f"[bold red]compressm: error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        console.print("compressm: interrupted")
        raise SystemExit(130) from None


def _plain(error: BaseException) -> str:
    # Rich reads square brackets as markup; an error's text is not markup.
    return str(error).replace("[", "\\[")
