"""FLOP of the forward and backward pass of one micro-batch: all matrix products, 2 per multiplication and addition.

Equal to `torch.utils.flop_counter.FlopCounterMode` on the same model (`tests/training/test_flop.py`) once the
counter knows our operators and the CPU attention, for which it has no formulas: `register_formulas`. These equal what
the counter measures inside the operators on a CPU. Element-wise work counts as 0, as in the counter.
Dimensions as in `shape.py`.
"""

from typing import Any

import torch

from climax_hpc.kernels.variable_aggregation import op  # noqa: F401 - defines the operators
from climax_hpc.model.input_skip import KERNEL, KNOTS
from climax_hpc.training.shape import Shape


def step_flop(shape: Shape) -> dict[str, int]:
    """FLOP by part of the forward and backward pass of one micro-batch."""
    s, t, model = shape, shape.of_trunk, shape.model
    R, D, columns = s.R, s.D, s.V * (s.P + 1)
    maps = 3 * (2 * 2 * D * D + 2 * s.N * D * columns + 2 * D * D * columns)  # query, its keys, score map, value map
    aggregation = aggregate_flop(R, columns, s.N, D) + aggregate_backward_flop(R, columns, s.N, D)
    blocks, forward, last = (_pyramid if model.blocks == "conv" else _transformer)(t)
    flop = {
        "map rebuild": maps,
        "variable aggregation": aggregation,
        "embeddings, output projection": 3 * 2 * R * D * D + (0 if model.blocks == "conv" else 2 * 2 * s.B * D),
        **blocks,
        "head": 3 * 2 * t.R * (model.decoder_depth * D * D + D * s.P * s.O),
    }
    if model.noise_dim:  # its scale by the lead time; lead time and noise have no gradient
        flop["noise"] = t.B * (2 * 2 * model.noise_dim + 3 * 2 * model.noise_dim**2) + 3 * _noise_shifts(t)
        forward += _noise_shifts(t)
    if model.input_skip:  # one convolution per knot; the input has no gradient
        flop["input skip"] = 2 * 2 * R * s.P * KNOTS * KERNEL**2 * s.V * s.O
    if model.activation_checkpointing:
        # Recomputation stops at the last tensor that backward needs: without stochastic depth after it, that is the
        # input of the block's last layer, which is not rerun. The rate of the first block is 0.
        flop["recomputed blocks"] = forward - sum(last[:1] if model.drop_path else last)
    return flop


def _transformer(s: Shape) -> tuple[dict[str, int], int, list[int]]:
    """Forward and backward by part; forward alone, and that of the last layer of each block, unless dropout follows."""
    model, D, M = s.model, s.D, s.M
    linear = 2 * s.R * (4 * D * D + 2 * D * M)
    attention = 4 * s.R * s.L * D  # of several ranks each has a part of the heads
    flop = {
        "blocks, linear": 3 * model.depth * linear,
        # Backward of attention: five products, because the scores are recomputed.
        "blocks, attention": model.depth * (attention + attention * 5 // 2),
    }
    fc2 = 0 if model.dropout else 2 * s.R * D * M
    return flop, model.depth * (linear + attention), [fc2] * model.depth


def _pyramid(s: Shape) -> tuple[dict[str, int], int, list[int]]:
    """Like `_transformer`, for `conv` blocks: two 3 × 3 convolutions each, and two linear layers of the lead time."""
    D, convolutions = s.D, [2 * 9 * R * s.D**2 for R in s.pyramid]
    lifts = sum(2 * s.B * rows * columns * D * D for rows, columns in s.grids[1:])
    hidden, out = 2 * s.B * D, 2 * s.B * 2 * D * D
    flop = {
        "blocks, convolutions": 3 * (2 * sum(convolutions) + lifts),
        "blocks, lead time": len(convolutions) * (2 * hidden + 3 * out),
    }
    return flop, 2 * sum(convolutions) + len(convolutions) * (hidden + out), convolutions


def _noise_shifts(s: Shape) -> int:
    """Forward pass of the maps from the noise to scales and shifts: two in each block, one in each of `conv`."""
    maps = len(s.pyramid) if s.model.blocks == "conv" else 2 * s.model.depth
    return maps * 2 * s.B * s.model.noise_dim * 2 * s.D


def aggregate_flop(R: int, columns: int, N: int, D: int) -> int:
    """Forward of `aggregate_variables`: scores and weighted values; columns = V·Q."""
    return 2 * R * columns * (N + D)


def aggregate_backward_flop(R: int, columns: int, N: int, D: int) -> int:
    """Backward without the image's gradient: scores again, dM, the operand's gradient, dS."""
    return 2 * R * columns * (2 * N + 2 * D)


def register_formulas() -> None:
    """Register the missing operators with torch's counter; repeated calls have no effect."""
    from torch.utils.flop_counter import (  # imports Triton, which training does without until it compiles
        flop_registry,
        register_flop_formula,
        sdpa_backward_flop_count,
        sdpa_flop_count,
    )

    ours, aten = torch.ops.climax_hpc, torch.ops.aten
    if ours.aggregate_variables in flop_registry:
        return

    def forward(x: Any, S: Any, S0: Any, M: Any, M0: Any, bias: Any, patch: int, **_: Any) -> int:
        R, columns, N, D = _sizes(x, M, patch)
        return aggregate_flop(R, columns, N, D)

    def backward(
        do: Any, x: Any, S: Any, S0: Any, M: Any, M0: Any, bias: Any, o: Any, lse: Any, patch: int, wants_dx: bool,
        **_: Any,
    ) -> int:  # fmt: skip
        R, columns, N, D = _sizes(x, M, patch)
        return aggregate_backward_flop(R, columns, N, D) + (2 * R * (columns - M[1]) * N if wants_dx else 0)

    def attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def attention_backward(grad_out: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(grad_out, query, key, value)

    register_flop_formula(ours.aggregate_variables)(forward)
    register_flop_formula(ours.aggregate_variables_backward)(backward)
    for packet, formula in (
        (aten._scaled_dot_product_flash_attention_for_cpu, attention),
        (aten._scaled_dot_product_flash_attention_for_cpu_backward, attention_backward),
    ):
        if packet not in flop_registry:
            register_flop_formula(packet)(formula)


def _sizes(x_BVHW: Any, M_NVKP: Any, patch: int) -> tuple[int, int, int, int]:
    """R, V·Q, N and D from the shapes of the image and the value map."""
    B, V, H, W = x_BVHW
    N, _, K, P = M_NVKP
    return B * (H // patch) * (W // patch), V * (P + 1), N, N * K
