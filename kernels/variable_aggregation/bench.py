"""Front end (pixels -> z, maps and output projection included): absorbed against textbook, time and saved bytes.

Run `python -m climax_hpc.kernels.variable_aggregation.bench`; float32, forward and backward, median of the runs.
On a machine shared with other work set OMP_NUM_THREADS=1 and give `--cpu-time`: processor time, not the clock's.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from climax_hpc.kernels.testing import relative_error
from climax_hpc.kernels.variable_aggregation.op import aggregate_variables, build_maps
from climax_hpc.kernels.variable_aggregation.reference import tokenise_and_aggregate

# B, V, H, W, p, D, N: the demo's model, ClimaX at 5.625°, ClimaX at 1.40625°
CASES = [(8, 13, 32, 64, 4, 128, 4), (2, 48, 32, 64, 2, 1024, 16), (1, 48, 128, 256, 4, 1024, 16)]
SECONDS_PER_FORM = 5.0
CPU_TIME = "--cpu-time" in sys.argv
clock = time.process_time if CPU_TIME else time.perf_counter


def absorbed(x_BVHW: Tensor, parameters: list[Tensor], heads: int) -> Tensor:
    """Front end without tokens."""
    weight, bias, embed, query, in_weight, in_bias, out_weight, out_bias = parameters
    maps = build_maps(weight, bias, embed, query, in_weight, in_bias, heads)
    return F.linear(aggregate_variables(x_BVHW, *maps, weight.shape[-1]), out_weight, out_bias)


def textbook(x_BVHW: Tensor, parameters: list[Tensor], heads: int) -> Tensor:
    """Front end as in the released ClimaX."""
    weight, bias, embed, query, in_weight, in_bias, out_weight, out_bias = parameters
    return tokenise_and_aggregate(x_BVHW, weight, bias, embed, query, in_weight, in_bias, out_weight, out_bias, heads)


def measure(front_end: Callable[..., Tensor], x_BVHW: Tensor, parameters: list[Tensor], heads: int) -> tuple:
    """Output with gradients, median seconds, and bytes of distinct storages saved for backward, parameters excluded."""
    saved: dict[int, int] = {}
    own = {t.untyped_storage().data_ptr() for t in parameters}

    def record(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(record, lambda t: t):
        z_BLD = front_end(x_BVHW, parameters, heads)
    probe = torch.randn(z_BLD.shape, generator=torch.Generator().manual_seed(1))
    results = [z_BLD, *torch.autograd.grad(z_BLD, parameters, probe)]
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < SECONDS_PER_FORM:
        start = clock()
        torch.autograd.grad(front_end(x_BVHW, parameters, heads), parameters, probe)
        seconds.append(clock() - start)
    return results, statistics.median(seconds), sum(saved.values())


def main() -> None:
    """Print the table, one row per case."""
    kind = "processor time" if CPU_TIME else "wall-clock time"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {kind}")
    print("| B, V, H×W, p, D, N | textbook | absorbed | ratio | saved textbook | saved absorbed | worst error |")
    print("|---|---|---|---|---|---|---|")
    for B, V, H, W, p, D, N in CASES:
        torch.manual_seed(0)
        shapes = [(V, D, p, p), (V, D), (V, D), (D,), (3 * D, D), (3 * D,), (D, D), (D,)]
        parameters = [(torch.randn(s) * s[-1] ** -0.5).requires_grad_() for s in shapes]
        x_BVHW = torch.randn(B, V, H, W)
        ours, ours_s, ours_bytes = measure(absorbed, x_BVHW, parameters, N)
        theirs, theirs_s, theirs_bytes = measure(textbook, x_BVHW, parameters, N)
        worst = max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))
        if not worst < 1e-4:  # two float32 forms, each within about 1e-5 of the truth
            raise SystemExit(f"the two forms differ by {worst:.1e}; no timing is shown for a wrong result")
        print(
            f"| {B}, {V}, {H}×{W}, {p}, {D}, {N} | {theirs_s * 1e3:.1f} ms | {ours_s * 1e3:.1f} ms "
            f"| {theirs_s / ours_s:.1f} | {theirs_bytes / 2**20:.0f} MiB | {ours_bytes / 2**20:.0f} MiB | {worst:.0e} |"
        )


if __name__ == "__main__":
    main()
