"""Triton's compiler takes every kernel for a Hopper card, without spilling registers; it needs no card."""

import importlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="Triton has no wheels for this platform")

LTI = importlib.import_module("compressm.scan.lti.triton")
SELECTIVE = importlib.import_module("compressm.scan.selective.triton")
INTEGERS = {"L", "d", "N", "blocks", "steps", "chunks", "parts"}
STATES = {"BLOCK": LTI.MAX_BLOCK, "STAGES": LTI.STAGES}
TILES = {name: SELECTIVE._TILES[name] for name in ("STEPS", "BLOCK", "STAGES")}
GATED = TILES | {"SOFTPLUS": True, "GATED": True}
KERNELS = {
    "lti chunk_ends": (LTI, STATES | {"FLIP": True, "ADJOINT": True}, LTI._LAUNCH),
    "lti carry": (LTI, STATES | {"LOG_STEPS": 6, "ADJOINT": True}, LTI._LAUNCH),
    "lti states": (LTI, STATES | {"FLIP": False}, LTI._LAUNCH),
    "lti adjoint": (LTI, STATES | {"FLIP": True}, LTI._LAUNCH),
    "selective chunk_ends": (SELECTIVE, GATED | {"ADJOINT": True}, SELECTIVE._TILES),
    "selective carry": (SELECTIVE, {"BLOCK": 128, "STAGES": 4, "ADJOINT": True}, SELECTIVE._CARRY),
    "selective outputs": (SELECTIVE, GATED, SELECTIVE._TILES),
    "selective gradients": (
        SELECTIVE,
        GATED | {"STAGES": SELECTIVE._GRADIENTS["STAGES"]},
        SELECTIVE._GRADIENTS,
    ),
}


@pytest.mark.parametrize("ones", [False, True], ids=["sizes", "sizes of 1"])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_for_hopper_without_spills(
    name: str, ones: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module, constants, launch = KERNELS[name]
    kernel = getattr(module.kernels, name.split()[1])
    if ones:
        # Triton makes a constant of every integer that is 1, and compiles the kernel for it.
        constants = constants | dict.fromkeys(INTEGERS & set(kernel.arg_names), 1)
    cubin = compiled(kernel, constants, launch).asm["cubin"]
    (tmp_path / "kernel.cubin").write_bytes(cubin)
    usage = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(tmp_path / "kernel.cubin")],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "STACK:0 " in usage, usage


def compiled(kernel: Any, constants: dict[str, Any], launch: dict[str, Any]) -> Any:
    """The kernel for aligned float32 operands."""
    names = kernel.arg_names
    types = {name: "i32" if name in INTEGERS else "*fp32" for name in names}
    types |= dict.fromkeys(constants, "constexpr") | ({"slopes": "*fp64"} if "slopes" in names else {})
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types[name].startswith("*")}
    source = triton.compiler.ASTSource(
        kernel, types, {(names.index(name),): value for name, value in constants.items()}, aligned
    )
    options = {"num_warps": launch["num_warps"], "enable_fp_fusion": launch["enable_fp_fusion"]}
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options=options)
