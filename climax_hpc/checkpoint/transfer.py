"""Transfers the weights of a checkpoint to a model with other variables, another grid, patch or output mode.

Weights of a variable (patch weights, embedding, rows of the last layer, pairs of `input_skip`) are matched by name, the
position embedding is interpolated (`conv` blocks have none), those of the patch's pixels are resized, everything else
is copied. A variable that the checkpoint lacks is initialised as in a new model, with the checkpoint's `init`, so that
its tokens are as large as the others were, and the sin-cos embedding of an index that no variable of the checkpoint
had: a shared one would make the two identical.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.checkpoint.patch_size import resize_last_layer, resize_patch_weight
from climax_hpc.checkpoint.regional import POSITIONS, domain_of
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.model import build_network
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.positions import EMBEDDING_SCALE, resize_positions, sincos_1d

# Settings that may differ from the checkpoint: they change no weight's shape or meaning.
_WITHOUT_WEIGHTS = ("dropout", "drop_path", "activation_checkpointing", "init")
# Settings that may differ with transfer: true.
_TRANSFERABLE = ("variables", "height", "width", "patch", "output_mode")
INPUT_SKIP = "input_skip.weight"
PER_VARIABLE = ("aggregator.patch_weight", "aggregator.patch_bias", "aggregator.var_embed")


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What a transfer takes from the checkpoint and what it initialises: transfer.json of the run folder."""

    checkpoint: str
    kept_variables: list[str]
    """Patch weights, embedding and rows of the last layer come from the checkpoint."""
    new_variables: list[str]
    """Variables whose weights are initialised."""
    dropped_variables: list[str]
    """Variables of the checkpoint that the model does not have."""
    grid: list[list[int]] | None
    """(rows, columns) of the checkpoint's grid and of the model's, if positions were interpolated between them."""
    output_mode: list[str] | None
    """Output modes of checkpoint and model, if they differ: last layer and normalisation are initialised."""
    parameters_kept: int
    parameters_new: int
    anew: str | None = None
    """Description of what else is initialised."""
    patch: list[int] | None = None
    """Patch edges of checkpoint and model, if they differ: patch weights and last layer were resized."""

    def lines(self) -> list[str]:
        """Human-readable lines."""
        known = [f"{len(self.kept_variables)} variables kept"]
        known += [f"{len(self.new_variables)} new ({', '.join(self.new_variables)})"] if self.new_variables else []
        known += [f"{len(self.dropped_variables)} dropped"] if self.dropped_variables else []
        found = ["; ".join(known)]
        if self.grid:
            there, here = ("×".join(map(str, size)) for size in self.grid)
            found.append(f"positions interpolated from the grid {there} to {here}")
        if self.output_mode:
            found.append(f"output mode {' -> '.join(self.output_mode)}: last layer and normalisation are new")
        if self.patch:
            found.append(f"patch edge {' -> '.join(map(str, self.patch))}: patch weights and last layer are resized")
        found += [self.anew] if self.anew else []
        found.append(f"{self.parameters_kept} parameters from the checkpoint, {self.parameters_new} new")
        return found


def announce(start: Checkpoint) -> None:
    """Print the report of a transfer on rank 0; nothing if the checkpoint was not transferred."""
    if start.transferred and process_group.detect().rank == 0:
        print("\n".join(f"transfer: {line}" for line in TransferReport(**start.transferred).lines()), flush=True)


def differing(start: Checkpoint, model: ModelConfig, allowed: Sequence[str] = ()) -> list[str]:
    """Settings that differ from the checkpoint's and affect the weights, except those `allowed`."""
    there, here = asdict(start.metadata.config), asdict(model)
    return [key for key in here if here[key] != there[key] and key not in (*_WITHOUT_WEIGHTS, *allowed)]


def check_same_model(start: Checkpoint, model: ModelConfig) -> None:
    """Check that the checkpoint's weights fit the configured model.

    Raises:
        UserError: names the settings that differ, with both values of the first.
    """
    if keys := differing(start, model):
        option = "add transfer: true to take over what fits, or " if keys[0] in _TRANSFERABLE else ""
        raise _refusal(start, model, keys, option)


def _refusal(start: Checkpoint, model: ModelConfig, keys: Sequence[str], option: str = "") -> UserError:
    key, *others = keys
    also = f"; other values than there: {', '.join(f'model.{other}' for other in others)}" if others else ""
    return UserError(
        f"checkpoint {start.path} has {key} = {getattr(start.metadata.config, key)}, "
        f"the config says model.{key} = {getattr(model, key)}: set model.{key} as in the checkpoint, {option}"
        f"{'' if option else 'or '}train from scratch with checkpoint: null{also}"
    )


