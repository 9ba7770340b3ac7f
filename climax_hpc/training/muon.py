"""Muon for the matrices of the trunk and AdamW for all other parameters, in one optimiser that ZeRO may partition.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), with the scale of Liu et al. 2025 (arXiv 2502.16982):

    m ← β m + (1 - β) g,   u = β m + (1 - β) g      (Nesterov's form, β = 0.95)
    w ← w - lr · (weight_decay · w + 0.2 · √max(R, C) · orthogonal(u))

for a matrix of R rows and C columns; a convolution (out, in, k, k) is the matrix (out, in·k²). The scale gives a step
the root mean square of AdamW's, so that one learning rate and one weight decay serve both.

Momentum is partitioned as ZeRO partitions the weights. Only Newton and Schulz's iteration needs whole matrices, each of
which one rank computes (`matrix_exchange.py`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from climax_hpc.distributed import process_group
from climax_hpc.training.matrix_exchange import Held, Matrix, MatrixExchange

MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al.: singular values end between 0.7 and 1.2
ITERATIONS = 5
_EPSILON = 1e-7
_RMS = 0.2  # of AdamW's steps (Liu et al., section 2.2)
BATCH = 2**22
"""Elements of matrices that are multiplied together."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Where the parameters of a group are, or of the part of it that ZeRO updates at once."""

    tensors: Sequence[Tensor]
    """What this rank updates."""
    held: Sequence[tuple[nn.Parameter, Sequence[Held | None]]]
    """Parameters, with the piece of each rank."""


class Muon(torch.optim.AdamW):
    """Muon for parameter groups whose "muon" is true, AdamW for the others.

    The state of a matrix is its momentum, under AdamW's name `exp_avg`: DeepSpeed's universal checkpoints know the
    names of AdamW's states only. They need `exp_avg_sq` too, so `state_dict` adds zeros, which take no space.
    """

    def __init__(self, groups: list[dict[str, Any]], stacks: Mapping[nn.Parameter, int], **options: Any) -> None:
        """Optimise parameters that every rank holds whole, as at ZeRO stage 0, until `partition` says otherwise.

        Args:
            groups: as for AdamW, each with "muon".
            stacks: parameters of Muon's groups, with the number of matrices in each, along its first dimension.
            options: AdamW's defaults.
        """
        super().__init__(groups, **options)
        self._stacks = {parameter: (count, parameter.shape) for parameter, count in stacks.items()}
        self._exchanges: dict[Tensor, MatrixExchange] = {}
        self._tensors: list[Tensor] = []
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self.partition(
            [
                Pieces(
                    tensors=group["params"],
                    held=[
                        (parameter, [Held(tensor=index, place=0, start=0, size=parameter.numel())] * ranks)
                        for index, parameter in enumerate(group["params"])
                    ],
                )
                for group in self.param_groups
                if group["muon"]
            ]
        )

    def partition(self, groups: Sequence[Pieces]) -> None:
        """Say where the parameters are that the groups of Muon update."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self._exchanges, self._tensors = {}, [tensor for group in groups for tensor in group.tensors]
        for group in groups:
            matrices = [m for parameter, held in group.held for m in _matrices(*self._stacks[parameter], held)]
            self._exchanges[group.tensors[0]] = MatrixExchange(matrices, rank=rank)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all groups; all ranks call this together, with the same gradients or their parts of them."""
        assert closure is None, "gradients are computed before"
        groups = self.param_groups
        for group in groups:
            if group["muon"] and group["params"]:  # ZeRO 3 empties the groups that it does not update now
                self._step_matrices(group)
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            return super().step()
        finally:
            self.param_groups = groups

    def _step_matrices(self, group: dict[str, Any]) -> None:
        """Gradients are overwritten by the updates: nobody needs them afterwards."""
        tensors = group["params"]
        updates = [torch.zeros_like(p) if p.grad is None else p.grad.contiguous() for p in tensors]
        moments = [self._moment(parameter) for parameter in tensors]
        torch._foreach_lerp_(moments, updates, 1 - MOMENTUM)
        torch._foreach_lerp_(updates, moments, MOMENTUM)
        dtype = torch.bfloat16 if process_group.device().type == "cuda" else updates[0].dtype
        self._exchanges[tensors[0]].run([each.view(-1) for each in updates], lambda u: orthogonal(u, dtype), dtype)
        torch._foreach_mul_(tensors, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(tensors, updates, alpha=-group["lr"])

    def _moment(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
        state["step"] += 1
        moment: Tensor = state["exp_avg"]
        return moment

    def state_dict(self) -> dict[str, Any]:
        """AdamW's, with zeros for the second moments of matrices."""
        content = super().state_dict()
        for group in content["param_groups"]:
            for index in group["params"] if group["muon"] else ():
                state = content["state"].get(index)
                if state:
                    momentum = state["exp_avg"]
                    content["state"][index] = state | {"exp_avg_sq": momentum.new_zeros(1).expand(momentum.shape)}
        return content

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self.forget_second_moments()

    def forget_second_moments(self) -> None:
        """Free what a checkpoint holds in place of the second moments of matrices."""
        for tensor in self._tensors:
            self.state.get(tensor, {}).pop("exp_avg_sq", None)


def orthogonal(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """0.2 · √max(R, C) · U Vᵀ of matrices U S Vᵀ, approximately, in `dtype`.

    Singular values differ from 1 by up to 0.3, which does no harm (Jordan et al.). Matrices of the same size are
    multiplied together.
    """
    found: list[Tensor] = [torch.empty(0)] * len(matrices)
    for indices in _batches(matrices):
        rows, columns = matrices[indices[0]].shape
        wide = rows <= columns
        x_NRC = torch.stack([matrices[index] if wide else matrices[index].mT for index in indices])
        x_NRC = _newton_schulz(x_NRC, dtype) * (_RMS * math.sqrt(max(rows, columns)))
        for index, x_RC in zip(indices, x_NRC if wide else x_NRC.mT, strict=True):
            found[index] = x_RC
    return found


def _newton_schulz(x_NRC: Tensor, dtype: torch.dtype) -> Tensor:
    """Five steps x ← a x + (b x xᵀ + c (x xᵀ)²) x towards the nearest matrix with orthonormal rows; R ≤ C."""
    a, b, c = _COEFFICIENTS
    norm_N11 = torch.linalg.vector_norm(x_NRC, dim=(-2, -1), keepdim=True)
    x_NRC = (x_NRC / (norm_N11 + _EPSILON)).to(dtype)
    for _ in range(ITERATIONS):
        gram_NRR = x_NRC @ x_NRC.mT
        polynomial_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, polynomial_NRR, x_NRC, beta=a)
    return x_NRC


def _batches(matrices: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of matrices of the same shape, so many that their elements are at most `BATCH`, or one."""
    same: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        same.setdefault(matrix.shape, []).append(index)
    for shape, indices in same.items():
        number = max(1, BATCH // shape.numel())
        for first in range(0, len(indices), number):
            yield indices[first : first + number]


def _matrices(count: int, shape: torch.Size, held: Sequence[Held | None]) -> Iterator[Matrix]:
    """The matrices stacked in a parameter, with their pieces on each rank."""
    rows, columns = shape[0] // count, math.prod(shape[1:])
    for number in range(count):
        first = number * rows * columns
        pieces = tuple(piece and piece.within(first, rows * columns) for piece in held)
        yield Matrix(rows=rows, columns=columns, held=pieces)
