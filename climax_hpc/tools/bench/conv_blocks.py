"""Rows of `bench step` for `conv` blocks against `vit` blocks of as many parameters: speed, memory, roofline."""

import statistics
from dataclasses import replace
from typing import Any

from climax_hpc.fields.variables import lookup
from climax_hpc.kernels.benchmarking import Row
from climax_hpc.model.config import ModelConfig
from climax_hpc.training.flop import step_flop
from climax_hpc.training.shape import Shape

_WIDTH_STEP = 8


def conv_like(vit: ModelConfig) -> ModelConfig:
    """Convolutional blocks as in the smallest recipe, of the width at which the parameters are nearest to `vit`'s."""
    wanted = parameters(vit)
    conv = replace(vit, blocks="conv", depth=1, decoder_depth=0, heads=_WIDTH_STEP, embed_dim=_WIDTH_STEP)
    while parameters(wider := replace(conv, embed_dim=conv.embed_dim + _WIDTH_STEP)) < wanted:
        conv = wider
    return min(conv, wider, key=lambda config: abs(parameters(config) - wanted))


def parameters(config: ModelConfig) -> int:
    """Number of parameters."""
    return _shape(config, 1).n


def rows(conv: ModelConfig, vit: ModelConfig, micro_batch_size: int, found: dict[str, Any]) -> list[Row]:
    """The rows of one measurement.

    Args:
        found: seconds and peak_bytes of the forms `ours` (conv) and `vit`, flop_per_second of a matrix product.
    """
    seconds = {form: statistics.median(found["seconds"][form]) for form in ("ours", "vit")}
    flop = {"ours": _flop(conv, micro_batch_size), "vit": _flop(vit, micro_batch_size)}
    rate = found["flop_per_second"]
    pairs = [
        Row(
            case="conv_blocks", metric="parameters", against="vit", ours=parameters(conv), baseline=parameters(vit),
            unit="parameters",
        ),
        Row(
            case="conv_blocks", metric="flop_per_sample", against="vit", ours=flop["ours"] / micro_batch_size,
            baseline=flop["vit"] / micro_batch_size, unit="FLOP",
        ),
        Row(
            case="conv_blocks", metric="samples_per_s", against="vit", ours=micro_batch_size / seconds["ours"],
            baseline=micro_batch_size / seconds["vit"], unit="1/s", more_is_better=True,
        ),
        Row(
            case="conv_blocks", metric="peak_bytes", against="vit", ours=found["peak_bytes"]["ours"],
            baseline=found["peak_bytes"]["vit"], unit="B",
        ),
    ]  # fmt: skip
    floors = [
        Row(
            case=case, metric="time", against="roofline", ours=seconds[form], baseline=flop[form] / rate, unit="s",
            matrix_share=flop[form] / rate / seconds[form],
        )
        for case, form in (("conv_blocks", "ours"), ("vit_blocks", "vit"))
    ]  # fmt: skip
    return pairs + floors


def _flop(config: ModelConfig, micro_batch_size: int) -> int:
    return sum(step_flop(_shape(config, micro_batch_size)).values())


def _shape(config: ModelConfig, micro_batch_size: int) -> Shape:
    outputs = sum(lookup(name).can_be_forecast for name in config.variables)
    return Shape(
        model=config, B=micro_batch_size, V=len(config.variables), O=outputs, micro_batches_per_rank=1, ranks=1
    )
