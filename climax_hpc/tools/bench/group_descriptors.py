"""Open files and sockets of a rank with all its process groups: `python -m climax_hpc.tools.bench.group_descriptors`.

Each rank joins the group, makes the second one, and does the collectives that a training run does on CPUs.
"""

import argparse
import json

import torch
import torch.distributed

from climax_hpc.distributed import process_group
from climax_hpc.tools.bench.heartbeat_scale import open_descriptors
from climax_hpc.tools.bench.rank_processes import run_ranks

_MODULE = "climax_hpc.tools.bench.group_descriptors"
_LAZY = "TORCH_GLOO_LAZY_INIT"
_LARGE = 1 << 20  # numbers: gloo reduces large tensors in another way than small ones


def run_rank() -> None:
    """Print what a rank has opened, as JSON."""
    before = open_descriptors()
    world = process_group.connect()
    connected = open_descriptors()
    for group in (None, process_group.second_group(0.0)):
        ranks = world.size
        torch.distributed.broadcast(torch.zeros(1), src=0, group=group)
        for numbers in (1, _LARGE):
            torch.distributed.all_reduce(torch.zeros(numbers), group=group)
        torch.distributed.all_gather_object([None] * ranks, world.rank, group=group)
        torch.distributed.all_gather([torch.zeros(3) for _ in range(ranks)], torch.zeros(3), group=group)
        torch.distributed.barrier(group=group)
    opened = {"connected": connected - before, "used": open_descriptors() - before}
    everywhere = process_group.gathered(opened)
    if world.is_first:
        of = {"rank_0": everywhere[:1], "others": everywhere[1:] or everywhere}
        print(json.dumps({f"{key}_{name}": max(one[key] for one in of[name]) for name in of for key in opened}))


def count(ranks: int, *, lazy: bool) -> dict[str, object]:
    """Descriptors of rank 0, and the most of another rank, after connecting and after the collectives."""
    found = run_ranks(ranks, _MODULE, ["--as-rank"], limit=300.0, environment={_LAZY: str(int(lazy))})
    return {"ranks": ranks, "connections": "at first use" if lazy else "all at the start"} | found


def main() -> None:
    """Print a line of JSON for each number of ranks, with connections made at the start and at first use."""
    parser = argparse.ArgumentParser(prog="python -m climax_hpc.tools.bench.group_descriptors", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--as-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_rank:
        run_rank()
        return
    for ranks in options.ranks:
        for lazy in (False, True):
            print(json.dumps(count(ranks, lazy=lazy)), flush=True)


if __name__ == "__main__":
    main()
