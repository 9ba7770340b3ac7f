"""The compared networks: sizes with about the same seconds per step, which the results print as measured."""

from dataclasses import dataclass, field
from importlib.resources import files

import yaml

from climax_hpc.fields.variables import TENDENCIES, tendency_name

NETWORK_CONFIG = "study_network"
"""Packaged config with the settings that all networks share."""
BATCH = 4  # samples per step (study_network.yaml)


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedNetwork:
    """One of the compared networks."""

    label: str
    """Name in tables and figures."""
    settings: dict[str, object]
    """Dotted keys of `climax-hpc finetune`: kind and size."""
    seconds_per_step: float
    """On one idle core; for the estimate of the time left."""
    pretrains: bool = True
    """Pretrained on the other sources too; False: only trained from scratch."""
    downscaling: dict[str, object] = field(default_factory=dict)
    """Dotted keys that differ in downscaling."""
    downscaling_slower: float = 1.0
    """Time per step of downscaling relative to forecasting."""

    @property
    def pretrained(self) -> str:
        """Label of the network after pretraining."""
        return f"{self.label} (pretrained)"

    @property
    def scratch(self) -> str:
        """Label of the network from random weights."""
        return f"{self.label} (from scratch)" if self.pretrains else self.label

    @property
    def slug(self) -> str:
        """Part of file names."""
        return self.label.replace(" ", "-")


CLIMAX = ComparedNetwork(
    label="ClimaX",
    settings={
        "model.blocks": "conv", "model.patch": 2, "model.embed_dim": 64, "model.depth": 2, "model.heads": 4,
        "model.decoder_depth": 0, "model.input_skip": True,
    },
    seconds_per_step=0.08,
    downscaling={"model.patch": 1},
    downscaling_slower=2.5,
)  # fmt: skip
VIT = ComparedNetwork(
    label="ClimaX vit",
    settings={"model.blocks": "vit", "model.patch": 4, "model.embed_dim": 160, "model.depth": 2, "model.heads": 8},
    seconds_per_step=0.08,
)
RESNET = ComparedNetwork(
    label="ResNet",
    settings={"model.kind": "resnet", "model.embed_dim": 48, "model.depth": 3},
    seconds_per_step=0.08,
)
UNET = ComparedNetwork(
    label="U-Net",
    settings={"model.kind": "unet", "model.embed_dim": 28, "model.depth": 1},
    seconds_per_step=0.08,
)
LINEAR = ComparedNetwork(
    label="linear regression", settings={"model.kind": "linear"}, seconds_per_step=0.03, pretrains=False
)
PRETRAINED, SCRATCH = CLIMAX.pretrained, CLIMAX.scratch
VIT_PRETRAINED, VIT_SCRATCH = VIT.pretrained, VIT.scratch


def shared_variables() -> list[str]:
    """Variables of all networks."""
    config = (files("climax_hpc.configs") / f"{NETWORK_CONFIG}.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load(config)["model"]["variables"])


def with_tendencies(variables: list[str]) -> list[str]:
    """The variables and their tendencies; static ones have none."""
    return [*variables, *(name for name in map(tendency_name, variables) if name in TENDENCIES)]
