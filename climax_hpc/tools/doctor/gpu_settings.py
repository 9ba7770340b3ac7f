"""Check of the environment variables of CUDA, ROCm, NCCL and PyTorch that are in force, and what some of them cost."""

import os
import re
from collections.abc import Mapping

from climax_hpc.tools.doctor.check_result import CheckResult, ok, warn

_DEVICES = ("/dev/nvidia0", "/dev/kfd")
_IN_FORCE = re.compile(
    r"(NCCL|TORCH_NCCL|RCCL|HSA)_\w+|(CUDA|HIP|ROCR)_VISIBLE_DEVICES|CUDA_(LAUNCH_BLOCKING|DEVICE_MAX_CONNECTIONS)|"
    r"CUBLAS_WORKSPACE_CONFIG|NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|TORCHINDUCTOR_DETERMINISTIC|"
    r"PYTORCH(_CUDA|_HIP)?_ALLOC_CONF|CLIMAX_HPC_KERNELS"
)
_LONGEST_VALUE = 60
# Variable, values that cost something, and what.
_COSTS = (
    ("CUDA_LAUNCH_BLOCKING", "1", "the host waits for every kernel"),
    ("TORCH_NCCL_BLOCKING_WAIT", "1", "the host waits for every collective"),
    ("NVIDIA_TF32_OVERRIDE", "1", "float32 is rounded to TF32 everywhere"),
    ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1", "float32 is rounded to TF32 in products"),
    ("NCCL_P2P_DISABLE", "1", "GPUs of a node do not reach each other directly"),
    ("NCCL_IB_DISABLE", "1", "NCCL does not use InfiniBand"),
    ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "02", "an error of NCCL does not end the rank, only the heartbeat does"),
)


def apply(environment: Mapping[str, str] = os.environ) -> bool:
    """True where there is a GPU, or a variable is set."""
    return any(map(os.path.exists, _DEVICES)) or bool(_set(environment))


def gpu_settings(environment: Mapping[str, str] = os.environ) -> CheckResult:
    """Names and values of the variables; a warning about those that cost speed, accuracy or safety."""
    found = _set(environment)
    text = ", ".join(f"{name}={value[:_LONGEST_VALUE]}" for name, value in found.items()) or "no variable is set"
    costs = [
        f"{name}={found[name]}: {cost}" for name, values, cost in _COSTS if found.get(name) and found[name] in values
    ]
    if costs:
        return warn(text, f"{'; '.join(costs)}; unset what is not meant")
    return ok(text)


def _set(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in sorted(environment) if _IN_FORCE.fullmatch(name) and environment[name]}
