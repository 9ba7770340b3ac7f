"""Every check of ModelConfig, with an input that fails it."""

import pytest

from climax_hpc.errors import UserError
from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.model import ModelConfig

BAD = [
    ({"variables": ()}, "model.variables is empty"),
    ({"variables": ("orography", "latitude", "orography")}, "names orography more than once"),
    ({"variables": ("geopotental_500",)}, "unknown variable 'geopotental_500'; did you mean geopotential_500"),
    ({"height": 0}, "model.height = 0: must be at least 1"),
    ({"width": -64}, "model.width = -64: must be at least 1"),
    ({"patch": 0}, "model.patch = 0: must be at least 1"),
    ({"embed_dim": 0}, "model.embed_dim = 0: must be at least 1"),
    ({"depth": 0}, "model.depth = 0: must be at least 1"),
    ({"heads": 0}, "model.heads = 0: must be at least 1"),
    ({"height": 33}, "model.height = 33 is not a multiple of model.patch = 2"),
    ({"width": 66, "patch": 4}, "model.width = 66 is not a multiple of model.patch = 4"),
    ({"embed_dim": 126, "heads": 2}, "model.embed_dim = 126 is not a multiple of 4"),
    ({"embed_dim": 128, "heads": 3}, "model.embed_dim = 128 is not a multiple of model.heads = 3"),
    ({"mlp_ratio": 0.0}, "model.mlp_ratio = 0.0"),
    ({"mlp_ratio": float("nan")}, "model.mlp_ratio = nan"),
    ({"decoder_depth": -1}, "model.decoder_depth = -1: must be at least 0"),
    ({"dropout": 1.0}, "model.dropout = 1.0: a rate"),
    ({"drop_path": -0.1}, "model.drop_path = -0.1: a rate"),
    ({"dropout": float("nan")}, "model.dropout = nan: out of bounds"),
    ({"init": "unit"}, "model.init = 'unit': use one of climax, scaled"),
    ({"blocks": "unet"}, "model.blocks = 'unet': use one of vit, conv"),
    ({"blocks": "conv", "kind": "unet"}, "model.blocks = 'conv': model.kind unet has its own blocks"),
    ({"levels": 2}, "model.levels = 2: only model.blocks conv has it"),
    ({"edges": "window"}, "model.edges = window: only model.blocks conv has it"),
    ({"edges": "sea", "blocks": "conv"}, "model.edges = 'sea': use one of globe, first_pole"),
    ({"levels": 0, "blocks": "conv"}, "model.levels = 0: must be at least 1"),
    ({"levels": 6, "blocks": "conv"}, "halves the 16 × 32 patches 5 times .* multiples of 32 and 64; use fewer"),
    ({"width": 24, "blocks": "conv"}, "16 × 12 patches 2 times and then needs an even number .* of 4 and 8;"),
    ({"embed_dim": 5, "heads": 5, "blocks": "conv"}, r"= 5 is not a multiple of 2 \(sin-cos embeddings\)"),
    ({"output_mode": "residual"}, "model.output_mode = 'residual': use one of full, anomaly"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[next(iter(v)) + str(i) for i, (v, _) in enumerate(BAD)])
def test_invalid_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(**values)


def test_defaults_are_the_papers():
    config = ModelConfig()
    assert config.variables == tuple(v.name for v in CLIMAX_48)
    assert (config.embed_dim, config.depth, config.heads, config.patch, config.patches) == (1024, 8, 16, 2, (16, 32))
    assert config.output_mode == "full"
    assert config.init == "scaled"  # the one that is not: docs/concepts/initial-values.md


def test_variables_from_a_list():
    assert ModelConfig(variables=["orography", "latitude"]).variables == ("orography", "latitude")  # type: ignore[arg-type]
