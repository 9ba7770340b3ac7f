"""The table of devices: complete, plausible, and the one place that planner, roofline and compiler take a GPU from."""

import os
import subprocess
import sys

import pytest

from climax_hpc.kernels.devices import DEVICES, GPUS, TARGETS

# A GPU and a target that no file of the package knows, added to the table before the command starts.
ADD = """
import sys
from dataclasses import replace
from climax_hpc.kernels import devices
devices.TARGETS["sm_103"] = devices.TARGETS["sm_100"]
new = replace(devices.DEVICES["b200"], memory=288e9, target="sm_103", source="a new data sheet")
devices.DEVICES["b300"] = devices.GPUS["b300"] = new
"""


def run_with_new_gpu(code: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", ADD + code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", DEVICES)
def test_figures_are_plausible(name: str) -> None:
    device = DEVICES[name]
    assert 10e9 <= device.memory <= 1e12
    assert 1e11 <= device.bandwidth <= 2e13
    assert 1e12 <= device.float32 <= device.bfloat16 <= 5e15
    assert device.network <= device.link < device.bandwidth
    assert 1 <= device.per_node <= 16
    assert len(device.source) > 20
    assert device.target is None or device.target in TARGETS


def test_every_target_has_a_device() -> None:
    assert {device.target for device in GPUS.values()} == set(TARGETS)


def test_a_new_gpu_is_planned_for_by_the_command_line() -> None:
    text = run_with_new_gpu(
        "from climax_hpc.cli import run\n"
        "run(['plan', '--device=b300', '--nodes=1', '--devices_per_node=1', '--run_folder=x'])"
    )
    assert "1 × b300" in text
    assert "a new data sheet" in text


def test_a_new_gpu_stands_in_the_roofline() -> None:
    assert "| b300 |" in run_with_new_gpu("from climax_hpc.kernels import roofline; roofline.main()")


def test_a_new_target_is_compiled_for() -> None:
    text = run_with_new_gpu(
        "from climax_hpc.kernels import aot\n"
        "case = next(aot.loss_cases(typical=True))\n"
        "print(aot.violations(aot.compile_case(case, 'sm_103'), case, 'sm_103'))"
    )
    assert text.strip() == "[]"
