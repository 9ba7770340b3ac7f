"""The config of a pack is that of a fetch; `--dry_run` says what would be asked without a network."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from climax_hpc.cli import run
from climax_hpc.config.parser import read_config, shipped_configs
from climax_hpc.data_prep.fetching.checksums import BadChecksum, agrees, hasher, parse_checksum
from climax_hpc.data_prep.fetching.config import FetchConfig
from climax_hpc.data_prep.fetching.file_times import in_period
from climax_hpc.errors import UserError

from .conftest import tas
from .fake_esgf import FakeEsgf


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket can be made."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith(("cmip6_", "cmip7_"))])
def test_dry_run_of_the_shipped_configs_asks_nothing(
    name: str, offline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "cmip"
    run(["fetch", "--config", name, "--output", str(output), "--dry_run", "true"])
    printed = capsys.readouterr().out
    assert not output.exists()
    assert "no list of files there yet: --list_only true asks the index for one" in printed
    if name == "cmip7_historical":
        assert printed.startswith(
            "query: project: CMIP7; experiment_id: historical; variable_id: hur, hus, ta, ua, va, zg; "
            "branding_suffix: tpt-p7h-hxy-air; frequency: 6hr\n"
        )
    else:
        assert "esgpull add project:CMIP6 source_id:" in printed
        assert 'i.ESGFCatalog().search(project="CMIP6", source_id="' in printed
        assert "; table_id: 6hrPlevPt\n" in printed
    if name == "cmip6_mpi_esm":  # what humidity can be derived from is asked for, but not of other tools
        assert "variable_id: hur, hus, ta, tas, ua, uas, va, vas, zg;" in printed
        assert "hur" not in next(line for line in printed.splitlines() if "esgpull add" in line)


def test_the_config_of_a_pack_fills_its_input(tmp_path: Path) -> None:
    file = tmp_path / "pack.yaml"
    settings = {"input": "raw", "output": "packed", "sources": ["A_b_r1"], "tables": ["day"], "dtype": "float32"}
    file.write_text(yaml.safe_dump(settings | {"train_period": ["2001", "2002"]}))
    config = read_config(FetchConfig, "climax-hpc fetch", ["--config", str(file)])
    assert (config.output, config.sources, config.tables) == ("raw", ["A_b_r1"], ["day"])
    given = read_config(FetchConfig, "climax-hpc fetch", ["--config", str(file), "--output", "elsewhere"])
    assert given.output == "elsewhere"
    file.write_text(yaml.safe_dump({key: value for key, value in settings.items() if key != "input"}))
    with pytest.raises(UserError, match="output"):  # that of the packed data set is not taken for it
        read_config(FetchConfig, "climax-hpc fetch", ["--config", str(file)])
    file.write_text(yaml.safe_dump(settings | {"sorces": ["x"]}))
    with pytest.raises(UserError, match="unknown config key 'sorces'; did you mean sources"):
        run(["fetch", "--config", str(file)])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("https://u:hidden@host/x", "^output: https://host/x is no folder that can be filled; give --output"),
        ("@sample", "^output: @sample is no folder that can be filled; give --output"),
        (["a", "b"], "^output: is empty; give the folder of the files .an `input` that is a list is none"),
    ],
)
def test_an_input_that_is_no_folder_is_not_filled(given: Any, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "pack.yaml"
    file.write_text(yaml.safe_dump({"input": given, "output": "packed", "sources": ["A_b_r1"], "tables": ["day"]}))
    with pytest.raises(UserError, match=reason):
        read_config(FetchConfig, "climax-hpc fetch", ["--config", str(file)])
    config = read_config(FetchConfig, "climax-hpc fetch", ["--config", str(file), "--output", "elsewhere"])
    assert config.output == "elsewhere"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sources": None}, r"^sources: is not set, and ESGF holds all models; write for example \[MPI"),
        ({"sources": ["*"]}, r"^sources: '\*' fixes neither model nor experiment"),
        ({"sources": ["MPI*"]}, r"^sources: 'MPI\*' fixes neither"),
        ({"sources": []}, "^sources: an empty list selects nothing"),
        ({"tables": None}, "^frequency: neither `frequency` nor `tables` is set"),
        ({"frequency": "2hr"}, "^frequency: '2hr' is not one of 1hr"),
        ({"tables": ["fx"]}, r"^tables: \['fx'\] hold static fields only"),
        ({"variables": ["orography"]}, "^tables: .* leave out orography, which is static; add fx"),
        ({"variables": ["cumulative_co2_emissions"]}, "^variables: cumulative_co2_emissions is of ClimateBench"),
        ({"variables": ["toa_insolation"]}, "^variables: toa_insolation is computed"),
        ({"variables": ["temprature_500"]}, "^unknown variable 'temprature_500'; did you mean temperature_500"),
        ({"period": ["2001"]}, r"^period: \['2001'\] is not \[first, last\]"),
        ({"period": ["2001-06", "2001-05"]}, "^period: 2001-06 … 2001-05 is empty"),
        ({"period": ["soon", "2001"]}, "^period: 'soon' is not a date"),
        ({"period": ["20010", "20011"]}, "^period: '20010' is not a year from 0 to 9999"),
        ({"project": "CMIP5"}, "^project: 'CMIP5' is not one of CMIP6, CMIP6Plus, CMIP7"),
        ({"parallel": 0}, "^parallel: 0 must be positive"),
        ({"retries": -1}, "^retries: -1 must not be negative"),
        ({"index": []}, "^index: an empty list asks nobody"),
        ({"output": ""}, "^output: is empty"),
    ],
)
def test_settings_that_cannot_be_fetched(
    changes: dict[str, Any], reason: str, settings: Callable[..., FetchConfig], offline: None
) -> None:
    from climax_hpc.data_prep.fetch import fetch

    with pytest.raises(UserError, match=reason):
        fetch(settings(dry_run=True, **changes))


def test_other_layouts_are_not_on_esgf(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layout: era5 is not on ESGF, which holds cmip6 only"):
        run(["fetch", "--config", "era5", "--output", str(tmp_path)])


def test_no_index_is_known_for_cmip7(settings: Callable[..., FetchConfig]) -> None:
    from climax_hpc.data_prep.fetch import fetch

    with pytest.raises(UserError, match="index: no index of CMIP7 is known to this version; give one"):
        fetch(settings(index=None, tables=["tpt-p7h-hxy-air"], frequency="6hr"))


def test_list_only_keeps_the_list_that_a_dry_run_shows(
    esgf: FakeEsgf,
    settings: Callable[..., FetchConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from climax_hpc.data_prep.fetch import fetch

    esgf.add(tas(part="_2001"), b"content")
    esgf.add(tas(part="_2002"), b"more content")
    fetch(settings(list_only=True))
    assert not esgf.requests
    assert not list((tmp_path / "out").rglob("*.nc"))
    listing = json.loads((tmp_path / "out/.fetch/listing.json").read_text())
    assert [(f["path"], f["size"]) for f in listing["files"]] == [(tas(part="_2001"), 7), (tas(part="_2002"), 12)]
    assert capsys.readouterr().out.count("B, sha256, missing\n") == 2
    esgf.faults[tas(part="_2002").rsplit("/", 1)[-1]] = ["404!"]
    with pytest.raises(UserError, match="1 of 2 files"):
        fetch(settings())
    fetch(settings(dry_run=True))
    shown = capsys.readouterr().out
    assert "_2001.nc: 7 B, sha256, verified\n" in shown
    assert "_2002.nc: 12 B, sha256, missing\n" in shown
    (tmp_path / "out/.fetch/listing.json").write_text('{"files": 3}')
    with pytest.raises(UserError, match=r"listing\.json: is damaged .*; delete it; the next fetch writes it again"):
        fetch(settings(dry_run=True))


def test_the_extra_is_asked_for_if_it_is_missing(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['intake_esgf'] = None; from climax_hpc.cli import main; "
        f"main(['fetch', '--config', 'cmip6_mpi_esm', '--output', {str(tmp_path / 'out')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("climax-hpc: error: fetch: needs packages that are not installed")
    assert done.stderr.endswith("run: pip install 'climax_hpc[fetch]'\n")
    assert not (tmp_path / "out").exists()


def test_nothing_heavy_is_imported_for_a_dry_run(tmp_path: Path) -> None:
    code = (
        "import sys; from climax_hpc.cli import run; "
        f"run(['fetch', '--config', 'cmip6_mpi_esm', '--output', {str(tmp_path / 'out')!r}, '--dry_run', 'true']); "
        "print([n for n in ('intake_esgf', 'requests', 'xarray', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("name", "period", "expected"),
    [
        ("x_gn_185001010000-185412311800.nc", ("1854", "1860"), True),
        ("x_gn_185001010000-185412311800.nc", ("1855", "1860"), False),
        ("x_gn_185001010000-185412311800.nc", ("1840", "1850-01-01"), True),
        ("x_gn_185002-185412.nc", ("1840", "1850-01-31"), False),
        ("x_gn_185002-185412.nc", ("1854-12-31", "1900"), True),
        ("x_gn.nc", ("1854", "1855"), True),
        ("x_gn_185002-185412.nc", None, True),
    ],
)
def test_periods_are_compared_with_file_names(name: str, period: tuple[str, str] | None, expected: bool) -> None:
    assert in_period(name, period) is expected


@pytest.mark.parametrize(
    ("kind", "prefix", "algorithm"),
    [
        ("SHA256", "", "sha256"),
        ("sha-256", "", "sha256"),
        ("MD5", "", "md5"),
        ("multihash", "1220", "sha256"),
        ("multihash", "d50110", "md5"),
        ("multihash", "1340", "sha512"),
    ],
)
def test_checksums_of_every_kind(kind: str, prefix: str, algorithm: str) -> None:
    digest = hasher(f"{algorithm}:")
    digest.update(b"content")
    parsed = parse_checksum(kind, prefix + digest.hexdigest().upper())
    assert parsed == f"{algorithm}:{digest.hexdigest()}"
    assert agrees(parsed, digest)
    digest.update(b"more")
    assert not agrees(parsed, digest)
    with pytest.raises(BadChecksum):
        parse_checksum(kind, prefix + digest.hexdigest()[:-1])
