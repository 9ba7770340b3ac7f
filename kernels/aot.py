"""Compiles every Triton kernel in every tuned configuration for every target, without a GPU; reads the machine code.

    python -m climax_hpc.kernels.aot [--targets sm_90 gfx942] [--kernels loss verification] [--typical] [--jobs 2]

prints a table of registers, memory and instructions; exit status 1 if a kernel spills registers, asks for more shared
or tensor memory than the target has, lacks matrix instructions where it multiplies matrices, or holds a global atomic
(sums would lose their order). `--typical` takes only the bfloat16 configurations of a 1024-wide model with 16 heads and
4×4 patches.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from climax_hpc.kernels.devices import TARGETS
from climax_hpc.kernels.dispatch import interpreting

KERNELS = ("pack", "unpack", "forward", "dscore", "dmaps", "dx", "loss", "verification")
POINTEE = {"S": "fp32", "bias": "fp32", "lse": "fp32", "dM": "fp32", "dS": "fp32", "y": "fp32", "weight": "fp32",
           "coefficient": "fp32", "numerator": "fp32", "denominator": "fp32", "sums": "fp32"}  # fmt: skip
"""Pointers of a fixed type; all others point to the type of the image or of the head output."""
POINTERS = {
    *POINTEE,
    "x",
    "packed",
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


@dataclass(frozen=True)
class KernelUsage:
    """What the compiler made of one case."""

    registers: int
    spills: int
    """Spill instructions, stack bytes (NVIDIA); spilled registers, scratch bytes (AMD)."""
    shared: int
    tensor_columns: int
    matrix: dict[str, int]
    """Matrix instructions by name."""
    atomics: int

    def violations(self, case: Case, target: str) -> list[str]:
        found, limits = [], TARGETS[target]
        if self.spills:
            found.append("spills")
        if self.shared > limits.shared_bytes:
            found.append(f"shared memory over {limits.shared_bytes} bytes")
        if self.tensor_columns > limits.tensor_columns:
            found.append(f"tensor memory over {limits.tensor_columns} columns")
        if case.multiplies and not self.matrix:
            found.append("no matrix instructions")
        if self.atomics:
            found.append("global atomics")
        return found


def cases(target: str, typical: bool = False) -> Iterator[Case]:
    """Every kernel × every tuned configuration for one target."""
    yield from aggregation_cases(target.startswith("sm_"), typical)
    yield from loss_cases(typical)
    yield from verification_cases(typical)


def aggregation_cases(nvidia: bool, typical: bool) -> Iterator[Case]:
    from climax_hpc.kernels.variable_aggregation.launch_triton import Problem, constants

    sizes = [("bf16", 64, 4)]
    if not typical:
        sizes += [("fp16", 64, 4), *product(("bf16", "fp32"), (64, 16, 32, 128), (4, 1, 2, 8, 16))]
        sizes += product(("bf16", "fp32"), (24, 96), (4,))  # heads narrower than their padding
    seen = set()
    for (dtype, head, p), kernel in product(sizes, KERNELS[:6]):
        size = Problem(B=16, V=48, H=128, W=256, p=p, N=1024 // head, K=head)
        options = constants(kernel, size, 4 if dtype == "fp32" else 2, nvidia)
        # The number of planes is no compile-time constant: of equal tiles and head widths one stands for all edges.
        identity = (kernel, dtype, *(options.get(name) for name in ("p", "HEAD", "BLOCK", "PLANES", "num_warps")))
        if identity not in seen:
            seen.add(identity)
            label = f"p={p}" if "p" in options else f"K={head} p={p}"
            yield Case(
                "variable_aggregation", kernel, dtype, label, options | ({"ADD": True} if kernel == "dmaps" else {})
            )


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
    return _read_amd(compiled) if amd else _read_nvidia(compiled)


def _type(argument: str, dtype: str) -> str:
    if argument in POINTERS:
        return "*" + POINTEE.get(argument, dtype)
    return "fp32" if argument == "delta" else "i32"


def _read_nvidia(compiled: Any) -> KernelUsage:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([tools / name, option, file.name], capture_output=True, text=True, check=True).stdout
            for name, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    # Registers that do not fit show as a stack and as local loads and stores; LOCAL reads 0 even then.
    spills = _number(r"STACK:(\d+)", usage) + len(re.findall(r"\b(?:STL|LDL)\b", code))
    return KernelUsage(
        registers=_number(r"REG:(\d+)", usage),
        spills=spills,
        shared=compiled.metadata.shared,
        tensor_columns=getattr(compiled.metadata, "tmem_size", 0) or 0,
        matrix=_counts(r"\b(HMMA|HGMMA|UTC\w*MMA)\b", code),
        atomics=len(re.findall(r"\b(?:RED|REDG|ATOM|ATOMG)\b", code)),
    )


def _read_amd(compiled: Any) -> KernelUsage:
    code = compiled.asm["amdgcn"]
    spilled = (r"\.vgpr_spill_count:\s+(\d+)", r"\.sgpr_spill_count:\s+(\d+)", r"\.private_segment_fixed_size:\s+(\d+)")
    return KernelUsage(
        registers=_number(r"\.vgpr_count:\s+(\d+)", code),
        spills=sum(_number(pattern, code) for pattern in spilled),
        shared=compiled.metadata.shared,
        tensor_columns=0,
        matrix=_counts(r"\b(v_mfma)_", code),
        atomics=len(re.findall(r"\b(?:global|buffer|flat)_atomic", code)),
    )


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"no {pattern!r} in the disassembly: the tools of this Triton print another format")
    return int(match.group(1))


def _counts(pattern: str, text: str) -> dict[str, int]:
    names = re.findall(pattern, text)
    return {name: names.count(name) for name in sorted(set(names))}


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
    violations = found.violations(case, target)
    numbers = f"{found.registers} | {found.spills} | {found.shared} | {found.tensor_columns} | {matrix}"
    return f"{start} {numbers} | {'; '.join(violations) or 'ok'} |", not violations


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m climax_hpc.kernels.aot", description=__doc__.split("\n")[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=tuple(TARGETS))
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--typical", action="store_true", help="only bfloat16, head width 64, 4×4 patches")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    if interpreting():
        parser.error("TRITON_INTERPRET is set: kernels would be interpreted, not compiled; unset it")
    tasks = [
        (case, target)
        for target in options.targets
        for case in cases(target, options.typical)
        if case.kernel in options.kernels
    ]
    print("| kernel | type | sizes | tile, warps | target | registers | spills | shared bytes | tensor columns "
          "| matrix instructions | verdict |\n" + "|---" * 11 + "|")  # fmt: skip
    failed = 0
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for row, clean in pool.map(run, tasks):
            print(row, flush=True)
            failed += not clean
    print(f"\n{len(tasks)} compiled, {failed} violate a rule")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
