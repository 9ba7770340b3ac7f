"""Numbers in configs: every numeric key of every command has bounds, defaults and shipped configs lie within them."""

import math
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from climax_hpc.cli import SUBCOMMANDS
from climax_hpc.config.parser import default_settings
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import regular_grid
from climax_hpc.model.config import ModelConfig
from climax_hpc.utils.bounds import check_numbers
from climax_hpc.utils.references import load

CONFIGS = sorted({entry.config for entry in SUBCOMMANDS.values()})


def numeric_keys(config_class: type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key in fields(config_class):
        if isinstance(key.type, type) and is_dataclass(key.type):
            yield from numeric_keys(key.type, (*path, key.name))
        elif (
            {int, float} & {key.type, *typing.get_args(key.type)} or "float" in str(key.type) or "int" in str(key.type)
        ):
            yield (*path, key.name)


KEYS = [(config, key) for config in CONFIGS for key in numeric_keys(load(config))]


@pytest.mark.parametrize("config", CONFIGS)
def test_defaults_lie_within_the_bounds(config: str) -> None:
    check_numbers(load(config), {key: value for key, value in default_settings(load(config)).items() if "." not in key})


@pytest.mark.parametrize(
    ("config", "key"), KEYS, ids=lambda value: value if isinstance(value, str) else ".".join(value)
)
def test_every_numeric_key_is_bounded(config: str, key: tuple[str, ...]) -> None:
    for number in (10**30, -(10**30), 10**5000, 1e30, math.inf, -math.inf, math.nan, 1e-300):
        for value in (number, [1, number], {"a": number}, {"a": [number]}):
            settings: Any = value
            for name in reversed(key):
                settings = {name: settings}
            with pytest.raises(UserError, match=rf"^{'.'.join(key)} = .*: out of bounds, .* in size$") as caught:
                check_numbers(load(config), settings)
            assert len(str(caught.value)) < 200


@pytest.mark.parametrize("key", ["height", "embed_dim", "depth", "mlp_ratio", "years"])
def test_a_model_of_a_file_is_bounded(key: str) -> None:
    with pytest.raises(UserError, match=rf"model\.{key} = 1000000000: out of bounds, at most"):
        ModelConfig(**{key: 10**9})


@pytest.mark.parametrize("spacing", [1e-7, 1e-300, 0.005, math.nan, math.inf, -1.0, 0.0])
def test_a_grid_too_fine_is_refused(spacing: float) -> None:
    with pytest.raises(UserError, match="grid spacing"):
        regular_grid(spacing)
