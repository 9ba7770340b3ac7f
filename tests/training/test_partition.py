"""At ZeRO stage 3 no rank's device holds the whole model, and the weights start at the bits that were drawn."""

from pathlib import Path

from .processes import run_script


def test_only_parts_reach_the_device_and_keep_their_bits(tmp_path: Path) -> None:
    found = run_script("partition_weights.py", ranks=3, folder=tmp_path)
    numbers = [7 * 33, 33, 33 * 5, 5]
    parts = sum(-(-number // 3) for number in numbers)
    for precision, result in found.items():
        assert result["whole"] == 0, precision
        assert result["part"] == parts, precision
        assert result["on_device"] == ["scale"], precision  # the only buffer
        assert result["largest_error"] == 0, precision
        assert result["decay"] == [7 * 33 + 33 * 5, 33 + 5], precision
