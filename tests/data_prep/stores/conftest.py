"""Stores in a folder, what they hold when they are packed from there, and packs of them from elsewhere."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.stores.sessions import close_sessions

from .content import content
from .store_files import SETTINGS, write_references, write_zarr


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Nothing is remembered of stores that an earlier test had at the same address."""
    close_sessions()


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `v2.zarr`, `v3.zarr` (checksums), `bare` (format 3, not consolidated), `references.json`."""
    root = tmp_path_factory.mktemp("stores")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_zarr(root / "v2.zarr", consolidated=True)
        write_zarr(root / "v3.zarr", zarr_format=3, checksums=True, consolidated=True)
        write_zarr(root / "bare", zarr_format=3, consolidated=False)
    write_references(root / "references.json", root / "v2.zarr", ".")
    return root


@pytest.fixture(scope="session")
def from_disk(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a pack of `v2.zarr` from the disk holds."""
    output = tmp_path_factory.mktemp("packed") / "disk"
    pack(PackConfig(input=str(stores / "v2.zarr"), output=str(output), **SETTINGS))
    return content(output)


@pytest.fixture
def packed(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """packed(input, **settings) -> what a pack into the folder `out` of the test holds."""

    def run(given: str | list[str], **changes: Any) -> dict[str, Any]:
        config = PackConfig(input=given, output=str(tmp_path / "out"), **(SETTINGS | changes))
        return content(pack(config).parent)

    return run
