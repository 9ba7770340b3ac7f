"""Memory of one device during training, by part, computed from sizes.

The peak is at one of three moments: the start of the backward pass (all activations), its end (gradients and reduction
buffers; with checkpointing also its last block) or the optimiser step (gradients and the optimiser's temporaries). At
stage 3 it may be a little before the first of them, when parameters are there twice. What
DeepSpeed 0.19 allocates at each ZeRO stage was derived from measured steps; `measure.py` measures the same step and
`tests/tools/plan/test_memory.py` compares.
Dimensions as in `shape.py`; n parameters, w = 1/ranks.
"""

from collections import Counter
from dataclasses import dataclass, fields, replace

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.tools.plan.activations import activation_bytes, first_block, last_gather
from climax_hpc.tools.plan.muon import muon_bytes
from climax_hpc.training.deepspeed_engine import deepspeed_config
from climax_hpc.training.second_copy import copy_ranks
from climax_hpc.training.shape import Shape

_FLOAT = 4
# DeepSpeed's defaults (runtime/zero/config.py) of settings that climax_hpc/training/deepspeed_engine.py leaves out.
_LIVE_PARAMETERS, _PREFETCHED, _PERSISTENT = 1e9, 5e7, 1e5
_STAGE_0_BUCKET = 5e8  # engine.py of DeepSpeed, MEMORY_OPT_ALLREDUCE_SIZE
FIRST_BLOCK = "backward pass of the first block"
LAST_GATHER = "end of the forward pass"
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
        # Stage 3 reduces in float32, and so it fills its bucket.
        self.bucket = (_FLOAT if self.stage == 3 else self.e) * settings["reduce_bucket_size"] if self.stage else 0.0
        self.largest_whole = float(settings.get("stage3_param_persistence_threshold", _PERSISTENT))
        self.persistent = sum(size for size in shape.parameter_sizes if size <= self.largest_whole)
        self.prefetched = float(settings.get("stage3_prefetch_bucket_size", _PREFETCHED))
        self.copy_ranks = copy_ranks(train, shape.ranks)
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
            parameters *= self.w
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
        gathered = self.e * min(self.n - self.persistent, _LIVE_PARAMETERS) if self.w < 1 else 0.0
        start = self._memory(batch, gradients=part, activations=self.activations, buffers=2 * self.bucket + gathered)
        moments = [
            max(self._last_gather(batch, part, gathered), start, key=lambda memory: memory.total),
            self._memory(batch, gradients=part, buffers=2 * self.bucket),
            self._memory(batch, gradients=2 * part, temporaries=self._work(), buffers=self.bucket),
        ]
        return [
            replace(m, parameters=m.parameters + more) for m, more in zip(moments, self._more_of_stage_3(), strict=True)
        ]

    def _more_of_stage_3(self) -> tuple[float, float, float]:
        """What every moment has of the parameters beside this rank's part: small tensors, and the second copy.

        Tensors that are not partitioned are whole but for the optimiser step. The first pass of a step makes the copy
        where it releases parameters, so at its end if it can keep them all; that of small tensors is made at the step.
        """
        whole = self.e * self.persistent if self.w < 1 and self.offload != "all" else 0.0
        copy, rest = ((self.e * size / self.copy_ranks) for size in (self.n - self.persistent, self.persistent))
        if self.copy_ranks == 1:
            return whole, whole, 0.0
        early = self.accumulates or self.n >= _LIVE_PARAMETERS
        return whole + copy * early, whole + copy, copy + rest

    def _last_gather(self, batch: float, gradients: float, gathered: float) -> Memory:
        """The end of the forward pass: all parameters, and what the last gather received, from which they are copied.

        One gather brings all parameters up to a limit, and by then the others are copied.
        """
        received = min(gathered, self.e * self.prefetched)
        activations = last_gather(self.shape, self.e, self.largest_whole, cuda=self.cuda)
        found = self._memory(
            batch, gradients=gradients, activations=activations, buffers=self.bucket + gathered + received
        )
        return replace(found, moment=LAST_GATHER)
