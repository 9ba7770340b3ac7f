"""A model as one safetensors file: float32 weights, and in its metadata the rest of the checkpoint's metadata.

Metadata: `format`, `format_version`, `about` (JSON: the content of a checkpoint's model.json) and `sha256` over `about`
and every tensor, because safetensors itself does not detect flipped bits. Nothing in the file is executed on loading.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from climax_hpc.errors import UserError
from climax_hpc.utils.atomic import write_atomically
from climax_hpc.utils.system_errors import refuse_system_error

FORMAT, VERSION = "climax_hpc/model", "1"


def write(path: Path, content: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write the file atomically; `content` is `CheckpointMetadata.to_dict()`."""
    text = json.dumps(content, ensure_ascii=False)
    weights = {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}
    metadata = {"format": FORMAT, "format_version": VERSION, "about": text, "sha256": _digest(text, weights)}
    write_atomically(path, lambda temporary: save_file(weights, temporary, metadata))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and weights, verified.

    Raises:
        UserError: not a safetensors file of `climax-hpc convert`, or a damaged one.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        refuse_system_error(error, path)
        raise UserError(
            f"{path} is not a readable safetensors file ({error}): give a file written by `climax-hpc convert`"
        ) from None
    if (metadata.get("format"), metadata.get("format_version")) != (FORMAT, VERSION):
        raise UserError(
            f"{path} is not a {FORMAT} file of version {VERSION}: create one with `climax-hpc convert` from a "
            "checkpoint or an original ClimaX file"
        )
    if metadata.get("sha256") != _digest(metadata.get("about", ""), weights):
        raise UserError(f"{path} differs from its sha256: it was damaged or edited; convert the checkpoint again")
    return json.loads(metadata["about"]), weights


def _digest(about: str, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
