"""Rows of `bench step` for two ranks that share every sample (`train.sequence_parallel: 2`) against one rank."""

import statistics
from typing import Any

from climax_hpc.kernels.benchmarking import Row

_HEAD_WIDTH = 64


def even_heads(model: dict[str, Any]) -> dict[str, Any]:
    """The model, wider by one head if two ranks could not share its heads."""
    heads = model["heads"] + model["heads"] % 2
    return model if heads == model["heads"] else model | {"heads": heads, "embed_dim": _HEAD_WIDTH * heads}


def rows(samples: int, one: dict[str, Any], two: dict[str, Any]) -> list[Row]:
    """Speed, processor time of all ranks, and memory on a rank, for the same samples of a step.

    Waiting takes no processor time, so other work on the machine, which halves a speed, hardly changes that row. The
    bytes are those above what a rank holds between steps: activations, and what the passes need beside them.

    Args:
        one: output of `step_ranks` of one rank.
        two: that of two.
    """

    def rate(found: dict[str, Any]) -> float:
        return samples / statistics.median(found["seconds"]["ours"])

    return [
        Row(
            case="sequence_2ranks", metric="samples_per_s", against="one_rank", ours=rate(two), baseline=rate(one),
            unit="1/s", more_is_better=True,
        ),
        Row(
            case="sequence_2ranks", metric="processor_time", against="one_rank",
            ours=two["processor_seconds"]["ours"], baseline=one["processor_seconds"]["ours"], unit="s",
        ),
        Row(
            case="sequence_2ranks", metric="peak_bytes", against="one_rank", ours=two["pass_bytes"]["ours"],
            baseline=one["pass_bytes"]["ours"], unit="B",
        ),
    ]  # fmt: skip
