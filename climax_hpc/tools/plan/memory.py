"""Memory of one device during training, by part, computed from sizes.

The peak is at one of three moments: the start of the backward pass (all activations), its end (gradients and reduction
buffers; with checkpointing also its last block) or the optimiser step (gradients and the optimiser's temporaries). What
DeepSpeed 0.19 allocates at each ZeRO stage was derived from measured steps; `measure.py` measures the same step and
`tests/tools/plan/test_memory.py` compares.
Dimensions as in `shape.py`; n parameters, w = 1/ranks.
"""

from collections import Counter
from dataclasses import dataclass, fields, replace

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.tools.plan.muon import muon_bytes
from climax_hpc.training.deepspeed_engine import deepspeed_config
from climax_hpc.training.second_copy import copy_ranks
from climax_hpc.training.shape import Shape

_FLOAT = 4
# DeepSpeed's defaults (runtime/zero/config.py) of settings that climax_hpc/training/deepspeed_engine.py leaves out.
_LIVE_PARAMETERS, _PERSISTENT = 1e9, 1e5
_STAGE_0_BUCKET = 5e8  # engine.py of DeepSpeed, MEMORY_OPT_ALLREDUCE_SIZE
FIRST_BLOCK = "backward pass of the first block"
MOMENTS = ("start of the backward pass", "end of the backward pass", "optimiser step")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device at one moment of a step."""

    moment: str
    parameters: float
    """With the second copy of `train.zero_hpz`."""
    gradients: float
    optimiser: float
    """float32 masters, two moments (one of Muon's matrices), moving average; temporaries during the optimiser step."""
    activations: float
    """Tensors kept for the backward pass, and its temporaries."""
    buffers: float
    """The batch, those read ahead, DeepSpeed's reduction buckets, parameters gathered by stage 3."""

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return float(sum(self.parts.values()))

    @property
    def parts(self) -> dict[str, float]:
        """By name."""
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name != "moment"}


def plan_memory(
    shape: Shape,
    train: TrainConfig,
    optimizer: OptimizerConfig,
    *,
    anomaly: bool,
    cuda: bool,
    read_ahead: float = 0.0,
) -> Memory:
    """Peak memory: that of the fullest of the three moments.

    Args:
        anomaly: the batch also holds the input anomalies and the target of the network.
        cuda: on a GPU, AdamW updates all tensors at once.
        read_ahead: bytes of the micro-batches that are read ahead, as stored.
    """
    settings = deepspeed_config(train, optimizer, shape.B, shape.micro_batches_per_rank, shape.n)["zero_optimization"]
    moments = _Moments(shape, train, settings, cuda=cuda)
    batch = _FLOAT * shape.pixels * (shape.V + shape.O * (3 if anomaly else 1)) + read_ahead
    return max(moments.all(batch), key=lambda memory: memory.total)


