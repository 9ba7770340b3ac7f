"""Measures steps of the first of several ranks alone: collectives allocate what they do, but nothing is exchanged.

Arguments: number of ranks, elements that DeepSpeed gathers ahead at once (0: its default), and the requests of
`climax_hpc.tools.plan.measure`. Without other processes the peak is the same to the byte on a busy machine too.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from climax_hpc.tools.plan import measure
from climax_hpc.training import deepspeed_engine


def limited(usual: Callable[..., dict[str, Any]], elements: int) -> Callable[..., dict[str, Any]]:
    """`deepspeed_config` with this limit of what is gathered ahead."""

    def changed(*arguments: Any) -> dict[str, Any]:
        config = usual(*arguments)
        if elements:
            config["zero_optimization"] |= {"stage3_prefetch_bucket_size": elements}
        return config

    return changed


def main() -> None:
    """Measure."""
    ranks, elements = (int(sys.argv.pop(1)) for _ in range(2))
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(ranks)}
    torch.distributed.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    deepspeed_engine.deepspeed_config = limited(deepspeed_engine.deepspeed_config, elements)
    measure.main()


if __name__ == "__main__":
    main()
