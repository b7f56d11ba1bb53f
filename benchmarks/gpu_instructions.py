"""What the recurrences' Triton kernels become on a card, counted in their machine code; it needs no card.

    python benchmarks/gpu_instructions.py [--arch 90] [--json FILE]

Each kernel is compiled as a training step compiles it, for a compute capability (90: H100 and H200), and
disassembled with the tools that Triton brings. Given are registers of a thread, bytes of shared memory,
spilled bytes, and the instructions of its innermost loop, or of all of it where there is none, for each
element: of the selective recurrence a state, channel and step, of the LTI recurrence a state and step, of the
convolution a channel and step. "exp" are exponentials and reciprocals, of which a multiprocessor makes 16 a
clock where it issues 128 other instructions, "shared" those that go through the same pipe as memory: loads,
stores and shuffles, 32 a clock. The largest of issue / 128, exp / 16 and shared / 32 is the kernel's floor in
clocks of a multiprocessor for each element, beside the bytes that it moves.
"""

import argparse
import collections
import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

WARP = 32
SHARED_PIPE = ("LDG", "STG", "LDS", "STS", "LDGSTS", "SHFL", "ATOMG", "RED")
ROWS = ("u", "delta", "z", "y", "grad_y", "grad_u", "grad_delta", "grad_z", "v", "g", "x", "grad_x")
INTEGERS = ("L", "N", "length", "blocks", "segments", "channels")


class Compiled(NamedTuple):
    """A kernel, what it is compiled for, how many elements a thread has in one round of its loop, warps."""

    module: str
    kernel: str
    constants: dict[str, Any]
    elements: int
    warps: int = 1


def kernels() -> dict[str, Compiled]:
    """What training steps compile, at sizes of the paper's models."""
    lti, selective, convolution = (
        importlib.import_module(f"compressm.scan.{name}.triton")
        for name in ("lti", "selective", "short_convolution")
    )
    states = {"BLOCK": lti.BLOCK, "STEPS": lti.STEPS}
    tiles = {name: selective._TILES[name] for name in ("STEPS", "BLOCK")}
    inner = {"d": 2048, "DELTA_ROW": 2048, "Z_ROW": 4096, "PERIOD": selective.PERIOD}
    inner |= {"SOFTPLUS": True, "GATED": True, "EVEN": True} | tiles
    filters = {"channels": 2048, "X_ROW": 4096, "K": 4, "SILU": True}
    forward = {name: convolution._FORWARD[name] for name in ("ROWS", "COLUMNS")}
    warps = convolution._FORWARD["num_warps"]
    backward = {name: convolution._BACKWARD[name] for name in ("STEPS", "BLOCK")}
    at, steps = "compressm.scan.{}.{}".format, lti.STEPS
    return {
        "lti states": Compiled(
            at("lti", "triton_kernels"), "states", states | {"FLIP": False, "EVEN": True}, steps
        ),
        "lti adjoint": Compiled(
            at("lti", "triton_kernels"), "adjoint", states | {"FLIP": True, "EVEN": True}, steps
        ),
        # Two states to a round of the loop.
        "selective outputs": Compiled(
            at("selective", "triton_kernels"), "outputs", inner | {"U_ROW": 2048, "KEEP": True},
            2 * tiles["STEPS"],
        ),
        "selective segment_ends": Compiled(
            at("selective", "triton_kernels"), "segment_ends", inner | {"X_ROW": 2048, "ADJOINT": True},
            tiles["STEPS"],
        ),
        "selective gradients": Compiled(
            at("selective", "triton_gradients"), "gradients", inner | {"U_ROW": 2048, "groups": 64},
            tiles["STEPS"]
        ),
        "convolution convolve": Compiled(
            at("short_convolution", "triton_kernels"), "convolve", filters | forward,
            forward["ROWS"] * forward["COLUMNS"] // (WARP * warps), warps,
        ),
        "convolution gradients": Compiled(
            at("short_convolution", "triton_kernels"), "gradients", filters | backward | {"AROUND": 4},
            backward["STEPS"],
        ),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, default=90, help="compute capability times 10")
    parser.add_argument("--json", type=Path, help="also write the counts to this file")
    options = parser.parse_args()
    try:
        triton = importlib.import_module("triton")
    except ImportError:
        sys.exit(
            "gpu_instructions: Triton is not installed here: pip install triton (there are Linux wheels)"
        )
    print(f"Triton {triton.__version__}, compute capability {options.arch / 10}")
    columns = ("registers", "shared mem", "spilled", "issue", "exp", "shared", "clocks")
    print(f"{'':40}" + "".join(f"{name:>11}" for name in columns))
    rows: dict[str, dict[str, float]] = {}
    for rounded in (False, True):
        for name, wanted in kernels().items():
            title = name + (", bfloat16" if rounded else "")
            rows[title] = counted(triton, wanted, rounded=rounded, arch=options.arch)
            cells = (f"{value:11.0f}" if value > 100 or value == int(value) else f"{value:11.3g}"
                     for value in rows[title].values())  # fmt: skip
            print(f"{title:40}" + "".join(cells), flush=True)
    if options.json:
        result = {"triton": triton.__version__, "arch": options.arch, "kernels": rows}
        options.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


