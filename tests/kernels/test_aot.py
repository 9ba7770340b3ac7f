"""Ahead-of-time compilation in processes without TRITON_INTERPRET: every rule holds, and a broken one is noticed."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from climax_hpc.kernels.aot import KERNELS, Case, cases, violations
from climax_hpc.kernels.devices import TARGETS
from climax_hpc.kernels.machine_code import KernelUsage, instructions_per_matrix

pytestmark = pytest.mark.slow

CASE = Case("variable_aggregation", "values", "bf16", "K=64 p=4", {"PRECISION": "ieee", "HEAD": 64, "P": 16})
CLEAN = KernelUsage(
    registers=128, spills=0, shared=1024, tensor_columns=0, matrix={"HMMA": 4}, per_matrix=35.0, atomics=0
)

OF_LOSSES = {"loss", "crps", "crps_gradient", "verification"}
"""Kernels of other operations than the aggregation of variables."""


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def table(text: str) -> list[list[str]]:
    """Cells of every row that holds a compiled case."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return rows[1:]


SOME = ("values", "dmaps")
SAMPLE = {"sm_80": SOME, "sm_90": KERNELS, "sm_100": SOME, "gfx90a": SOME, "gfx942": KERNELS}
"""Kernels of the default suite; `make exhaustive` compiles all for every target."""


def test_typical_configurations_keep_every_rule_on_every_target():
    script = f"""
import sys
from climax_hpc.kernels import aot
cases = aot.cases
aot.cases = lambda target, typical: [case for case in cases(target, typical) if case.kernel in {SAMPLE}[target]]
sys.exit(aot.main(["--typical", "--jobs", "1"]))
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table(done.stdout)
    assert SAMPLE.keys() == TARGETS.keys()
    assert {(row[0], row[4]) for row in rows} == {(kernel, target) for target in TARGETS for kernel in SAMPLE[target]}
    assert {row[-1] for row in rows} == {"ok"}
    instruction = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx90a": "v_mfma", "gfx942": "v_mfma"}
    for row in rows:
        if row[0] in ("weights", "values", "dweights", "dmaps", "dx"):
            assert row[9].endswith(instruction[row[4]]), row
            assert float(row[10]) > 1, row
    per_matrix = {row[0]: float(row[10]) for row in rows if row[4] == "sm_90" and row[10] != "-"}
    assert per_matrix["values"] <= 35
    assert per_matrix["dweights"] <= 55


@pytest.mark.exhaustive
def test_every_configuration_keeps_every_rule():
    done = python("-m", "climax_hpc.kernels.aot", "--jobs", "2")
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if "| ok |" not in line)


def test_launchers_calls_compile():
    done = python(str(Path(__file__).with_name("compile_launches.py")))
    assert done.returncode == 0, done.stderr
    assert {name.removesuffix("_kernel") for name in done.stdout.split()} == set(KERNELS)


def test_a_spilling_tile_and_an_exceeded_budget_fail_the_command():
    script = """
import sys
from dataclasses import replace
from climax_hpc.kernels import aot
def broken(target, kernel, **changes):
    case, = (case for case in typical(target, typical=True) if case.kernel == kernel)
    return replace(case, **changes | {"constants": case.constants | changes["constants"]})
