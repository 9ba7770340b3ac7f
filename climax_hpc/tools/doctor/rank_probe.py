"""Two ranks that all-reduce 32 MiB; prints {backend: best bytes/s}. Run by `ranks.collectives`."""

import json

import torch
import torch.distributed
import torch.multiprocessing

from climax_hpc.tools.doctor.all_reduce import WrongSumError, measure


def _rank(rank: int, backends: dict[str, str]) -> None:
    torch.distributed.init_process_group(",".join(backends.values()), rank=rank, world_size=2)
    speeds = {}
    for name, backend in backends.items():
        device = torch.device("cuda", rank) if backend.startswith("cuda") else torch.device("cpu")
        try:
            speeds[name] = measure(device).bytes_per_second
        except WrongSumError as error:
            raise SystemExit(f"{name}: {error}") from None
    if rank == 0:
        print(json.dumps(speeds), flush=True)
    torch.distributed.destroy_process_group()


def main() -> None:
    backends = {"gloo": "cpu:gloo"}
    if torch.cuda.device_count() >= 2:
        backends["nccl"] = "cuda:nccl"
    # fork saves importing torch in both ranks; CUDA needs spawn.
    method = "spawn" if "nccl" in backends else "fork"
    torch.multiprocessing.start_processes(_rank, args=(backends,), nprocs=2, start_method=method)


if __name__ == "__main__":
    main()
