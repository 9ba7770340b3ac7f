"""Where DeepSpeed keeps the elements of each parameter: which part of it lies where in which rank's flat tensors."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
import torch.distributed

from climax_hpc.training.matrix_exchange import Held
from climax_hpc.training.muon import Muon, Pieces


def partition_muon(engine: Any) -> None:
    """Tell Muon which pieces of matrices this engine's ranks update; at stage 0 all of them, as Muon expects."""
    muon, stage = engine.basic_optimizer, engine.zero_optimization_stage()
    if isinstance(muon, Muon) and stage:
        muon.partition(list(_stage_3(engine.optimizer) if stage == 3 else _stages_1_and_2(engine.optimizer)))


def _stages_1_and_2(optimizer: Any) -> Iterator[Pieces]:
    """Parameters of a group one after the other, cut into as many equal parts as there are ranks."""
    low = hasattr(optimizer, "bf16_groups")  # stage 1 with bfloat16
    groups = optimizer.bf16_groups if low else optimizer.bit16_groups
    flat = optimizer.fp32_groups_flat_partition if low else optimizer.single_partition_of_fp32_groups
    for settings, parameters, tensor in zip(optimizer.param_groups, groups, flat, strict=True):
        if settings["muon"]:
            firsts = list(accumulate((p.numel() for p in parameters), initial=0))
            held = [
                (p, [_overlap(first, p.numel(), rank, tensor.numel()) for rank in range(_ranks())])
                for p, first in zip(parameters, firsts, strict=False)
            ]
            yield Pieces(tensors=[tensor], held=held)


def _overlap(first: int, size: int, rank: int, part: int) -> Held | None:
    """The piece on a rank of a parameter whose first element has this place in its group."""
    start, end = max(first, rank * part), min(first + size, (rank + 1) * part)
    return Held(tensor=0, place=start - rank * part, start=start - first, size=end - start) if start < end else None


def _stage_3(optimizer: Any) -> Iterator[Pieces]:
    """Every parameter cut into as many equal parts as there are ranks, the parts of a rank one after the other."""
    for index, (parameters, tensor) in enumerate(
        zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True)
    ):
        if optimizer.param_groups[optimizer.sub_group_to_group_id[index]]["muon"]:
            places = list(accumulate((p.partition_numel() for p in parameters), initial=0))
            held = [(p, _equal_parts(p, place)) for p, place in zip(parameters, places, strict=False)]
            yield Pieces(tensors=[tensor], held=held)


def _equal_parts(parameter: Any, place: int) -> list[Held | None]:
    part, size = parameter.partition_numel(), parameter.ds_numel
    starts = [rank * part for rank in range(_ranks())]  # the last ones are padded, or empty
    return [
        Held(tensor=0, place=place, start=start, size=min(part, size - start)) if start < size else None
        for start in starts
    ]


def _ranks() -> int:
    return torch.distributed.get_world_size()
