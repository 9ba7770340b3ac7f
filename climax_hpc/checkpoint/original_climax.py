"""Reads the released ClimaX checkpoints (Lightning files) as weights and model config of this project.

The files do not contain: the number of heads (argument; 16 in all released models), the grid (argument; else twice as
wide as high, as in all released models), the normalisation (`tools/convert.py`), dropout rates (the defaults of
ModelConfig, which are ClimaX's). Their names start with `net.`; older files have `channel_` for `var_`. A climate
projection has parameters for time, and one linear layer to all cells of one variable (argument: which).

Dimensions: A variables · D embedding · p patch edge · L patches · T years.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from climax_hpc.errors import UserError
from climax_hpc.fields.variables import CLIMAX_48, channels_of, lookup, registry_name
from climax_hpc.model import build_network
from climax_hpc.model.config import ModelConfig
from climax_hpc.utils.system_errors import refuse_system_error

_RENAMED = {
    "var_embed": "aggregator.var_embed",
    "var_query": "aggregator.query",
    "var_agg.in_proj_weight": "aggregator.in_proj_weight",
    "var_agg.in_proj_bias": "aggregator.in_proj_bias",
    "var_agg.out_proj.weight": "aggregator.out_proj_weight",
    "var_agg.out_proj.bias": "aggregator.out_proj_bias",
}
_PROJECTION_RENAMED = {
    "time_pos_embed": "time_embed",
    "time_query": "time_aggregator.query",
    "time_agg.out_proj.weight": "time_aggregator.proj.weight",
    "time_agg.out_proj.bias": "time_aggregator.proj.bias",
    "head.weight": "projection_head.weight",
    "head.bias": "projection_head.bias",
}
_PROJECTION_INPUTS = ("CO2", "SO2", "CH4", "BC")  # in the order of ClimaX's config
_ALONE, _PARALLEL = re.compile(r"token_embeds\.(\d+)\.proj\.(weight|bias)"), "token_embeds.proj_{}"


@dataclass(frozen=True, kw_only=True)
class OriginalModelInfo:
    """Properties of an original model that its file does not contain."""

    variables: Sequence[str] | None = None
    """Registry names in the order of the file (`lattitude` and ClimateBench's names are understood). None: ClimaX's 48,
    or the four forcings of ClimateBench for a climate projection."""
    heads: int = 16
    """Attention heads (ClimaX, table 6)."""
    grid: tuple[int, int] | None = None
    """Rows and columns; twice as wide as high where None."""
    projected: str | None = None
    """Variable that a climate projection predicts, by registry name or as ClimaX names it (`tas`)."""


def read_original(path: Path, described: OriginalModelInfo) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Model config and state dict from a Lightning checkpoint or a plain state dict of the released ClimaX.

    Raises:
        UserError: another kind of file, one that would run code, or keys missing, unexpected or of a wrong shape.
    """
    found = _strip(_state_dict(path), path)
    weight_ADpp, bias_AD = _patch_embedding(found, path)
    for key in ("var_embed", "pos_embed", "blocks.0.mlp.fc1.weight"):
        if key not in found or found[key].ndim < 2:
            raise UserError(f"{path}: has no matrix {key}: it is not a complete ClimaX model")
    projection = "time_query" in found
    if projection:
        _split_attention(found, path)
    config = _config(found, weight_ADpp, described, path)
    renamed = _RENAMED | (_PROJECTION_RENAMED if projection else {})
    weights = {renamed.get(name, name): tensor.float() for name, tensor in found.items()}
    weights |= {"aggregator.patch_weight": weight_ADpp.float(), "aggregator.patch_bias": bias_AD.float()}
    for name in ("aggregator.var_embed", "aggregator.query", "time_embed", "time_aggregator.query"):
        if name in weights:
            weights[name] = weights[name].reshape(weights[name].shape[-2:] if name.endswith("embed") else -1)
    return config, _checked(weights, config, path, {ours: theirs for theirs, ours in renamed.items()})


def _split_attention(found: dict[str, Tensor], path: Path) -> None:
    """Replace the joint projection of the attention over years by ours: queries, keys with values."""
    for part in ("weight", "bias"):
        joint = found.pop(f"time_agg.in_proj_{part}", None)
        if joint is None or len(joint) % 3:
            raise UserError(f"{path}: time_agg.in_proj_{part} is missing or no threefold: not a ClimaX projection")
        third = len(joint) // 3
        found[f"time_aggregator.q.{part}"], found[f"time_aggregator.kv.{part}"] = joint[:third], joint[third:]


def _state_dict(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        refuse_system_error(error, path)
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} cannot be read as a PyTorch file of tensors ({reason}): give an original ClimaX checkpoint; if it "
            "contains other objects and you trust it, save its state_dict to a separate file"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} contains no state_dict: give a Lightning checkpoint of ClimaX or a state dict")
    return content