class _Moments:
    """The three moments of a step."""

    def __init__(self, shape: Shape, train: TrainConfig, settings: dict[str, float], *, cuda: bool) -> None:
        self.shape, self.cuda, self.stage = shape, cuda, train.zero_stage
        self.low = train.precision != "float32"
        self.offload = train.offload
        self.e = 2 if self.low else _FLOAT
        self.n, self.w = shape.n, 1 / shape.ranks
        self.accumulates = shape.micro_batches_per_rank > 1
        self.bucket = self.e * settings["reduce_bucket_size"] if self.stage else 0.0
        threshold = float(settings.get("stage3_param_persistence_threshold", _PERSISTENT))
        self.persistent = sum(size for size in shape.parameter_sizes if size <= threshold)
        # Of the other parameters a group of ranks keeps a second copy, from their first use in a step to its end.
        group = copy_ranks(train, shape.ranks)
        self.second_copy = self.e * (self.n - self.persistent) / group if group > 1 else 0.0
        # The average is stored like the master weights: full at stage 0, this rank's part at higher stages.
        self.ema = _FLOAT * self.n * (self.w if self.stage else 1) if train.ema_decay else 0.0
        self.activations = activation_bytes(shape, self.e)
        self.recomputed = first_block(shape, self.e)

    def all(self, batch: float) -> list[Memory]:
        """The moments in order of MOMENTS."""
        low_1 = self._stage_1_low if self.low else self._stage_1
        found = {0: self._plain, 1: low_1, 2: self._stage_2, 3: self._stage_3}[self.stage](batch)
        return [replace(memory, moment=memory.moment or name) for memory, name in zip(found, MOMENTS, strict=True)]

    def _memory(
        self,
        batch: float,
        *,
        gradients: float,
        activations: float = 0.0,
        buffers: float = 0.0,
        temporaries: float = 0.0,
    ) -> Memory:
        masters = _FLOAT * self.n * self.w if self.stage else 0.0
        parameters = float(self.e * self.n)
        if self.stage == 3:
            parameters = self.e * (self.n * self.w + (self.persistent if self.w < 1 else 0))
        moments = _FLOAT * (2 * self.n - self.shape.in_matrices)
        optimiser = masters + moments * (self.w if self.stage else 1) + temporaries
        return Memory(
            moment="",
            parameters=0.0 if self.offload == "all" else parameters,
            gradients=gradients,
            optimiser=self.ema + (0.0 if self.offload != "none" else optimiser),
            activations=activations,
            buffers=batch + buffers,
        )

    def _work(self) -> float:
        """Temporaries of the optimiser. AdamW's are on CPUs only, one tensor at a time; those of Muon follow."""
        others = self.n - self.shape.in_matrices
        sizes = Counter(self.shape.parameter_sizes) - Counter(rows * columns for rows, columns in self.shape.matrices)
        # The root of the second moment and the quotient; the fused form on GPUs has none.
        adamw = 0.0 if self.cuda else 2 * _FLOAT * (others * self.w if self.stage else max(sizes))
        return max(adamw, muon_bytes(self.shape, self.stage, self.cuda))

    def _backward(self, batch: float, gradients: float, *, element: int, buffers: float = 0.0) -> Memory:
        """The start of the backward pass, or its last block if that is fuller: it too is recomputed in whole.

        By then the other blocks have gradients, of `element` bytes, beside those that are there in any case.
        """
        start = self._memory(batch, gradients=gradients, activations=self.activations, buffers=buffers)
        if self.accumulates or not self.recomputed:
            return start
        activations, made = self.recomputed
        last = self._memory(batch, gradients=gradients + element * made, activations=activations, buffers=buffers)
        return max(start, replace(last, moment=FIRST_BLOCK), key=lambda memory: memory.total)

    def _plain(self, batch: float) -> list[Memory]:
        whole = _FLOAT * self.n
        return [
            self._backward(batch, whole * self.accumulates, element=_FLOAT),
            self._memory(batch, gradients=whole, buffers=min(whole, _FLOAT * _STAGE_0_BUCKET)),
            self._memory(batch, gradients=whole, temporaries=self._work()),
        ]

    def _stage_1(self, batch: float) -> list[Memory]:
        whole, part = _FLOAT * self.n, _FLOAT * self.n * self.w
        return [
            self._backward(batch, whole * self.accumulates, element=_FLOAT, buffers=self.bucket),
            self._memory(batch, gradients=2 * whole, buffers=self.bucket),
            self._memory(batch, gradients=2 * part, temporaries=self._work()),
        ]

    def _stage_1_low(self, batch: float) -> list[Memory]:
        """DeepSpeed's BF16_Optimizer keeps full float32 gradients, and a flattened copy while it reduces them."""
        whole, part = _FLOAT * self.n, _FLOAT * self.n * self.w
        own = self.e * self.n
        return [
            self._backward(batch, whole + own * self.accumulates, element=self.e),
            self._memory(batch, gradients=whole + 2 * own, buffers=whole),
            self._memory(batch, gradients=whole + own, temporaries=self._work() + part / 2),
        ]

    def _stage_2(self, batch: float) -> list[Memory]:
        part, own = _FLOAT * self.n * self.w, self.e * self.n * self.w
        kept = part if self.accumulates else 0.0
        unread = self.activations * max(0.0, 1 - self.bucket / (self.e * self.n))
        return [
            self._memory(batch, gradients=kept, activations=self.activations, buffers=self.bucket),
            self._memory(batch, gradients=kept + own, activations=unread, buffers=self.bucket),
            self._memory(
                batch, gradients=part if self.low else 2 * part, temporaries=self._work(),
                buffers=self.bucket if self.low and self.w < 1 else 0.0,
            ),
        ]  # fmt: skip

    def _stage_3(self, batch: float) -> list[Memory]:
        part = _FLOAT * self.n * self.w
        gathered = self.e * min(self.n, _LIVE_PARAMETERS) * (1 - self.w)
        moments = [
            self._memory(batch, gradients=part, activations=self.activations, buffers=2 * self.bucket + gathered),
            self._memory(batch, gradients=part + self.e * self.n, buffers=self.bucket + gathered),
            self._memory(batch, gradients=2 * part, temporaries=self._work(), buffers=self.bucket),
        ]
        # The first pass of a step makes the copy where it releases parameters, so at its end if it can keep them all.
        before = self.second_copy if self.accumulates or self.n >= _LIVE_PARAMETERS else 0.0
        copies = (before, self.second_copy, self.second_copy)
        return [replace(m, parameters=m.parameters + copy) for m, copy in zip(moments, copies, strict=True)]


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

    Maps, output and log-sum-exp of the aggregation in float32, the output in low precision, and the dropout of the
    embeddings, which `conv` does not have.
    """
    columns, token = s.V * (s.P + 1), s.R * s.D * e
    aggregation = _FLOAT * (columns * (2 * s.D + s.N) + s.R * (s.D + s.N))
    embedding = 0.0 if s.model.blocks == "conv" else token * _mask(s, e)
    return aggregation + (token if e < _FLOAT else 0) + embedding


def _mask(s: Shape, e: int) -> float:
    """Size of a dropout mask as a share of the tensor that it masks."""
    return 1 / e if s.model.dropout else 0.0
