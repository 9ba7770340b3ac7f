"""hpZ of ZeRO++ (Wang et al. 2023): a second copy of the parameters in each group of ranks, for `train.zero_hpz`.

At ZeRO stage 3 a step gathers every parameter once from all ranks. Each rank then keeps a part of it as large as a
group needs to hold it whole, and further gathers of the step stay in the group. The optimiser step drops the copy.
"""

from typing import Any

import torch.distributed

from climax_hpc.config.training import TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.distributed.hang_detection import longest_wait

PURPOSE = "second copy"


def copy_ranks(train: TrainConfig, ranks: int) -> int:
    """Ranks that share a second copy; 1: there is none, nor any use of it where all ranks would share it."""
    return train.zero_hpz if train.zero_hpz < ranks else 1


def copy_group(train: TrainConfig) -> Any:
    """This rank's group, made known to DeepSpeed; None without a second copy. All ranks call this together.

    DeepSpeed keeps one group for the whole process. It would refuse to make that of a second engine, after a rollback,
    and would use it in an engine without a second copy too.
    """
    from deepspeed.utils import groups

    size = copy_ranks(train, torch.distributed.get_world_size())
    found = process_group.group_of_neighbours(size, longest_wait(train.hang_timeout), PURPOSE) if size > 1 else None
    groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = found
    return found
