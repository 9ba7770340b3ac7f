"""Two ranks that all-reduce 32 MiB five times; prints {backend: best bytes/s}. Run by `ranks.collectives`."""

import json
import time

import torch
import torch.distributed
import torch.multiprocessing

_NUMEL = 1 << 23


def _rank(rank: int, backends: dict[str, str]) -> None:
    torch.distributed.init_process_group(",".join(backends.values()), rank=rank, world_size=2)
    speeds = {}
    for name, device in {b: backend.split(":")[0] for b, backend in backends.items()}.items():
        x = torch.full((_NUMEL,), float(rank + 1), device=f"cuda:{rank}" if device == "cuda" else "cpu")
        best = float("inf")
        for _ in range(5):
            torch.distributed.barrier()
            start = time.perf_counter()
            torch.distributed.all_reduce(x)
            if device == "cuda":
                torch.cuda.synchronize(rank)
            best = min(best, time.perf_counter() - start)
        expected = 3.0 * 2**4  # the sum of 1 and 2, then doubled four times
        if not bool((x == expected).all()):
            raise SystemExit(f"{name} all-reduce gives {x[0].item()}, expected {expected}")
        speeds[name] = x.nbytes / best
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
