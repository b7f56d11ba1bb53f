"""Triton's compiler takes every kernel for a Hopper card, without spilling registers; it needs no card."""

import collections
import importlib
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compressm.scan.runtime.tiles import LAUNCH, TILE, Tiles

triton = pytest.importorskip("triton", reason="Triton has no wheels for this platform")

LTI = importlib.import_module("compressm.scan.lti.triton")
SELECTIVE = importlib.import_module("compressm.scan.selective.triton")
CONVOLUTION = importlib.import_module("compressm.scan.short_convolution.triton")
SSD = importlib.import_module("compressm.scan.ssd.triton")
POINTWISE, SKIP = (
    importlib.import_module(f"compressm.{name}_triton") for name in ("models.pointwise", "layers.skip")
)
INTEGERS = {"M", "count", "threshold", "L", "d", "N", "blocks", "steps", "chunks", "heads", "K", "V"}
INTEGERS |= {"segments", "length", "span"}
STATES = {"BLOCK": LTI.BLOCK, "STEPS": LTI.STEPS}
LTI_CARRY = {name: LTI._CARRY[name] for name in ("BLOCK", "STAGES")}
TILES = {name: SELECTIVE._TILES[name] for name in ("STEPS", "BLOCK")} | {"PERIOD": SELECTIVE.PERIOD}
GATED = TILES | {"SOFTPLUS": True, "GATED": True, "EVEN": False}
GATED |= {"d": 1000, "DELTA_ROW": 1000, "Z_ROW": 2000}
CARRY = {name: SELECTIVE._CARRY[name] for name in ("BLOCK", "STAGES")}
FORTH, BACK = (
    SimpleNamespace(kernels=kernels) for kernels in (SELECTIVE.triton_kernels, SELECTIVE.triton_gradients)
)
PIECES: dict[str, dict[str, Any]] = {
    "K": {"BLOCK_K": 32},
    "V": {"BLOCK_V": 32},
    "K, V": {"BLOCK_K": 32, "BLOCK_V": 32},
}
SCALAR, VECTOR = (
    {name: sizes | {"STEPS": steps, "PRECISION": "tf32x3"} for name, sizes in PIECES.items()}
    for steps in (64, 32)
)
SMALLEST = {"BLOCK_K": 16, "BLOCK_V": 16, "PRECISION": "tf32"}
LEVELS, ONE = {"LEVELS": 5}, SimpleNamespace(kernels=SSD.scalar)
EACH = SimpleNamespace(kernels=SSD.vector)
FUTURE = {"PER_CHANNEL": True, "ADJOINT": True}
ROWS = {"H": 512, "ROWS": Tiles.of(1, 512).rows, "COLUMNS": Tiles.of(1, 512).columns}
FLAT = {"DROPOUT": True, "BLOCK": TILE}
FILTERS = {"channels": 1000, "X_ROW": 2000, "K": 4, "SILU": True}
FORWARD = FILTERS | {name: CONVOLUTION._FORWARD[name] for name in ("ROWS", "COLUMNS")}
BACKWARD = FILTERS | {name: CONVOLUTION._BACKWARD[name] for name in ("STEPS", "BLOCK")} | {"AROUND": 4}
KERNELS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "lti chunk_ends": (LTI, STATES | {"FLIP": True, "ADJOINT": True}, LTI._LAUNCH),
    "lti carry": (LTI, LTI_CARRY | {"LOG_LENGTH": 6, "ADJOINT": True}, LTI._CARRY),
    "lti states": (LTI, STATES | {"FLIP": False, "EVEN": False}, LTI._LAUNCH),
    "lti adjoint": (LTI, STATES | {"FLIP": True, "EVEN": False}, LTI._LAUNCH),
    "lti chunk_ends, bfloat16": (LTI, STATES | {"FLIP": True, "ADJOINT": True}, LTI._LAUNCH),
    "lti states, bfloat16": (LTI, STATES | {"FLIP": False, "EVEN": True}, LTI._LAUNCH),
    "lti adjoint, bfloat16": (LTI, STATES | {"FLIP": True, "EVEN": True}, LTI._LAUNCH),
    "selective segment_ends": (FORTH, GATED | {"X_ROW": 1000, "ADJOINT": True}, SELECTIVE._TILES),
    "selective carry": (FORTH, {"d": 1000, "ADJOINT": True} | CARRY, SELECTIVE._CARRY),
    "selective outputs": (FORTH, GATED | {"U_ROW": 1000, "KEEP": True}, SELECTIVE._TILES),
    "selective gradients": (BACK, GATED | {"U_ROW": 1000, "groups": 32}, SELECTIVE._GRADIENTS),
    "selective outputs, bfloat16": (FORTH, GATED | {"U_ROW": 2000, "KEEP": True}, SELECTIVE._TILES),
    "selective gradients, bfloat16": (BACK, GATED | {"U_ROW": 2000, "groups": 7}, SELECTIVE._GRADIENTS),
    "convolution convolve": (CONVOLUTION, FORWARD, CONVOLUTION._FORWARD),
    "convolution gradients": (CONVOLUTION, BACKWARD, CONVOLUTION._BACKWARD),
    "convolution convolve, bfloat16": (CONVOLUTION, FORWARD, CONVOLUTION._FORWARD),
    "convolution gradients, bfloat16": (CONVOLUTION, BACKWARD, CONVOLUTION._BACKWARD),
    "ssd chunk_ends": (SSD, VECTOR["K, V"] | FUTURE, SSD._TILES),
    "ssd chunk_ends, scalar": (SSD, SCALAR["K, V"] | dict.fromkeys(FUTURE, False), SSD._TILES),
    "ssd carry": (SSD, FUTURE | {"BLOCK": SSD.CARRY_BLOCK, "STAGES": 4}, SSD._CARRY),
    "ssd weights": (SSD, SCALAR["V"], SSD._TILES),
    "ssd outputs": (SSD, VECTOR["K, V"] | FUTURE, SSD._TILES),
    "ssd outputs, scalar": (SSD, SCALAR["K, V"] | dict.fromkeys(FUTURE, False), SSD._TILES),
    "ssd scores": (EACH, VECTOR["K"] | LEVELS, SSD._TILES),
    "ssd scores, scalar": (ONE, SCALAR["K"], SSD._TILES),
    "ssd gradients": (EACH, VECTOR["K, V"] | LEVELS, SSD._GRADIENTS),
    "ssd gradients, scalar": (ONE, SCALAR["K, V"], SSD._GRADIENTS),
    "pointwise gelu": (POINTWISE, FLAT, LAUNCH),
    "pointwise gelu_backward": (POINTWISE, FLAT, LAUNCH),
    "pointwise gate": (POINTWISE, FLAT, LAUNCH),
    "pointwise gate_backward": (POINTWISE, FLAT, LAUNCH),
    "pointwise glu": (POINTWISE, ROWS | {"DROPOUT": True}, LAUNCH),
    "pointwise glu_backward": (POINTWISE, ROWS | {"DROPOUT": True}, LAUNCH),
    "skip skip": (SKIP, ROWS, LAUNCH),
    "skip skip_backward": (SKIP, ROWS, LAUNCH),
}


