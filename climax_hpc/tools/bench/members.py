"""Rows of `bench step` for a step with members against as many steps of the same network without noise."""

import statistics
from dataclasses import replace
from typing import Any

from climax_hpc.fields.variables import lookup
from climax_hpc.kernels.benchmarking import Row
from climax_hpc.model.config import ModelConfig
from climax_hpc.training.flop import step_flop
from climax_hpc.training.shape import Shape

MEMBERS, _NOISE_DIM = 4, 32
_FRONT_END = ("map rebuild", "variable aggregation", "embeddings, output projection", "input skip")
"""Parts of a step's FLOP that do not grow with the number of members."""


def pair(config: ModelConfig) -> tuple[ModelConfig, ModelConfig]:
    """The model with noise, and without; neither has dropout, which members are not trained with."""
    plain = replace(config, dropout=0.0, drop_path=0.0)
    return replace(plain, noise_dim=_NOISE_DIM), plain


def rows(config: ModelConfig, micro_batch_size: int, found: dict[str, Any]) -> list[Row]:
    """The rows of one measurement.

    Args:
        found: seconds and peak_bytes of the forms `ours` (members) and `plain` (no noise).
    """
    noisy, plain = pair(config)
    trunk, whole = _flop(noisy, micro_batch_size, MEMBERS)
    of_plain = _flop(plain, micro_batch_size, 1)
    seconds = {form: statistics.median(found["seconds"][form]) for form in ("ours", "plain")}
    against = f"{MEMBERS} without noise"
    return [
        Row(
            case="members", metric="flop_of_trunk", against=against, ours=trunk, baseline=MEMBERS * of_plain[0],
            unit="FLOP",
        ),
        Row(case="members", metric="flop", against=against, ours=whole, baseline=MEMBERS * of_plain[1], unit="FLOP"),
        Row(
            case="members", metric="time", against=against, ours=seconds["ours"], baseline=MEMBERS * seconds["plain"],
            unit="s",
        ),
        Row(
            case="members", metric="peak_bytes", against=against, ours=found["peak_bytes"]["ours"],
            baseline=MEMBERS * found["peak_bytes"]["plain"], unit="B",
        ),
    ]  # fmt: skip


def _flop(config: ModelConfig, micro_batch_size: int, members: int) -> tuple[int, int]:
    """FLOP of blocks and head, and of a whole step."""
    outputs = sum(lookup(name).can_be_forecast for name in config.variables)
    shape = Shape(
        model=config, B=micro_batch_size, V=len(config.variables), O=outputs, micro_batches_per_rank=1, ranks=1,
        members=members,
    )  # fmt: skip
    flop = step_flop(shape)
    return sum(value for part, value in flop.items() if part not in _FRONT_END), sum(flop.values())