def transfer(start: Checkpoint, model: ModelConfig, seed: int) -> Checkpoint:
    """The checkpoint converted to the configured model, with a report; `seed` is for the new weights.

    Raises:
        UserError: another kind or size of network, no variable in common, or a regional model.
    """
    if domain := domain_of(start):
        raise UserError(
            f"transfer: checkpoint {start.path} is regional ({domain.region.name}) and has no position embeddings for "
            "the rest of the globe; transfer the global checkpoint"
        )
    if fixed := differing(start, model, _TRANSFERABLE):
        raise _refusal(start, model, fixed)
    old = start.metadata.config
    kept = [name for name in model.variables if name in old.variables]
    if model.kind != "climax" and differing(start, model):
        raise UserError(
            f"checkpoint {start.path} is a {model.kind}, whose weights cannot be transferred to another "
            f"model.{differing(start, model)[0]}: only model.kind climax can; train from scratch with checkpoint: null"
        )
    if not kept:
        raise UserError(
            f"checkpoint {start.path} has none of model.variables ({', '.join(model.variables)}): none of its variable "
            "embeddings would be used; train from scratch with checkpoint: null"
        )
    if not differing(start, model):
        return start
    model = replace(model, init=old.init)
    torch.manual_seed(seed)
    fresh = build_network(model).state_dict()
    weights = _transferred(start, model, fresh, kept)
    same_mode = old.output_mode == model.output_mode
    per_variable = sum(fresh[name][0].numel() for name in PER_VARIABLE)
    last = sum(fresh[name].numel() for name in _last_layer(fresh))
    new = (len(model.variables) - len(kept)) * (per_variable + last // len(model.variables))
    if not same_mode:
        new += len(kept) * (last // len(model.variables))
    if INPUT_SKIP in fresh:
        pair = fresh[INPUT_SKIP][:, 0, 0].numel()
        new += pair * (len(model.variables) ** 2 - (len(kept) ** 2 if same_mode else 0))
    report = TransferReport(
        checkpoint=str(start.path),
        kept_variables=kept,
        new_variables=[name for name in model.variables if name not in kept],
        dropped_variables=[name for name in old.variables if name not in kept],
        grid=_grids(old, model) if POSITIONS in weights and old.patches != model.patches else None,
        output_mode=None if same_mode else [old.output_mode, model.output_mode],
        parameters_kept=sum(tensor.numel() for tensor in weights.values()) - new,
        parameters_new=new,
        patch=None if old.patch == model.patch else [old.patch, model.patch],
    )
    return replace(start, metadata=replace(start.metadata, config=model), weights=weights, transferred=asdict(report))


def _grids(old: ModelConfig, new: ModelConfig) -> list[list[int]]:
    return [[old.height, old.width], [new.height, new.width]]


def _transferred(
    start: Checkpoint, model: ModelConfig, fresh: dict[str, Tensor], kept: Sequence[str]
) -> dict[str, Tensor]:
    old, there = start.metadata.config, _for_patch(start, model.patch, _last_layer(fresh))
    weights = {name: tensor.clone() for name, tensor in there.items()}
    here_ids = torch.tensor([model.variables.index(name) for name in kept])
    there_ids = torch.tensor([old.variables.index(name) for name in kept])
    for name in PER_VARIABLE:
        rows = fresh[name].clone()
        if name.endswith("var_embed"):
            new = [i for i, variable in enumerate(model.variables) if variable not in kept]
            codes = torch.arange(len(old.variables), len(old.variables) + len(new))
            rows[new] = (sincos_1d(codes, rows.shape[1]) * EMBEDDING_SCALE[old.init]).to(rows.dtype)
        rows[here_ids] = there[name][there_ids].to(rows.dtype)
        weights[name] = rows
    for name in _last_layer(fresh):
        pixels = model.patch * model.patch  # variable fastest
        rows = fresh[name].clone().unflatten(0, (pixels, -1))
        if old.output_mode == model.output_mode:
            rows[:, here_ids] = there[name].unflatten(0, (pixels, -1))[:, there_ids].to(rows.dtype)
        weights[name] = rows.flatten(0, 1)
    if INPUT_SKIP in there:
        weights[INPUT_SKIP] = torch.zeros_like(fresh[INPUT_SKIP])
        if old.output_mode == model.output_mode:
            held = there[INPUT_SKIP][:, there_ids][:, :, there_ids]
            weights[INPUT_SKIP][:, here_ids[:, None], here_ids] = held.to(weights[INPUT_SKIP].dtype)
    if POSITIONS in there:
        weights[POSITIONS] = resize_positions(there[POSITIONS], old.patches, model.patches)
    return weights


def _for_patch(start: Checkpoint, patch: int, last_layer: Sequence[str]) -> dict[str, Tensor]:
    """The checkpoint's weights, resized to another patch edge."""
    old, weights = start.metadata.config.patch, dict(start.weights)
    if old == patch:
        return weights
    name = PER_VARIABLE[0]
    weights[name] = resize_patch_weight(weights[name], patch)
    return weights | {name: resize_last_layer(weights[name], old, patch) for name in last_layer}


def _last_layer(weights: dict[str, Any]) -> list[str]:
    """Names of the last linear layer of the head."""
    place = max(int(name.split(".")[1]) for name in weights if name.startswith("head."))
    return [f"head.{place}.weight", f"head.{place}.bias"]
