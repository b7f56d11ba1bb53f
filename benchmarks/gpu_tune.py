"""Settings of a CUDA device's kernels side by side, to choose them for a card.

    python benchmarks/gpu_tune.py [--json FILE] [--repeats R]

Sizes of tiles, and how many programs are thought to keep a card busy, decide how the recurrences are cut.
Here each is changed by itself, and forward and backward pass are measured by the device's clock, medians of
several runs; "as it is" comes first and last, so that the card's drift shows. Results depend on settings in
their last digits alone; ``gpu_scan.py`` checks those that are kept.
"""

import argparse
import contextlib
import functools
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gpu_scan
import torch

AS_IT_IS = "as it is"


class Setting(NamedTuple):
    """What a module's names are for a while: new values, or new entries of a dictionary."""

    title: str
    module: str
    changes: dict[str, Any]


SELECTIVE, LTI = "compressm.scan.selective.triton", "compressm.scan.lti.triton"
SETTINGS = [
    Setting(AS_IT_IS, SELECTIVE, {}),
    *(
        Setting(f"{count} programs a multiprocessor", SELECTIVE, {"PROGRAMS_PER_MULTIPROCESSOR": count})
        for count in (4, 8, 16, 32)
    ),
    Setting("outputs: 8 steps a tile", SELECTIVE, {"_TILES": {"STEPS": 8}}),
    *(
        Setting(
            f"gradients: {steps} steps by {block} channels a tile",
            SELECTIVE,
            {"_GRADIENTS": {"STEPS": steps, "BLOCK": block}},
        )
        for steps, block in ((8, 32), (8, 64), (4, 64))
    ),
    Setting(AS_IT_IS, SELECTIVE, {}),
]
SETTINGS += [setting._replace(module=LTI) for setting in SETTINGS if "tile" not in setting.title]
SETTINGS += [Setting(f"{steps} steps a tile", LTI, {"STEPS": steps}) for steps in (8, 32)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the seconds to this file")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_tune: this machine has no CUDA device, and there is nothing to measure without one")
    generator = torch.Generator("cuda").manual_seed(0)
    print(f"{torch.cuda.get_device_name()}{'':60}forward, ms  backward, ms")
    rows = []
    for setting in SETTINGS:
        for name, passes in cases(setting.module, generator):
            with changed(setting):
                made = passes()
                taken = [gpu_scan.seconds(run, options.repeats) for run in (made.forward, made.backward)]
            row = {"case": name, "setting": setting.title, "forward": taken[0], "backward": taken[1]}
            rows.append(row)
            print(f"{name:40}{setting.title:44}{1e3 * taken[0]:10.3f}{1e3 * taken[1]:14.3f}", flush=True)
    if options.json:
        result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
        options.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


def cases(module: str, generator: torch.Generator) -> Iterator[tuple[str, Any]]:
    """Names, and what makes their passes: these keep states as the settings have it at that time."""
    if module == SELECTIVE:
        few = {"selective B=1 L=2048 d=2048 N=16": (1, 2048, 2048, 16)}
        for name, sizes in (gpu_scan.SELECTIVE | few).items():
            yield name, functools.partial(gpu_scan.selective_passes, sizes, generator, half=False)
        return
    for name in ("sMNIST, N=256", "sCIFAR, N=384", "long, N=256"):
        shape = gpu_scan.LTI[name]
        for half in (False, True):
            title = f"{name}{', bfloat16' if half else ''}"
            yield title, functools.partial(gpu_scan.recurrence_passes, shape, generator, half=half)


@contextlib.contextmanager
def changed(setting: Setting) -> Iterator[None]:
    """The module with the setting, and afterwards as it was."""
    module = importlib.import_module(setting.module)
    before = {name: getattr(module, name) for name in setting.changes}
    for name, value in setting.changes.items():
        setattr(module, name, before[name] | value if isinstance(value, dict) else value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


if __name__ == "__main__":
    main()
