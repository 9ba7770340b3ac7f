"""FLOP that a rank's micro-batches need, without recomputation, for the rate that training logs."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from climax_hpc.data.batches import BatchBuilder
from climax_hpc.data.sampler import MicroBatch
from climax_hpc.model import ModelConfig
from climax_hpc.training.flop import step_flop
from climax_hpc.training.shape import Shape


class ModelFlop:
    """FLOP of the forward and backward passes of micro-batches on one rank."""

    def __init__(
        self,
        model: ModelConfig,
        builders: Mapping[str, BatchBuilder],
        *,
        rollout_steps: int = 1,
        sequence: int = 1,
        members: int = 1,
    ) -> None:
        """`rollout_steps`: where a micro-batch does not say; `sequence`: ranks that share each sample."""
        self._model = replace(model, activation_checkpointing=False)
        self._sizes = {name: (len(builder.inputs), len(builder.outputs)) for name, builder in builders.items()}
        self._rollout_steps, self._sequence, self._members = rollout_steps, sequence, members
        self._of_batch = cache(self._compute)

    def __call__(self, micro_batch: MicroBatch) -> float | None:
        """FLOP of this rank; None for networks whose FLOP are not known: baselines and climate projections."""
        if self._model.kind != "climax" or self._model.years:
            return None
        steps = micro_batch.rollout_steps or self._rollout_steps
        samples = len(micro_batch.samples)
        first = self._of_batch(micro_batch.source, samples, self._members)
        # In the later steps of a roll-out each member has an input of its own.
        later = self._of_batch(micro_batch.source, samples * self._members, 1) if steps > 1 else 0
        return (first + (steps - 1) * later) / self._sequence

    def _compute(self, source: str, samples: int, members: int) -> int:
        inputs, outputs = self._sizes[source]
        shape = Shape(
            model=self._model, B=samples, V=inputs, O=outputs, micro_batches_per_rank=1, ranks=1, members=members
        )
        return sum(step_flop(shape).values())
