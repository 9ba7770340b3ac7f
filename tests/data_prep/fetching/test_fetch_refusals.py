"""What an index says is checked: hostile records, missing variables, versions, several tables or grids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.errors import UserError

from .conftest import RUN, tas
from .fake_esgf import FakeEsgf

NAME = tas().rsplit("/", 1)[-1]
DATA_SET = f"{RUN}/6hrPlevPt/tas/gn/v20200101".replace("/", ".")
Fetched = Callable[..., list[str]]


def records(names: list[str]) -> list[str]:
    """The files of a tree that are not those of `.fetch`."""
    return [name for name in names if not name.startswith(".fetch/")]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("title", "../../x.nc", r"title: '../../x.nc' is not a name: .*; expected a file name in the data set"),
        ("title", "/etc/x.nc", "title: '/etc/x.nc' is not a name"),
        ("title", "a\x1b[2J\n.nc", r"title: .* is not a name"),
        ("title", ".x.nc", "title: '.x.nc' is not a name"),
        ("title", "x.sh", "title: does not end in .nc"),
        ("title", "x" * 300 + ".nc", "title: 'x*…' has 303 characters; a name has at most 255"),
        ("url", ["file:///etc/passwd|x|HTTPServer"], "url is 'file:///etc/passwd', expected https://HOST/PATH or http"),
        ("url", ["ftp://a/b.nc|x|HTTPServer"], "url is 'ftp://a/b.nc', expected"),
        ("url", ["http://a b/c.nc|x|HTTPServer"], "url is 'http://a b/c.nc', expected"),
        ("url", ["http:///c.nc|x|HTTPServer"], "url is 'http:///c.nc', expected"),
        ("url", ["http://a:99999/c.nc|x|HTTPServer"], "url is 'http://a:99999/c.nc', expected"),
        ("url", ["gsiftp://a/b.nc|x|GridFTP"], "url offers the services GridFTP; expected HTTPServer"),
        ("url", [], "url offers the services none; expected HTTPServer"),
        ("size", -5, "size is '-5', expected a number of bytes"),
        ("size", "much", "size is 'much', expected a number of bytes"),
        ("size", 1e300, r"size is '1e\+300', expected a number of bytes"),
        ("checksum", ["abc"], "checksum is 'abc', expected 64 hexadecimal digits of sha256"),
        ("checksum_type", ["CRC32"], "checksum_type is 'CRC32', expected SHA256, MD5, SHA1, SHA512 or multihash"),
    ],
)
def test_hostile_files_are_refused(
    key: str, value: Any, reason: str, esgf: FakeEsgf, fetched: Fetched, tmp_path: Path
) -> None:
    esgf.add(tas(), b"content")[key] = value
    with pytest.raises(UserError, match=rf"^index solr\+http://127.*: {DATA_SET}: file '.*': {reason}") as refused:
        fetched()
    assert str(refused.value).isprintable()
    assert not esgf.requests
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("drs", "reason"),
    [
        ("CMIP6.CMIP", r"its id has 2 parts, expected the 10 of CMIP6 \(mip_era.activity_id"),
        ("CMIP6: CMIP.x", r"its id has 2 parts, expected the 10 of CMIP6 \(mip_era.activity_id"),
        (DATA_SET.replace("TEST.", "-etc."), "its institution_id: '-etc' is not a name"),
        (DATA_SET.replace("v20200101", "latest"), "its version is latest, expected a date such as v20190815"),
    ],
)
def test_data_sets_with_other_ids_are_listed(
    drs: str, reason: str, esgf: FakeEsgf, fetched: Fetched, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    esgf.add(tas(), b"content")
    esgf.data_sets.append(esgf.data_sets[0] | {"id": f"{drs}|node1"})
    assert records(fetched()) == [tas()]
    assert any(line.startswith(f"left out {drs}: ") for line in capsys.readouterr().out.splitlines())
    assert list(json.loads((tmp_path / "out/.fetch/listing.json").read_text())["left_out"]) == [drs]
    assert reason.replace("\\", "").split(" (")[0] in esgf_reasons(fetched, capsys)


def esgf_reasons(fetched: Fetched, capsys: pytest.CaptureFixture[str]) -> str:
    """What another run prints."""
    fetched()
    return capsys.readouterr().out


def test_newest_versions_only(esgf: FakeEsgf, fetched: Fetched, capsys: pytest.CaptureFixture[str]) -> None:
    esgf.add(tas("v20190101"), b"old")
    esgf.add(tas("v20200101"), b"new", ["node1", "node2"])
    esgf.add(tas("v20210101"), b"retracted", retracted=True)
    assert records(fetched()) == [tas("v20200101")]
    printed = capsys.readouterr().out
    assert "v20190101: version v20190101 is replaced by v20200101" in printed
    assert "v20210101: its data set is retracted" in printed
    assert "v20200101: 1 files, 3 B, 127.0.0.1 and 1 more" in printed


def test_a_copy_with_other_bytes_is_not_used(
    esgf: FakeEsgf, fetched: Fetched, capsys: pytest.CaptureFixture[str]
) -> None:
    esgf.add(tas(), b"content", ["node1", "node2"])["checksum"] = ["0" * 64]
    assert records(fetched()) == [tas()]
    assert {node for node, *_ in esgf.requests} == {"node1"}
    assert "the copy at node2 has checksum sha256:000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("added", "changes", "reason"),
    [
        (
            [],
            {},
            r"^sources: index solr.* lists no data set of TEST-1_historical_r1i1p1f1 that can be fetched; compare",
        ),
        (
            [tas()],
            {"variables": ["2m_temperature", "specific_humidity_500"]},
            r"^variables: TEST-1_historical_r1i1p1f1 has no hus \(specific_humidity_500\) in tables 6hrPlevPt; the "
            "index lists tas: leave the others out",
        ),
        (
            [tas()],
            {"variables": ["2m_temperature", "orography"], "tables": ["6hrPlevPt", "fx"]},
            r"^variables: no experiment of TEST-1 has orog \(orography\) in table fx; leave orography out",
        ),
        (
            [tas(), tas(table="6hrPlev")],
            {"tables": None, "frequency": "6hr"},
            r"^tables: TEST-1_historical_r1i1p1f1 has tas in the tables 6hrPlev, 6hrPlevPt; choose, as tables: \[6hr",
        ),
        (
            [tas(), tas().replace("gn/v", "gr/v")],
            {},
            "^grid_label: TEST-1_historical_r1i1p1f1 has tas in the grids gn, gr; choose, as grid_label: gn$",
        ),
        (
            [tas(part="_185001010000-189912311800")],
            {"period": ["1950", "1960"]},
            "^period: CMIP6.* has no file in 1950 … 1960; its files cover 185001010000 … 189912311800$",
        ),
    ],
)
def test_selections_that_cannot_be_met(
    added: list[str], changes: dict[str, Any], reason: str, esgf: FakeEsgf, fetched: Fetched, tmp_path: Path
) -> None:
    for path in added:
        esgf.add(path, b"content")
    with pytest.raises(UserError, match=reason):
        fetched(**changes)
    assert not esgf.requests
    assert not (tmp_path / "out").exists()


def test_sources_found_by_a_wildcard_may_lack_variables(
    esgf: FakeEsgf, fetched: Fetched, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tas().replace("TEST-1", "TEST-2")
    for path in (tas(), tas(variable="ua"), other):
        esgf.add(path, b"content")
    found = fetched(sources=["TEST-*_historical_*"], variables=["2m_temperature", "u_component_of_wind_500"])
    assert records(found) == [tas(), tas(variable="ua")]
    assert "TEST-2_historical_r1i1p1f1 has no ua" in capsys.readouterr().out


def test_what_a_variable_is_derived_from_is_fetched_only_if_it_is_missing(
    esgf: FakeEsgf, fetched: Fetched, tmp_path: Path
) -> None:
    for variable in ("hus", "ta"):
        esgf.add(tas(variable=variable), b"content")
    assert records(fetched(variables=["relative_humidity_500"])) == [tas(variable="hus"), tas(variable="ta")]
    esgf.add(tas(variable="hur"), b"content")
    assert records(fetched(variables=["relative_humidity_500"], output=str(tmp_path / "other"))) == [
        tas(variable="hur")
    ]


def test_static_fields_come_from_any_run_the_nearest_first(esgf: FakeEsgf, fetched: Fetched) -> None:
    fx = tas(table="fx", variable="orog")
    esgf.add(tas(), b"content")
    esgf.add(fx.replace("historical", "amip"), b"far")
    wanted = {"variables": ["2m_temperature", "orography"], "tables": ["6hrPlevPt", "fx"]}
    assert records(fetched(**wanted)) == [tas(), fx.replace("historical", "amip")][::-1]
    esgf.add(fx, b"near")
    assert fx in records(fetched(**wanted))


def test_files_outside_of_the_period_are_left(esgf: FakeEsgf, fetched: Fetched) -> None:
    parts = [f"_{year}01010000-{year + 9}12311800" for year in range(1850, 1900, 10)]
    for part in parts:
        esgf.add(tas(part=part), b"content")
    assert records(fetched(period=["1869-12", "1870"])) == [tas(part=part) for part in parts[1:3]]


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("solr+http://127.0.0.9:9", "does not answer"),
        (
            "solr+{url}/data/none",
            r"^index solr\+.*data/none answers with status 404; try again later, or another index",
        ),
        ("stac+{url}/data/none", r"answers with status 404"),
    ],
)
def test_an_index_that_fails(index: str, reason: str, esgf: FakeEsgf, fetched: Fetched) -> None:
    esgf.add(tas(), b"content")
    name = index.format(url=esgf.urls["node1"])
    with pytest.raises(ConnectionError, match=reason):
        fetched(index=[name])
    assert records(fetched(index=[name, f"solr+{esgf.urls['node1']}"])) == [tas()]


def test_an_answer_that_is_no_list_of_records(
    esgf: FakeEsgf, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(esgf, "answer", lambda _: ["text"])
    with pytest.raises(
        ConnectionError, match=r"its answer cannot be read .TypeError: a record is 'text'.*expected records"
    ):
        fetched()


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("solar+https://user:hidden@host/x?key=hidden", r"index: 'solar\+https://host/x' is neither known"),
        ("esgf-data.dkrz.d", "index: 'esgf-data.dkrz.d' is neither known .*; did you mean esgf-data.dkrz.de"),
        ("solr+ftp://x", r"index: 'solr\+ftp://x': expected solr\+https://HOST"),
        ("stac+https://host:abc/x", r"index: 'stac\+https://host:abc/x': expected stac\+https://HOST"),
        ("solr+https://[bad/x", r"index: 'solr\+https://\[bad/x': expected"),
        ("solr+https://u:hid/den@host/x", r"index: 'solr\+https://host/x': expected"),
        ("solr+https://u:12/den@host/x", r"index: 'solr\+https://host/x': expected"),
        ("solr+https://u:hid?den@host/x", r"index: 'solr\+https://…': expected"),
    ],
)
def test_unknown_indices(index: str, reason: str, fetched: Fetched) -> None:
    with pytest.raises(UserError, match=reason):
        fetched(index=[index])


def test_secrets_in_urls_are_neither_printed_nor_kept(
    esgf: FakeEsgf, fetched: Fetched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = esgf.add(tas(), b"content")
    host = esgf.urls["node1"].removeprefix("http://")
    record["url"] = [f"http://user:secret@{host}/data/{tas()}?token=secret|x|HTTPServer"]
    record["checksum"] = ["0" * 64]
    with pytest.raises(UserError, match="sha256 is") as refused:
        fetched()
    record["url"] = ["http://user:secret@127.0.0.9:9/x.nc?token=secret|x|HTTPServer"]
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.9 refuses the connection") as failed:
        fetched()
    kept = "".join(path.read_text() for path in (tmp_path / "out/.fetch").iterdir())
    said = str(refused.value) + str(failed.value) + capsys.readouterr().out
    assert "secret" not in (kept + said).replace(tmp_path.name, "")


def test_cmip7_is_found_by_branding_region_and_frequency(
    esgf: FakeEsgf, fetched: Fetched, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        f"MIP-DRS7/CMIP7/CMIP/TEST/TEST-1/historical/r1i1p1f1/{region}/6hr/ta/{branding}/g100/v20260101/ta_{number}.nc"
        for number, (region, branding) in enumerate([("glb", "tpt-p7h-hxy-air"), ("nh", "tpt-p7h-hxy-air")])
    ]
    for path in paths:
        parts = path.split("/")
        own = {"source_id": parts[4], "experiment_id": parts[5], "variant_label": parts[6], "variable_id": parts[9]}
        own |= {"branding_suffix": parts[10], "frequency": parts[8], "project": "CMIP7"}
        esgf.add(path, b"content", **own)
    settings = {"tables": ["tpt-p7h-hxy-air"], "frequency": "6hr", "variables": ["temperature_500"]}
    assert records(fetched(**settings)) == [paths[0]]
    assert "its region is nh, expected glb (the globe)" in capsys.readouterr().out
