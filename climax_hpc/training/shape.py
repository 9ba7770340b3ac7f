"""The sizes of one training step, from which memory, arithmetic and communication follow.

Dimensions: B samples of a micro-batch · V input variables · O output variables · H, W grid · p patch edge ·
P = p·p pixels · Q = P+1 · L patches · R = B·L tokens, or this rank's part · D embedding · M width of a block's MLP ·
N heads · Z noise · n parameters.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from climax_hpc.config.training import PretrainConfig, require
from climax_hpc.data.sampler import check_division
from climax_hpc.fields.variables import lookup
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.training.optimizer import trunk_matrices


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one micro-batch in the model, and the number of micro-batches per step."""

    model: ModelConfig
    B: int
    V: int
    O: int  # noqa: E741 - the dimension's name
    micro_batches_per_rank: int
    """Forward passes of one rank for one optimiser step."""
    ranks: int
    sequence: int = 1
    """Ranks that share each sample."""
    muon: bool = False
    """Muon updates the matrices of the trunk."""
    members: int = 1
    """Members of each sample, for which blocks and head run, but not the front end."""

    @classmethod
    def of(cls, config: PretrainConfig, ranks: int) -> "Shape":
        """From a training config.

        Raises:
            UserError: the number of ranks is no multiple of train.sequence_parallel or train.zero_hpz, or that of
                replicas does not divide data.micro_batches_per_step.
        """
        data, model, sequence = config.data, config.model, config.train.sequence_parallel
        require(
            ranks % sequence == 0,
            f"{ranks} devices cannot form groups of train.sequence_parallel = {sequence}: change it, or nodes or "
            "devices_per_node",
        )
        require(
            ranks % config.train.zero_hpz == 0,
            f"{ranks} devices cannot form groups of train.zero_hpz = {config.train.zero_hpz}: change it, or nodes or "
            "devices_per_node",
        )
        check_division(
            data.micro_batch_size,
            data.micro_batches_per_step,
            ranks,
            sequence=sequence,
            of="devices",
            change="nodes or devices_per_node",
        )
        inputs = [v for v in data.in_variables or model.variables if v in model.variables]
        outputs = [v for v in data.out_variables or inputs if lookup(v).can_be_forecast]
        require(
            bool(inputs) and bool(outputs),
            "data.in_variables: no input or output variable is left",
        )
        return cls(
            model=model, B=data.micro_batch_size, V=len(inputs), O=len(outputs),
            micro_batches_per_rank=data.micro_batches_per_step * sequence // ranks, ranks=ranks, sequence=sequence,
            muon=config.optimizer.kind == "muon", members=config.train.members,
        )  # fmt: skip

    @property
    def of_trunk(self) -> "Shape":
        """Sizes in blocks and head: every member is a sample there."""
        return replace(self, B=self.B * self.members, members=1)

    @property
    def P(self) -> int:
        """Pixels of a patch."""
        return self.model.patch**2

    @property
    def L(self) -> int:
        """Patches of a field."""
        return self.model.patches[0] * self.model.patches[1]

    @property
    def R(self) -> int:
        """Tokens of a micro-batch on one rank."""
        return self.B * self.L // self.sequence

    @property
    def D(self) -> int:
        """Embedding width."""
        return self.model.embed_dim

    @property
    def M(self) -> int:
        """Hidden width of a block's MLP."""
        return int(self.D * self.model.mlp_ratio)

    @property
    def N(self) -> int:
        """Attention heads."""
        return self.model.heads

    @property
    def pyramid(self) -> tuple[int, ...]:
        """Tokens of a micro-batch on one rank on the grid of each residual block of `conv`, in the order they run."""
        down = [self.B * (rows * columns) for rows, columns in self.grids]
        return tuple(R for R in [*down, *down[-2::-1]] for _ in range(self.model.depth))

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of patches of each grid of `conv` on one rank, finest first."""
        rows, columns = self.model.patches[0] // self.sequence, self.model.patches[1]
        return tuple((rows >> level, columns >> level) for level in range(self.model.levels))

    @property
    def pixels(self) -> int:
        """Pixels of one variable of a micro-batch on one rank."""
        return self.B * self.model.height * self.model.width // self.sequence

    @property
    def parameter_sizes(self) -> tuple[int, ...]:
        """Elements of every parameter tensor."""
        return _parameter_sizes(self.model)

    @property
    def n(self) -> int:
        """Parameters."""
        return sum(self.parameter_sizes)

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of every matrix that Muon updates."""
        return _matrices(self.model) if self.muon else ()

    @property
    def in_matrices(self) -> int:
        """Parameters that Muon updates: they have one moment, the others two."""
        return sum(rows * columns for rows, columns in self.matrices)


@lru_cache(maxsize=8)
def _parameter_sizes(model: ModelConfig) -> tuple[int, ...]:
    with torch.device("meta"):
        return tuple(p.numel() for p in ClimaXNetwork(model).parameters())


@lru_cache(maxsize=8)
def _matrices(model: ModelConfig) -> tuple[tuple[int, int], ...]:
    with torch.device("meta"):
        stacks = trunk_matrices(ClimaXNetwork(model))
    sizes = [(len(p) // count, p[0].numel(), count) for p, count in stacks.items()]
    return tuple((rows, columns) for rows, columns, count in sizes for _ in range(count))