typical = aot.cases
found = {
    "sm_80": broken("sm_80", "dmaps", dtype="fp32", constants={"PRECISION": "tf32x3", "num_warps": 2}),
    "sm_90": broken("sm_90", "values", constants={"HEADS": 1}),
}
aot.cases = lambda target, *_: [found[target]]
sys.exit(aot.main(["--targets", "sm_80", "sm_90", "--jobs", "1"]))
"""
    done = python("-c", script)
    assert done.returncode == 1, done.stdout + done.stderr
    faults = {row[4]: row[-1] for row in table(done.stdout)}
    assert faults == {"sm_80": "spills", "sm_90": "over 35 instructions per matrix instruction"}
    assert "2 compiled, 2 violate a rule" in done.stdout


def test_interpreter_is_refused():
    done = python("-m", "climax_hpc.kernels.aot", "--typical", TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET is set" in done.stderr


def test_each_rule_is_noticed():
    assert violations(CLEAN, CASE, "sm_90") == []
    broken = {
        "spills": {"spills": 8},
        "shared memory over 65536 bytes": {"shared": 65537},
        "tensor memory over 0 columns": {"tensor_columns": 1},
        "no matrix instructions": {"matrix": {}},
        "global atomics": {"atomics": 1},
    }
    for message, change in broken.items():
        assert violations(replace(CLEAN, **change), CASE, "gfx942") == [message]
    assert violations(replace(CLEAN, tensor_columns=513), CASE, "sm_100") == ["tensor memory over 512 columns"]
    assert violations(replace(CLEAN, tensor_columns=512), CASE, "sm_100") == []
    assert violations(replace(CLEAN, matrix={}), replace(CASE, constants={}), "gfx942") == []
    many = replace(CLEAN, per_matrix=35.1)
    assert violations(many, CASE, "sm_90") == ["over 35 instructions per matrix instruction"]
    assert violations(many, replace(CASE, dtype="fp32"), "sm_90") == []


NVIDIA = """
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_1:
        /*0010*/                   LDG.E R2, [R4.64] ;
.L_x_0:
        /*0020*/              @!P0 HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR4], R24 ;
        /*0030*/                   FMUL R1, R1, R1 ;
        /*0040*/                   HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR4], R24 ;
        /*0050*/               @P0 BRA `(.L_x_0) ;
        /*0060*/                   HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR4], R24 ;
        /*0070*/               @P1 BRA `(.L_x_1) ;
        /*0080*/                   EXIT ;
"""
AMD = """
kernel:                                 ; @kernel
\t.loc 1 1
\ts_load_dword s0, s[0:1], 0x0         ; a comment
.LBB0_1:                                ; %loop
\tds_read_b64 v[0:1], v2
\tv_mfma_f32_32x32x8bf16_1k v[0:15], v[0:1], v[2:3], v[0:15]
\ts_cbranch_scc1 .LBB0_1
\ts_endpgm
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [(NVIDIA, 4 / 2), (AMD, 3), (NVIDIA.replace("BRA", "NOP"), 9 / 3), (AMD.replace("v_mfma", "v_fma"), 0)],
    ids=["NVIDIA", "AMD", "no loop", "no matrix instruction"],
)
def test_instructions_are_counted_in_the_innermost_loop_of_products(code, expected):
    assert instructions_per_matrix(code) == expected


def test_missing_disassembler_is_one_clear_line(tmp_path):
    script = """
import triton
from climax_hpc.kernels import aot
triton.__file__ = "/nowhere/triton/__init__.py"
aot.main(["--typical", "--targets", "sm_90"])
"""
    done = python("-c", script, PATH=str(tmp_path))
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert "cuobjdump: found neither beside Triton in /nowhere/triton/backends/nvidia/bin nor on PATH" in line
    assert "set TRITON_CUOBJDUMP_PATH, or take --targets gfx90a gfx942" in line


def test_every_tuned_tile_is_among_the_cases():
    """Element types, head widths and patch edges that the launcher takes lead to tiles that were compiled."""
    from climax_hpc.kernels.variable_aggregation.tiles import tile

    def shape(case: Case) -> tuple:
        c = case.constants
        return case.kernel, c["BLOCK"], c.get("PLANES", 1), c["num_warps"]

    multiplying = set(KERNELS) - {"pack", "unpack", *OF_LOSSES}

    compiled = {shape(case) for case in cases("sm_90") if case.operation == "variable_aggregation"}
    for kernel in set(KERNELS) - OF_LOSSES:
        for itemsize in (2, 4):
            for head in (16, 32, 64, 128):
                for patch in (1, 2, 4, 8, 16):
                    chosen = tile(kernel, itemsize, head, patch)
                    planes = chosen.planes if kernel in multiplying else 1
                    assert (kernel, chosen.rows, planes, chosen.warps) in compiled