IN_REGISTERS = {name for name in KERNELS if name.startswith("lti") and "carry" not in name}
IN_REGISTERS |= {name for name in KERNELS if name.startswith("selective") and "carry" not in name}
IN_REGISTERS |= {"convolution gradients", "convolution gradients, bfloat16"}
ROWS_OF: dict[str, tuple[str, ...]] = collections.defaultdict(tuple)
ROWS_OF["lti"] = ("v", "g", "x")
ROWS_OF["short_convolution"] = ("x", "y", "grad_y", "grad_x")
ROWS_OF["selective"] = ("u", "delta", "z", "y", "x", "grad_y", "grad_u", "grad_delta", "grad_z")


@pytest.mark.parametrize("sizes", ["any", "of 1", "multiples of 16"])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_for_hopper_without_spills(
    name: str, sizes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module, constants, launch = KERNELS[name]
    kernel = getattr(module.kernels, name.split()[1].rstrip(","))
    if sizes == "of 1":
        # Triton makes a constant of every integer that is 1, and compiles the kernel for it, as it does for
        # integers that 16 divides.
        constants = constants | dict.fromkeys(INTEGERS & set(kernel.arg_names), 1)
        constants |= {name: value for name, value in SMALLEST.items() if name in constants}
    rows = "*bf16" if name.endswith("bfloat16") else "*fp32"
    made = compiled(kernel, constants, launch, rows=rows, whole=sizes == "multiples of 16")
    # Tiles whose columns are threads exchange nothing through shared memory; another layout would.
    assert name not in IN_REGISTERS or made.metadata.shared == 0
    (tmp_path / "kernel.cubin").write_bytes(made.asm["cubin"])
    usage = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(tmp_path / "kernel.cubin")],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "STACK:0 " in usage, usage


def compiled(
    kernel: Any, constants: dict[str, Any], launch: dict[str, Any], *, rows: str, whole: bool
) -> Any:
    """The kernel for aligned float32 operands, and sizes that 16 divides if they are ``whole``.

    ``rows`` is the type of what has a row for each step.
    """
    names = kernel.arg_names
    types = {name: "i32" if name in INTEGERS else "*fp32" for name in names}
    special = {"slopes": "*fp64", "moments": "*fp64", "seed": "*i64", "span": "i64"}
    special |= dict.fromkeys(ROWS_OF[kernel.fn.__module__.split(".")[-2]], rows)
    special |= {"scale": "fp32", "eps": "fp32"}
    special |= {"channels": "i32"}
    loose = kernel.do_not_specialize_on_alignment
    types |= {name: kind for name, kind in special.items() if name in names}
    types |= dict.fromkeys(constants, "constexpr")
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if (types[name].startswith("*") and name not in loose) or (whole and types[name] in ("i32", "i64"))
    }
    source = triton.compiler.ASTSource(
        kernel, types, {(names.index(name),): value for name, value in constants.items()}, aligned
    )
    known = ("num_warps", "num_stages", "enable_fp_fusion")
    options = {name: launch[name] for name in known if name in launch}
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options=options)