def counted(triton: Any, wanted: Compiled, *, rounded: bool, arch: int) -> dict[str, float]:
    """Registers, memory, and what an element costs."""
    made = compiled(triton, wanted, rounded=rounded, arch=arch)
    tools = Path(triton.knobs.nvidia.cuobjdump.path).parent
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(made.asm["cubin"])
        usage = run(tools / "cuobjdump", "-res-usage", binary)
        code = run(tools / "nvdisasm", "-c", binary)
    registers, spilled = (int(number) for number in re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0])
    body = innermost(code)
    counts = collections.Counter(opcode(line) for line in body)
    issue = len(body) - counts["NOP"]
    slow, shared = counts["MUFU"], sum(counts[name] for name in SHARED_PIPE)
    each = [count / wanted.elements for count in (issue, slow, shared)]
    return {
        "registers": registers,
        "shared": made.metadata.shared,
        "spilled": spilled,
        "issue": each[0],
        "exp": each[1],
        "pipe": each[2],
        "clocks": max(each[0] / 128, each[1] / 16, each[2] / 32),
    }


def compiled(triton: Any, wanted: Compiled, *, rounded: bool, arch: int) -> Any:
    """The kernel for the architecture; pointers are aligned where it asks."""
    kernel = getattr(importlib.import_module(wanted.module), wanted.kernel)
    names, loose = kernel.arg_names, kernel.do_not_specialize_on_alignment
    kinds = {name: "i32" if name in INTEGERS else "*fp32" for name in names}
    kinds |= {name: "*bf16" for name in names if name in ROWS and rounded}
    special = {"span": "i64", "slopes": "*fp64"}
    kinds |= {name: kind for name, kind in special.items() if name in names}
    kinds |= dict.fromkeys(wanted.constants, "constexpr")
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if kinds[name].startswith("*") and name not in loose
    }
    constants = {(names.index(name),): value for name, value in wanted.constants.items()}
    source = triton.compiler.ASTSource(kernel, kinds, constants, aligned)
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", arch, WARP)
    options = {"num_warps": wanted.warps, "enable_fp_fusion": True}
    return triton.compile(source, target=target, options=options)


def innermost(code: str) -> list[str]:
    """The instructions of the longest loop that holds no other, or all of them if there is no loop."""
    labels: dict[str, int] = {}
    lines: list[str] = []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            lines.append(found[1])
    loops = []
    for end, line in enumerate(lines):
        jump = re.search(r"BRA.*`\((\.L_x_\d+)\)", line)
        if jump and labels.get(jump[1], end) < end - 2:  # programs end in a jump to itself
            loops.append((labels[jump[1]], end))
    inner = [
        (a, b) for a, b in loops if not any((c, d) != (a, b) and a <= c and d <= b for c, d in loops)
    ]  # fmt: skip
    if not inner:
        return lines
    first, last = max(inner, key=lambda loop: loop[1] - loop[0])
    return lines[first : last + 1]


def opcode(line: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", line).split()[0].split(".")[0]


def run(*command: object) -> str:
    words = [str(part) for part in command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout  # noqa: S603 - tools that Triton brings


if __name__ == "__main__":
    main()
