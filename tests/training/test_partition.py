"""At ZeRO stage 3 no rank's device holds the whole model, and the weights start at the bits that were drawn."""

import json
import subprocess
from pathlib import Path

from .conftest import torchrun


def test_only_parts_reach_the_device_and_keep_their_bits() -> None:
    command = [*torchrun(3), str(Path(__file__).with_name("partition_weights.py"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    numbers = [7 * 33, 33, 33 * 5, 5]
    parts = sum(-(-number // 3) for number in numbers)
    for precision, result in found.items():
        assert result["whole"] == 0, precision
        assert result["part"] == parts, precision
        assert result["on_device"] == ["scale"], precision  # the only buffer
        assert result["largest_error"] == 0, precision
        assert result["decay"] == [7 * 33 + 33 * 5, 33 + 5], precision
