"""Checks of the software: Python, packages, torch and its devices, DeepSpeed, Triton."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

from climax_hpc.tools.doctor.check_result import CheckResult, fail, last_line, ok, output_of, warn

_DEEPSPEED = "from climax_hpc.training.deepspeed_engine import import_deepspeed; print(import_deepspeed().__version__)"
_TRITON_OWNERS = ("triton", "pytorch-triton-rocm", "pytorch-triton", "triton-rocm", "pytorch-triton-xpu")
_TRITON = (
    "import triton; from climax_hpc.kernels import aot\n"
    "case = next(case for case in aot.loss_cases(typical=True))\n"
    "for target in ('sm_90', 'gfx942'): aot.compile_case(case, target)\n"
    "print(triton.__version__)"
)


def python() -> CheckResult:
    """Version and environment of Python; pip has already refused versions that are too old."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.prefix == sys.base_prefix:
        return warn(
            f"{version}, {sys.prefix}, no virtual environment",
            "use one, so that package versions do not conflict: python3 -m venv .venv",
        )
    return ok(f"{version}, {sys.prefix}")


def packages() -> CheckResult:
    """Every declared dependency is installed in an allowed version."""
    needed = [Requirement(text) for text in importlib.metadata.requires("climax_hpc") or []]
    needed = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = []
    for requirement in needed:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} ({requirement.specifier} needed)")
    if wrong:
        return fail(
            ", ".join(wrong),
            "pip install . in the checkout of climax_hpc, or make setup for the versions that were tested together",
        )
    return ok(f"{len(needed)} dependencies as declared")


def devices() -> CheckResult:
    """torch, and the devices that it can use."""
    import torch

    version = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        x = torch.ones(64, 64, device="cuda")
        if (x @ x).sum().item() != 64**3:
            return fail(
                f"{version}: {names[0].name} gives a wrong matrix product",
                "report it to the site: the GPU or its driver is broken",
            )
        return ok(f"{version}, {len(names)} × {names[0].name}, {names[0].total_memory / 1e9:.0f} GB each")
    present = [path for path in ("/dev/nvidia0", "/dev/kfd") if os.path.exists(path)]
    if present:
        return fail(
            f"{version} sees no GPU, but {present[0]} exists",
            "install the torch build for the driver's CUDA or ROCm version, or check CUDA_VISIBLE_DEVICES",
        )
    return warn(
        f"{version}, no GPU, {len(os.sched_getaffinity(0))} processor cores",
        "enough for packing, tests and the demo; train larger models on a node with GPUs",
    )


def deepspeed(limit: float) -> CheckResult:
    """DeepSpeed can be imported and finds ninja."""
    status, text = output_of([sys.executable, "-c", _DEEPSPEED], limit)
    if status != 0:
        return _failed("import deepspeed", status, text, "pip install --force-reinstall deepspeed")
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    if shutil.which("ninja", path=path) is None:
        return warn(
            "no ninja on PATH, which DeepSpeed needs",
            "activate the environment, or pip install ninja",
        )
    return ok(text.strip().splitlines()[0] if text.strip() else "imports")


def triton(limit: float) -> CheckResult:
    """A kernel compiles for an NVIDIA and an AMD GPU with an empty cache; this needs no GPU."""
    owners = [name for name in _TRITON_OWNERS if _is_installed(name)]
    if len(owners) > 1:
        return fail(
            f"{' and '.join(owners)} own the same folder: one has overwritten parts of the other",
            "pip uninstall triton, then install torch again with --force-reinstall: its own build belongs to it",
        )
    if not owners and importlib.util.find_spec("triton") is None:
        return warn(
            "not installed",
            "torch for CUDA and ROCm brings it; on CPUs only tests of the kernels need it: pip install triton",
        )
    with tempfile.TemporaryDirectory(prefix="climax-hpc-doctor-") as cache:
        environment = os.environ | {"TRITON_CACHE_DIR": cache, "TRITON_INTERPRET": "0"}
        status, text = output_of([sys.executable, "-c", _TRITON], limit, environment)
    if status != 0:
        return _failed(
            "compiling a kernel", status, text,
            "pip install --force-reinstall triton; without it, CLIMAX_HPC_KERNELS=torch uses PyTorch code",
        )  # fmt: skip
    return ok(f"{text.strip().splitlines()[0]}: a kernel compiles for sm_90 and gfx942")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _failed(what: str, status: int | None, text: str, fix: str) -> CheckResult:
    if status is None:
        return fail(f"{what}: no result in time", fix)
    return fail(f"{what}: {last_line(text)}", fix)
