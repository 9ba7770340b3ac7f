"""Kernels that the host starts in a training step of the 108 M model, and its waits, as the command prints them."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from climax_hpc.tools.bench.operator_calls import main

BEFORE = 1154
"""Kernels at commit b779b2d, eager."""


def test_one_wait_and_no_kernel_for_each_parameter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("climax_hpc.training.optimizer.fused", lambda: True)
    monkeypatch.setattr("sys.argv", ["operator_calls", "--eager-only", "--depth", "1", "--embed-dim", "32"])
    main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["eager"]
    assert found["waiting"] == {"tolist": 1}
    kernels = found["by_operator"]
    assert kernels["_foreach_norm"] == 2  # of this rank's gradients, and of those that are clipped
    assert kernels.get("linalg_vector_norm", 0) <= 1
    assert max(kernels.values()) < 31  # tensors of the model


@pytest.mark.exhaustive
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="inductor needs a C++ compiler")
def test_a_compiled_step_starts_a_third_of_the_kernels() -> None:
    command = [sys.executable, "-m", "climax_hpc.tools.bench.operator_calls"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["compiled"]["kernels"] <= BEFORE / 3
    assert counts["eager"]["kernels"] <= 0.6 * BEFORE
    for form in ("eager", "compiled"):
        assert counts[form]["waits"] <= 1
