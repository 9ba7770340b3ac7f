"""Gradients of bfloat16 models are reduced in float32 at every ZeRO stage, with any number of ranks and odd sizes."""

from pathlib import Path

from .processes import run_script


def test_the_mean_over_ranks_is_exact_to_float32(tmp_path: Path) -> None:
    errors = run_script("reduce_gradients.py", ranks=3, folder=tmp_path)
    assert list(errors) == ["1", "2", "3"]
    assert max(errors.values()) < 1e-7, errors  # bfloat16: 2e-3
