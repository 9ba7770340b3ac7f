"""What commands import before they begin: no compiler, and DeepSpeed only in training."""

import subprocess
import sys

import pytest

from climax_hpc.cli import SUBCOMMANDS

CONFIGS = ", ".join(
    entry.config.partition(":")[0] for verb, entry in SUBCOMMANDS.items() if not verb.startswith("bench ")
)
LATE = ("torch._dynamo", "sympy", "triton", "deepspeed", "matplotlib", "tensorboard")
EARLY = "import sys; import {modules}; print(*(name for name in {late} if name in sys.modules))"


@pytest.mark.parametrize(
    ("modules", "late"),
    [
        ("climax_hpc.cli, climax_hpc.launch.submit, climax_hpc.launch.status", ("torch", *LATE)),
        (CONFIGS, ("torch", *LATE)),
        ("climax_hpc.data_prep.pack, climax_hpc.data_prep.verify, climax_hpc.tools.inspect.inspect", ("torch", *LATE)),
        ("climax_hpc.inference.predict, climax_hpc.evaluation.evaluate, climax_hpc.tools.convert", LATE),
        ("climax_hpc.training.train", ("torch._dynamo", "sympy", "triton")),
    ],
)
def test_not_imported(modules: str, late: tuple[str, ...]) -> None:
    code = EARLY.format(modules=modules, late=late)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
