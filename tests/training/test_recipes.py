"""The shipped recipes: each can be read, and its model has as many parameters as its name says."""

import re
from importlib.resources import files

import pytest
import torch

from climax_hpc.config.parser import read_config
from climax_hpc.config.training import PretrainConfig
from climax_hpc.model.climax import ClimaXNetwork

RECIPES = sorted(
    file.name.removesuffix(".yaml") for file in files("climax_hpc.configs").iterdir() if "climax_" in file.name
)
ROWS = {"5.625": 32, "1.40625": 128, "0.25": 720}


def test_recipes_span_sizes_and_grids() -> None:
    assert len(RECIPES) >= 10
    assert {re.sub(r".*_(.*)deg", r"\1", name) for name in RECIPES} == set(ROWS)
    assert sum("_conv_" in name for name in RECIPES) == 3


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str) -> None:
    words = ["--config", name, "--run_folder", "run", "--data.dataset", "packed"]
    config = read_config(PretrainConfig, "climax-hpc pretrain", words)
    size, conv, degrees = re.fullmatch(r"climax_(\d+[mb])_(conv_)?(.*)deg", name).groups()  # type: ignore[union-attr]
    assert config.model.blocks == ("conv" if conv else "vit")
    with torch.device("meta"):
        model = ClimaXNetwork(config.model)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    said = f"{millions:.0f}m" if millions < 950 else f"{millions / 1000:.0f}b"
    assert said == size
    assert config.model.height == ROWS[degrees]
    assert config.model.width == 2 * config.model.height
    assert config.train.precision == "bfloat16"
    assert len(config.model.variables) == 48
