"""Compiles every Triton kernel in every tuned configuration for every target, without a GPU; reads the machine code.

    python -m climax_hpc.kernels.aot [--targets sm_90 gfx942] [--kernels loss verification] [--typical] [--jobs 2]

prints a table of registers, memory and instructions; exit status 1 if a kernel spills registers, asks for more shared
or tensor memory than the target has, lacks matrix instructions where it multiplies matrices, spends more instructions
on each of them than its budget allows, or holds a global atomic (sums would lose their order). `--typical` takes only
the bfloat16 configurations of a 1024-wide model with 16 heads and 4×4 patches. Instructions for NVIDIA are counted with
the disassembler that comes with Triton, those for AMD in the compiler's assembly.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.kernels.devices import TARGETS
from climax_hpc.kernels.dispatch import interpreting
from climax_hpc.kernels.machine_code import KernelUsage, disassemblers, read_amd, read_nvidia

KERNELS = (
    "pack", "unpack", "weights", "values", "dweights", "dmaps", "dx", "loss", "crps", "crps_gradient", "verification",
)  # fmt: skip
POINTEE = {"code": "i8"} | dict.fromkeys(
    (
        "S0",
        "plain_S",
        "bias",
        "lse",
        "scale",
        "dM",
        "dS",
        "y",
        "weight",
        "coefficient",
        "numerator",
        "denominator",
        "sums",
    ),
    "fp32",
)
"""Pointers of a fixed type; all others point to the type of the image or of the head output."""
POINTERS = {
    *POINTEE,
    "x",
    "packed",
    "S",
    "M",
    "o",
    "do",
    "a",
    "ds",
    "dpacked",
    "dx",
    "h",
    "dh",
    "forecast",
    "truth",
    "climatology",
}
ALIGNED = {*POINTERS, "R", "W", "HW"}
"""Arguments that are multiples of 16 in practice, which the launcher's compiler notices."""


BUDGETS = {("values", "sm_90"): 35.0, ("dweights", "sm_90"): 45.0}
"""Most instructions per matrix instruction, of 16-bit kernels with heads of 64 and patches of 2×2 and more.

An H100 issues about 32 instructions in the time of one HGMMA.64x64x16.
"""


@dataclass(frozen=True)
class Case:
    """One kernel in one configuration."""

    operation: str
    """Folder of the kernel."""
    kernel: str
    """Name without `_kernel`."""
    dtype: str
    """Triton's name of the element type of images and products."""
    label: str
    """Head width and patch edge, for the table."""
    constants: dict[str, Any] = field(hash=False)
    """Compile-time arguments, `num_warps` and `num_stages`."""

    @property
    def multiplies(self) -> bool:
        return "PRECISION" in self.constants

    def budget(self, target: str) -> float:
        """Instructions per matrix instruction that it may spend."""
        usual = self.dtype != "fp32" and self.constants.get("HEAD") == 64 and self.constants.get("P", 0) >= 4
        return BUDGETS.get((self.kernel, target), math.inf) if usual else math.inf


def violations(found: KernelUsage, case: Case, target: str) -> list[str]:
    """Rules that a compiled kernel breaks."""
    broken, limits, budget = [], TARGETS[target], case.budget(target)
    if found.spills:
        broken.append("spills")
    if found.shared > limits.shared_bytes:
        broken.append(f"shared memory over {limits.shared_bytes} bytes")
    if found.tensor_columns > limits.tensor_columns:
        broken.append(f"tensor memory over {limits.tensor_columns} columns")
    if case.multiplies and not found.matrix:
        broken.append("no matrix instructions")
    if found.per_matrix > budget:
        broken.append(f"over {budget:g} instructions per matrix instruction")
    if found.atomics:
        broken.append("global atomics")
    return broken


def cases(target: str, typical: bool = False) -> Iterator[Case]:
    """Every kernel × every tuned configuration for one target."""
    yield from aggregation_cases(target, typical)
    yield from loss_cases(typical)
    yield from crps_cases(typical)
    yield from verification_cases(typical)