def _strip(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Tensors by name, without `net.` and with the older spelling replaced."""
    found: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{path}: {name} is a {type(value).__name__}, not a tensor: this is not a state dict of ClimaX"
            )
        found[str(name).removeprefix("net.").replace("channel_", "var_")] = value
    return found


def _patch_embedding(found: dict[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    """Remove the patch embedding, in either form, from `found`; returns weight_ADpp and bias_AD."""
    parts: dict[str, list[tuple[int, Tensor]]] = {"weight": [], "bias": []}
    for name in [name for name in found if _ALONE.fullmatch(name)]:
        number, part = re.findall(_ALONE, name)[0]
        parts[part].append((int(number), found.pop(name)))
    stacked = {}
    for part, whole in (("weight", "weights"), ("bias", "biases")):
        numbered = sorted(parts[part], key=lambda pair: pair[0])
        name = _PARALLEL.format(whole)
        if bool(numbered) == (name in found):
            raise UserError(
                f"{path}: contains {'both' if numbered else 'neither'} token_embeds.*.proj.{part} "
                f"{'and' if numbered else 'nor'} {name}: exactly one form of the patch embedding is expected"
            )
        missing = sorted(set(range(len(numbered))) - {i for i, _ in numbered})
        if missing or len({t.shape for _, t in numbered}) > 1:
            what = f"token_embeds.{missing[0]}.proj.{part} is missing" if missing else "shapes differ among variables"
            raise UserError(f"{path}: token_embeds: {what}")
        stacked[part] = torch.stack([t for _, t in numbered]) if numbered else found.pop(name)
    weight_AD1pp, bias_AD = stacked["weight"], stacked["bias"]
    if weight_AD1pp.ndim != 5 or weight_AD1pp.shape[2] != 1 or bias_AD.shape != weight_AD1pp.shape[:2]:
        raise UserError(
            f"{path}: token_embeds have shapes {tuple(weight_AD1pp.shape)} and {tuple(bias_AD.shape)}, "
            "not (variables, D, 1, p, p) and (variables, D)"
        )
    return weight_AD1pp.squeeze(2), bias_AD


def _config(found: Mapping[str, Tensor], weight_ADpp: Tensor, described: OriginalModelInfo, path: Path) -> ModelConfig:
    A, D, p = weight_ADpp.shape[:3]
    projected = _projected(found, described, path)
    usual = _PROJECTION_INPUTS if projected else tuple(v.name for v in CLIMAX_48)
    names = [registry_name(n) for n in described.variables or usual]
    if len(names) != A:
        raise UserError(
            f"{path}: has {A} variables, but {len(names)} names "
            f"{'are given' if described.variables else 'of ClimaX are assumed'}: give the names in the file's order "
            "with --variables"
        )
    L = found["pos_embed"].shape[-2]
    rows = round((L / 2) ** 0.5)
    grid = described.grid or (rows * p, 2 * rows * p)
    if grid[0] % p or grid[1] % p or (grid[0] // p) * (grid[1] // p) != L:
        raise UserError(
            f"{path}: has {L} patches of {p}×{p} cells, a grid of {grid[0]}×{grid[1]} has another number: "
            "give the file's grid with --original_height and --original_width"
        )
    depth = 1 + max(int(name.split(".")[1]) for name in found if re.match(r"blocks\.\d+\.", name))
    head = [int(name.split(".")[1]) for name in found if re.match(r"head\.\d+\.weight", name)]
    return ModelConfig(
        variables=tuple(names), height=grid[0], width=grid[1], patch=p, embed_dim=D, depth=depth,
        init="climax", heads=described.heads, mlp_ratio=found["blocks.0.mlp.fc1.weight"].shape[0] / D,
        decoder_depth=max(head, default=0) // 2, projected=projected,
        years=found["time_pos_embed"].shape[-2] if projected else 0,
    )  # fmt: skip


def _projected(found: Mapping[str, Tensor], described: OriginalModelInfo, path: Path) -> tuple[str, ...]:
    """The variable that a climate projection predicts; none for a forecast model.

    Raises:
        UserError: it is not named, or is named although the file is a forecast model.
    """
    if "time_query" not in found:
        if described.projected:
            raise UserError(f"projected: {path} is a forecast model, not a climate projection; leave it out")
        return ()
    if "time_pos_embed" not in found or found["time_pos_embed"].ndim < 2:
        raise UserError(f"{path}: has no matrix time_pos_embed: it is not a complete climate projection")
    if not described.projected:
        raise UserError(
            f"{path} is a climate projection, which does not store the variable that it predicts: give it, for example "
            "--projected tas"
        )
    channels = channels_of(described.projected)
    return (channels[0].name if channels else lookup(described.projected).name,)


def _checked(
    weights: dict[str, Tensor], config: ModelConfig, path: Path, original: Mapping[str, str]
) -> dict[str, Tensor]:
    """The weights, checked against names and shapes of such a ClimaX; `original`: our name -> the file's."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build_network(config).state_dict().items()}
    wrong = [f"{original.get(name, name)} is missing" for name in sorted(expected.keys() - weights.keys())]
    wrong += [f"{original.get(name, name)} is unexpected" for name in sorted(weights.keys() - expected.keys())]
    wrong += [
        f"{original.get(name, name)} has shape {tuple(weights[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{path}: not the weights of a ClimaX: {'; '.join(wrong[:3])}{more}")
    return {name: weights[name].contiguous() for name in expected}
