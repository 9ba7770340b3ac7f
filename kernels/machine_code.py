"""Reads what the compiler made of a kernel: registers, memory, matrix instructions, instructions spent on each."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError

LABEL = re.compile(r"\s*(\.L\w+):")
INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(.*?);|\s+((?:[sv]|ds|buffer|global|flat|scratch)_\w+.*)")
"""A line of nvdisasm, or of AMD's assembly."""
BRANCH = re.compile(r"\b(?:BRA|s_c?branch)\w*\b.*?(\.L\w+)")
MATRIX = re.compile(r"(?:@!?U?P\w+\s+)?(HMMA|HGMMA|UTC\w*MMA|v_mfma)")


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
    per_matrix: float
    """Instructions per matrix instruction, in the loop that holds most of these."""
    atomics: int


def read_nvidia(compiled: Any) -> KernelUsage:
    """Usage of a kernel compiled for an NVIDIA GPU.

    Raises:
        UserError: a disassembler is missing.
    """
    tools = disassemblers()
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([tools[name], option, file.name], capture_output=True, text=True, check=True).stdout
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
        per_matrix=instructions_per_matrix(code),
        atomics=len(re.findall(r"\b(?:RED|REDG|ATOM|ATOMG)\b", code)),
    )


def disassemblers() -> dict[str, str]:
    """Paths of NVIDIA's tools by name: from the environment, beside Triton or on PATH.

    Raises:
        UserError: one is missing.
    """
    import triton

    beside_triton = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    paths = {}
    for name in ("cuobjdump", "nvdisasm"):
        variable = f"TRITON_{name.upper()}_PATH"
        path = shutil.which(os.environ.get(variable) or beside_triton / name) or shutil.which(name)
        if path is None:
            raise UserError(
                f"{name}: found neither beside Triton in {beside_triton} nor on PATH, so machine code for NVIDIA "
                f"cannot be read; install Triton from PyPI, set {variable}, or take --targets gfx90a gfx942"
            )
        paths[name] = path
    return paths


def read_amd(compiled: Any) -> KernelUsage:
    """Usage of a kernel compiled for an AMD GPU."""
    code = compiled.asm["amdgcn"]
    spilled = (r"\.vgpr_spill_count:\s+(\d+)", r"\.sgpr_spill_count:\s+(\d+)", r"\.private_segment_fixed_size:\s+(\d+)")
    return KernelUsage(
        registers=_number(r"\.vgpr_count:\s+(\d+)", code),
        spills=sum(_number(pattern, code) for pattern in spilled),
        shared=compiled.metadata.shared,
        tensor_columns=0,
        matrix=_counts(r"\b(v_mfma)_", code),
        per_matrix=instructions_per_matrix(code),
        atomics=len(re.findall(r"\b(?:global|buffer|flat)_atomic", code)),
    )


def instructions_per_matrix(code: str) -> float:
    """Instructions per matrix instruction in the innermost loop with most of these, or in code without loops; 0 of 0.

    Args:
        code: as nvdisasm prints machine code, or AMD's assembly.
    """
    labels: dict[str, int] = {}
    lines: list[str] = []
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(lines)
        elif found := INSTRUCTION.match(line):
            lines.append(found[1] or found[2])
    spans = {(0, len(lines))}
    for end, line in enumerate(lines, 1):
        branch = BRANCH.search(line)
        if branch and labels.get(branch[1], end) < end:
            spans.add((labels[branch[1]], end))
    counts = {span: sum(bool(MATRIX.match(line)) for line in lines[slice(*span)]) for span in spans}
    within = lambda inner, outer: inner != outer and inner[0] >= outer[0] and inner[1] <= outer[1]  # noqa: E731
    innermost = [span for span in spans if counts[span] and not any(counts[s] and within(s, span) for s in spans)]
    start, end = max(innermost, key=lambda span: (counts[span], span), default=(0, 0))
    return (end - start) / counts[start, end] if innermost else 0.0


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"no {pattern!r} in the disassembly: the tools of this Triton print another format")
    return int(match.group(1))


def _counts(pattern: str, text: str) -> dict[str, int]:
    names = re.findall(pattern, text)
    return {name: names.count(name) for name in sorted(set(names))}
