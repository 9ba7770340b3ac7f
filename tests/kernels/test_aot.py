"""Ahead-of-time compilation in processes without TRITON_INTERPRET: every rule holds, and a broken one is noticed."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from climax_hpc.kernels.aot import KERNELS, Case, KernelUsage, cases
from climax_hpc.kernels.devices import TARGETS

pytestmark = pytest.mark.slow

CASE = Case("variable_aggregation", "forward", "bf16", "K=64", {"PRECISION": "ieee"})
CLEAN = KernelUsage(registers=128, spills=0, shared=1024, tensor_columns=0, matrix={"HMMA": 4}, atomics=0)


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def table(text: str) -> list[list[str]]:
    """Cells of every row that holds a compiled case."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return rows[1:]


def test_typical_configurations_keep_every_rule_on_every_target():
    done = python("-m", "climax_hpc.kernels.aot", "--typical", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table(done.stdout)
    assert {(row[0], row[4]) for row in rows} == {(kernel, target) for kernel in KERNELS for target in TARGETS}
    assert {row[-1] for row in rows} == {"ok"}
    instruction = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx90a": "v_mfma", "gfx942": "v_mfma"}
    for row in rows:
        if row[0] in ("forward", "dscore", "dmaps", "dx"):
            assert row[9].endswith(instruction[row[4]]), row


@pytest.mark.exhaustive
def test_every_configuration_keeps_every_rule():
    done = python("-m", "climax_hpc.kernels.aot", "--jobs", "2")
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if "| ok |" not in line)


def test_launchers_calls_compile():
    done = python(str(Path(__file__).with_name("compile_launches.py")))
    assert done.returncode == 0, done.stderr
    assert {name.removesuffix("_kernel") for name in done.stdout.split()} == set(KERNELS)


def test_spilling_tile_fails_the_command():
    script = """
import sys
from dataclasses import replace
from climax_hpc.kernels import aot
case, = (case for case in aot.cases("sm_80", typical=True) if case.kernel == "dmaps")
case = replace(case, dtype="fp32", constants=case.constants | {"PRECISION": "tf32x3", "num_warps": 2})
aot.cases = lambda *_: [case]
sys.exit(aot.main(["--targets", "sm_80", "--jobs", "1"]))
"""
    done = python("-c", script)
    assert done.returncode == 1, done.stdout + done.stderr
    assert table(done.stdout)[0][-1] == "spills"
    assert "1 compiled, 1 violate a rule" in done.stdout


def test_interpreter_is_refused():
    done = python("-m", "climax_hpc.kernels.aot", "--typical", TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET is set" in done.stderr


def test_each_rule_is_noticed():
    assert CLEAN.violations(CASE, "sm_80") == []
    broken = {
        "spills": {"spills": 8},
        "shared memory over 65536 bytes": {"shared": 65537},
        "tensor memory over 0 columns": {"tensor_columns": 1},
        "no matrix instructions": {"matrix": {}},
        "global atomics": {"atomics": 1},
    }
    for message, change in broken.items():
        assert replace(CLEAN, **change).violations(CASE, "gfx942") == [message]
    assert replace(CLEAN, tensor_columns=513).violations(CASE, "sm_100") == ["tensor memory over 512 columns"]
    assert replace(CLEAN, tensor_columns=512).violations(CASE, "sm_100") == []
    assert replace(CLEAN, matrix={}).violations(replace(CASE, constants={}), "gfx942") == []


def test_every_tuned_tile_is_among_the_cases():
    """Element types, head widths and patch edges that the launcher takes lead to tiles that were compiled."""
    from climax_hpc.kernels.variable_aggregation.launch_triton import tile

    def shape(case: Case) -> tuple:
        c = case.constants
        return case.kernel, c["BLOCK"], c.get("PLANES", 1), c["num_warps"]

    compiled = {shape(case) for case in cases("sm_90") if case.operation == "variable_aggregation"}
    for kernel in set(KERNELS) - {"loss", "verification"}:
        for itemsize in (2, 4):
            for head in (16, 32, 64, 128):
                for patch in (1, 2, 4, 8, 16):
                    chosen = tile(kernel, itemsize, head, patch)
                    planes = chosen.planes if kernel in ("dmaps", "dx") else 1
                    assert (kernel, chosen.rows, planes, chosen.warps) in compiled