def aggregation_cases(target: str, typical: bool) -> Iterator[Case]:
    from climax_hpc.kernels.variable_aggregation.tiles import Problem, constants

    sizes = [("bf16", 64, 4)]
    if not typical:
        sizes += [("fp16", 64, 4), *product(("bf16", "fp32"), (64, 16, 32, 128), (4, 1, 2, 8, 16))]
        sizes += product(("bf16", "fp32"), (24, 96), (4,))  # heads narrower than their padding
    seen = set()
    for (dtype, head, p), kernel in product(sizes, KERNELS[:7]):
        size = Problem(B=16, V=48, H=128, W=256, p=p, N=1024 // head, K=head)
        options = constants(kernel, size, 4 if dtype == "fp32" else 2, target)
        # Where the patch edge is no compile-time constant, of equal tiles and head widths one stands for all edges.
        names = ("p", "P", "HEAD", "BLOCK", "PLANES", "num_warps")
        identity = (kernel, dtype, *(options.get(name) for name in names))
        if identity not in seen:
            seen.add(identity)
            label = f"p={p}" if "HEAD" not in options else f"K={head} p={p}"
            if kernel == "weights":
                yield Case("variable_aggregation", kernel, dtype, label, options | {"KNOWN": False})
                label, options = f"{label} backward", options | {"KNOWN": True}
            elif kernel == "dmaps":
                options = options | {"ADD": True}
            yield Case("variable_aggregation", kernel, dtype, label, options)


def loss_cases(typical: bool) -> Iterator[Case]:
    from climax_hpc.kernels.lat_weighted_loss.launch_triton import constants

    choices = [("bf16", 4, "mse", True, True)]
    if not typical:
        choices += [(dtype, p, "huber", True, True) for dtype, p in product(("bf16", "fp32"), (1, 2, 4, 8, 16))]
        choices += [("bf16", 4, kind, *flags) for kind in ("mse", "mae") for flags in ((True, False), (False, True))]
    for dtype, p, kind, sums, gradient in choices:
        label = f"p={p} {kind}{' sums' * sums}{' gradient' * gradient}"
        yield Case("lat_weighted_loss", "loss", dtype, label, constants(p, kind, sums, gradient))
    if not typical:
        for dtype, flags in product(("bf16", "fp32"), ((True, False), (False, True))):
            label = f"fields mse{' sums' * flags[0]}{' gradient' * flags[1]}"
            yield Case("lat_weighted_loss", "loss", dtype, label, constants(1, "mse", *flags, fields=True))


def crps_cases(typical: bool) -> Iterator[Case]:
    from climax_hpc.kernels.ensemble_crps.launch_triton import constants, gradient_constants

    choices = [("bf16", 8, 4, True, False)]
    if not typical:
        choices += [(dtype, 8, p, True, False) for dtype, p in product(("bf16", "fp32"), (1, 2, 8, 16))]
        choices += [(dtype, M, 4, True, False) for dtype, M in product(("bf16", "fp32"), (1, 2, 5, 16, 32))]
        choices += [("fp16", 8, 4, True, False), ("fp32", 8, 4, False, False)]
        choices += [(dtype, 8, 1, True, True) for dtype in ("bf16", "fp32")]
    for dtype, M, p, codes, fields in choices:
        label = f"M={M} {'fields' if fields else f'p={p}'}"
        options = constants(M, p, codes, fields)
        yield Case("ensemble_crps", "crps", dtype, label + " without codes" * (not codes), options)
        if codes:
            yield Case("ensemble_crps", "crps_gradient", dtype, label, gradient_constants(M, p, fields))


def verification_cases(typical: bool) -> Iterator[Case]:
    from climax_hpc.kernels.verification_sums.launch_triton import constants

    for dtype, climatology in product(("fp32",) if typical else ("fp32", "bf16", "fp16"), (True, False)):
        label = "with climatology" if climatology else "without climatology"
        yield Case("verification_sums", "verification", dtype, label, constants(climatology))


def compile_case(case: Case, target: str) -> KernelUsage:
    """Compiles one case for one target and reads its machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module = import_module(f"climax_hpc.kernels.{case.operation}.kernels")
    function = getattr(module, f"{case.kernel}_kernel")
    options = {name: case.constants[name] for name in ("num_warps", "num_stages")}
    constants = {name: value for name, value in case.constants.items() if name not in options}
    signature = {name: "constexpr" if name in constants else _type(name, case.dtype) for name in function.arg_names}
    aligned = [i for i, name in enumerate(function.arg_names) if name in ALIGNED and name not in constants]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    amd = target.startswith("gfx")
    backend, architecture = ("hip", target) if amd else ("cuda", int(target.removeprefix("sm_")))
    gpu = GPUTarget(backend, architecture, TARGETS[target].warp)
    compiled = triton.compile(source, target=gpu, options=options)
    return read_amd(compiled) if amd else read_nvidia(compiled)


def _type(argument: str, dtype: str) -> str:
    if argument == "a":
        return "*fp32" if dtype == "fp32" else "*fp16"
    if argument in POINTERS:
        return "*" + POINTEE.get(argument, dtype)
    return "fp32" if argument in ("delta", "pair_weight") else "i32"


def run(task: tuple[Case, str]) -> tuple[str, bool]:
    """Table row of one case on one target, and whether it keeps every rule."""
    case, target = task
    shape = "×".join(str(case.constants[name]) for name in ("BLOCK", "PLANES") if name in case.constants)
    start = f"| {case.kernel} | {case.dtype} | {case.label} | {shape}, {case.constants['num_warps']} | {target} |"
    try:
        found = compile_case(case, target)
    except Exception as error:  # whatever a compiler raises is a row of the table, not the end of it
        return f"{start} {type(error).__name__}: {str(error)[:200]!r} |", False
    matrix = ", ".join(f"{count} {name}" for name, count in found.matrix.items()) or "-"
    broken = violations(found, case, target)
    per_matrix = f"{found.per_matrix:.1f}" if found.matrix else "-"
    numbers = f"{found.registers} | {found.spills} | {found.shared} | {found.tensor_columns} | {matrix} | {per_matrix}"
    return f"{start} {numbers} | {'; '.join(broken) or 'ok'} |", not broken


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m climax_hpc.kernels.aot", description=__doc__.split("\n")[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=tuple(TARGETS))
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--typical", action="store_true", help="only bfloat16, head width 64, 4×4 patches")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    if interpreting():
        parser.error("TRITON_INTERPRET is set: kernels would be interpreted, not compiled; unset it")
    if any(target.startswith("sm_") for target in options.targets):
        try:
            disassemblers()
        except UserError as error:
            parser.error(str(error))
    tasks = [
        (case, target)
        for target in options.targets
        for case in cases(target, options.typical)
        if case.kernel in options.kernels
    ]
    print("| kernel | type | sizes | tile, warps | target | registers | spills | shared bytes | tensor columns "
          "| matrix instructions | instructions per matrix instruction | verdict |\n" + "|---" * 12 + "|")  # fmt: skip
    failed = 0
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for row, clean in pool.map(run, tasks):
            print(row, flush=True)
            failed += not clean
    print(f"\n{len(tasks)} compiled, {failed} violate a rule")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
