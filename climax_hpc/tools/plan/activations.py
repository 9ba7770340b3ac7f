"""Bytes of activations of one micro-batch on one device, computed from sizes. Dimensions as in `shape.py`."""

from climax_hpc.training.shape import Shape

_FLOAT = 4


def activation_bytes(shape: Shape, e: int) -> float:
    """Peak bytes of activations and backward temporaries in the passes of one micro-batch.

    Args:
        e: bytes of a parameter and of most activations (the aggregation itself works in float32).
    """
    s, model = shape.of_trunk, shape.model
    token = s.R * s.D * e  # one tensor (B, L, D)
    mask = _mask(s, e)
    front = _front_bytes(shape, e)
    of_loss = 1 if model.noise_dim else e  # the CRPS keeps a code of one byte for each number, other losses the number
    head = token * (2 + 2 * model.decoder_depth) + s.R * s.P * s.O * of_loss
    head_work = s.R * s.P * s.O * e + token
    if model.blocks == "conv":
        blocks, checkpoints, block, block_work = _pyramid_bytes(s, e, mask)
        head += token  # SiLU's input
        if model.input_skip:
            head += shape.B * s.V * (model.height // s.sequence + 2) * (model.width + 2) * e
    else:
        block, block_work = _block_bytes(s, e, mask)
        blocks, checkpoints = model.depth * block, model.depth * token
    if model.activation_checkpointing:
        # The block's input is one of the checkpoints; the incoming gradient takes its place.
        return front + checkpoints + max(head + head_work, block + block_work)
    return front + blocks + max(head + head_work, block_work)


def _block_bytes(s: Shape, e: int, mask: float) -> tuple[float, float]:
    """Bytes of what a transformer block keeps for its backward pass, and of the temporaries of that pass."""
    token, hidden = s.R * s.D * e, s.R * s.M * e
    statistics = s.R * _FLOAT * (4 + s.N)  # two norms' mean and scale, attention's log-sum-exp
    tensors = 10 if s.model.noise_dim else 8  # the outputs of both norms before the noise and after it
    return token * (tensors + 2 * mask) + hidden * (2 + mask) + statistics, token + hidden


def last_gather(shape: Shape, e: int, largest_whole: float, *, cuda: bool) -> float:
    """Activation bytes in the forward pass when ZeRO stage 3 needs the last of the parameters that it gathers.

    Up to then it holds them twice. In a transformer that is the second linear layer of the last MLP, or one of the
    head.

    Args:
        largest_whole: elements of the largest tensor that is not partitioned, and so never gathered in this pass.
        cuda: on CPUs, dropout also holds the numbers that it draws, of two bytes for each element.
    """
    s, model = shape.of_trunk, shape.model
    token, hidden, mask = s.R * s.D * e, s.R * s.M * e, _mask(s, e)
    drawn = (0 if cuda else 2 * s.R * s.M) if mask else 0
    if model.blocks == "conv":
        blocks, checkpoints, block, _ = _pyramid_bytes(s, e, mask)
        kept, mlp = (checkpoints, block) if model.activation_checkpointing else (blocks, 0.0)
    elif model.activation_checkpointing:
        # Input and output of the second norm, the outputs of GELU, or of the layer before it, and of dropout.
        kept, mlp = model.depth * token, 2 * token + hidden * (2 + mask) + drawn
    else:
        kept = model.depth * _block_bytes(s, e, mask)[0]
        mlp = hidden + drawn - token * mask if mask else 0.0
    sizes = [s.D**2] * model.decoder_depth + [s.P * len(model.variables) * s.D]
    last = max((layer for layer, size in enumerate(sizes) if size > largest_whole), default=None)
    head = 0.0 if last is None else token * (2 + 2 * last)  # of the last norm, and of linear layers and GELUs
    return _front_bytes(shape, e) + kept + max(mlp, head)


def first_block(shape: Shape, e: int) -> tuple[float, int] | None:
    """Activation bytes in the backward pass of the first transformer block, recomputed, and gradients made before it.

    None without activation checkpointing.
    """
    s, model = shape.of_trunk, shape.model
    if not model.activation_checkpointing or model.blocks == "conv":
        return None
    made = (model.depth - 1) * (4 * s.D**2 + 2 * s.D * s.M) + model.decoder_depth * s.D**2
    return _front_bytes(shape, e) + s.R * s.D * e + sum(_block_bytes(s, e, _mask(s, e))), made


def _pyramid_bytes(s: Shape, e: int, mask: float) -> tuple[float, float, float, float]:
    """Bytes of `conv` blocks: kept by all, by all checkpointed, by one of the finest grid without its input; its work.

    A block keeps the inputs of both norms, both SiLUs and the scale, and those of both convolutions with one more cell
    on every side. Its backward holds the incoming gradient, and sums those of fields with one more row at either end.
    """
    channels = s.B * s.D * e
    cells = [rows * columns for rows, columns in s.grids]
    padded = [(rows + 2) * (columns + 2) for rows, columns in s.grids]
    turns = [s.model.depth * (1 if size == cells[-1] else 2) for size in cells]  # all grids but the last: down and up
    blocks = [channels * (size * (5 + mask) + 2 * wide) for size, wide in zip(cells, padded, strict=True)]
    between = channels * (sum(cells[:-1]) + sum(cells[1:]))  # inputs of the averages and of the 1 × 1 convolutions
    rows, columns = s.grids[0]
    work = channels * (cells[0] + padded[0] + 4 * (rows + 2) * columns)
    kept = sum(turn * block for turn, block in zip(turns, blocks, strict=True))
    checkpoints = sum(turn * size for turn, size in zip(turns, cells, strict=True))
    return between + kept, between + channels * checkpoints, blocks[0] - channels * cells[0], work


def _front_bytes(s: Shape, e: int) -> float:
    """What comes before the blocks.

    Maps, output and log-sum-exp of the aggregation in float32, in low precision also the output and a float32 copy of
    the projections, and the dropout of the embeddings, which `conv` does not have.
    """
    columns, token = s.V * (s.P + 1), s.R * s.D * e
    aggregation = _FLOAT * (columns * (2 * s.D + s.N) + s.R * (s.D + s.N))
    embedding = 0.0 if s.model.blocks == "conv" else token * _mask(s, e)
    return aggregation + (token + _FLOAT * 3 * s.D**2 if e < _FLOAT else 0) + embedding


def _mask(s: Shape, e: int) -> float:
    """Size of a dropout mask as a share of the tensor that it masks."""
    return 1 / e if s.model.dropout else 0.0
