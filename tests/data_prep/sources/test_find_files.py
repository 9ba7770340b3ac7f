"""Everything below an input folder is read, or listed with a reason: links, loops, odd names, other kinds of files."""

import os
import shutil
import socket
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.cli import run
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.sources.find_files import find_files
from climax_hpc.data_prep.sources.layouts import LAYOUTS, discover
from climax_hpc.errors import UserError
from climax_hpc.inference.open_files import open_files
from climax_hpc.shards.manifest import read_manifest

Settings = Callable[..., PackConfig]


def _dangling(folder: Path) -> None:
    (folder / "lost.nc").symlink_to("elsewhere/tas.nc")


def _loop(folder: Path) -> None:
    (folder / "a.nc").symlink_to("b.nc")
    (folder / "b.nc").symlink_to("a.nc")


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe.nc")


def _socket(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket has at most 108 characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket.nc")
    finally:
        os.chdir(here)


def _folder_named_as_a_file(folder: Path) -> None:
    (folder / "tas.nc").mkdir()


def _zarr_store_without_suffix(folder: Path) -> None:
    (folder / "store").mkdir()
    (folder / "store" / "zarr.json").write_text("{}")
    (folder / "store" / "c.nc").write_text("a chunk")


def _not_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/temp\xe9rature.nc")).touch()


def _new_line(folder: Path) -> None:
    (folder / "two\nlines.nc").touch()


def _hidden(folder: Path) -> None:
    (folder / "._tas.nc").touch()


def _grib(folder: Path) -> None:
    (folder / "download.grib").write_bytes(b"GRIB\x00\x00\x00\x01" + bytes(50))


def _netcdf_of_another_name(folder: Path) -> None:
    (folder / "tas.nc4").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))


def _text(folder: Path) -> None:
    (folder / "README").write_text("notes")


ODD: dict[str, tuple[Callable[[Path], None], list[tuple[str, str]]]] = {
    "dangling link": (_dangling, [("lost.nc", "is a link to elsewhere/tas.nc, which does not exist; restore or")]),
    "links in a circle": (_loop, [("a.nc", "cannot be read (Too many lev"), ("b.nc", "cannot be read (Too many lev")]),
    "FIFO": (_fifo, [("pipe.nc", "is a FIFO, not a file; remove it")]),
    "socket": (_socket, [("socket.nc", "is a socket, not a file; remove it")]),
    "folder": (_folder_named_as_a_file, [("tas.nc", "is a folder, though its name ends in .nc; files in it are")]),
    "store": (_zarr_store_without_suffix, [("store", "its header and name lack source_id")]),
    "not UTF-8": (_not_utf8, [("temp\\xe9rature.nc", "its name is not UTF-8; rename it")]),
    "control character": (_new_line, [("two\\nlines.nc", "its name holds control characters; rename it")]),
    "hidden": (_hidden, [("._tas.nc", "is hidden: its name begins with a dot")]),
    "GRIB": (_grib, [("download.grib", "is GRIB; convert it, `cdo -f nc4 copy`")]),
    "other suffix": (_netcdf_of_another_name, [("tas.nc4", "is HDF5 (NetCDF-4), but its name does not end in .nc")]),
    "text": (_text, [("README", "its name does not end in .nc")]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_what_cannot_be_read_is_listed_by_pack_dry_run_and_inspect(
    cmip6: Any, settings: Settings, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = ODD[kind]
    cmip6("tas")
    make(cmip6.root)
    words = ["--input", str(cmip6.root), "--output", str(tmp_path / "out"), "--climatology", "false"]
    run(["pack", *words, "--dry_run", "true"])
    dry = capsys.readouterr().out
    run(["pack", *words])
    packed = capsys.readouterr().out
    run(["inspect", str(tmp_path / "out")])
    inspected = capsys.readouterr().out
    skipped = read_manifest(tmp_path / "out").skipped
    assert [s["file"] for s in skipped] == [file for file, _ in expected]
    for (file, reason), found in zip(expected, skipped, strict=True):
        assert found["reason"].startswith(reason)
        assert all(f"skipped {file}" in text or reason in text for text in (dry, packed, inspected))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_names_what_it_cannot_read(layout: str, tmp_path: Path) -> None:
    for suffix in ("nc", "zarr", "rda"):
        (tmp_path / f"outputs_lost.{suffix}").symlink_to("elsewhere")
    with pytest.raises(UserError, match=r"contains n.*is a link to elsewhere, which does not exist"):
        discover(layout, tmp_path)


def test_links_are_followed_and_what_is_reached_twice_is_read_once(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "archive"
    (inside / "v2").mkdir(parents=True)
    (inside / "v2" / "tas.nc").write_text("")
    os.link(inside / "v2" / "tas.nc", inside / "v2" / "tas_again.nc")
    (inside / "latest").symlink_to("v2")
    (inside / "a_first.nc").symlink_to("v2/tas.nc")
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "psl.nc").write_text("")
    (outside / "back").symlink_to(outside)
    (outside / "up").symlink_to(tmp_path)
    (inside / "linked").symlink_to(outside)
    found, skipped = find_files(inside, (".nc",))
    assert [p.relative_to(inside).as_posix() for p in found] == ["linked/deep/psl.nc", "v2/tas.nc"]
    assert {s.file: s.reason for s in skipped} == {
        "v2/tas_again.nc": "is the same as v2/tas.nc, which is read once",
        "a_first.nc": "is the same as v2/tas.nc, which is read once",
        "latest": "is the same as v2, which is read once",
        "linked/back": "is the same as linked, which is read once",
        "linked/up": "is the same as a folder above the input, which is read once",
    }


def test_what_permissions_forbid_is_listed(tmp_path: Path) -> None:
    """Read in another process, and as another user if this one is root, who may read everything."""
    for name in ("in", "in/closed", "in/open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tas.nc").write_text("")
    (tmp_path / "in" / "closed").chmod(0)
    (tmp_path / "in").chmod(0o755)
    child = os.fork()
    if not child:
        os.chdir(tmp_path / "in")
        if os.geteuid() == 0:
            os.setuid(65534)
        found, skipped = find_files(Path(), (".nc",))
        right = [str(p) for p in found] == ["open/tas.nc", "tas.nc"]
        listed = [(s.file, s.reason.split(";")[0]) for s in skipped]
        os._exit(0 if right and listed == [("closed", "cannot be read (Permission denied)")] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_output_of_an_interrupted_pack_is_not_input(cmip6: Any, settings: Settings) -> None:
    cmip6("tas")
    output = cmip6.root / "out"
    output.mkdir()
    (output / "shard.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert make_plan(settings(output=str(output))).skipped == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\x1f\x8b\x08", "is compressed with gzip, not NetCDF; gunzip it"),
        (b"GRIB", "is GRIB, not NetCDF; convert it"),
        (b"\n<!DOCTYPE html><html>", "is a web page, not NetCDF; .* a log-in"),
        (b'{"error": "no such file"}', "is text, not NetCDF"),
        (bytes(2000), "is not filled: it begins with zeros, not NetCDF"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "begins as HDF5 .*, but is truncated or damaged .*; download it again"),
        (b"\x01\x02\x03", "is not NetCDF, by its first bytes"),
    ],
)
def test_a_file_that_is_no_netcdf_is_named_for_what_it_is(
    cmip6: Any, settings: Settings, content: bytes, what: str
) -> None:
    cmip6("tas")
    path = cmip6.root / "psl.nc"
    path.write_bytes(content)
    for layout in ("cmip6", "era5"):
        with pytest.raises(UserError, match=rf"psl\.nc: .*{what}"):
            make_plan(settings(layout=layout))
    with pytest.raises(UserError, match=rf"psl\.nc cannot be opened as NetCDF or zarr: it .*{what}"):
        open_files([cmip6.root])


def test_a_zip_archive_of_the_copernicus_store(cmip6: Any, settings: Settings) -> None:
    path = cmip6("tas")
    archive = cmip6.root / "download.nc"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "data_stream-oper_stepType-instant.nc")
    with pytest.raises(UserError, match=r"download\.nc: is a zip archive, not NetCDF; unzip it"):
        make_plan(settings(layout="era5"))


def test_prediction_refuses_a_folder_with_lost_files(tmp_path: Path) -> None:
    _dangling(tmp_path)
    with pytest.raises(
        UserError, match=r"lost\.nc is a link to .* does not exist; restore or remove it; or name the f"
    ):
        open_files([tmp_path])


def test_prediction_refuses_a_fifo_instead_of_waiting_for_it(tmp_path: Path) -> None:
    _fifo(tmp_path)
    with pytest.raises(UserError, match=r"pipe\.nc is a FIFO, not a file"):
        open_files([tmp_path / "pipe.nc"])


def test_special_files_are_left_as_they_are(tmp_path: Path) -> None:
    _fifo(tmp_path)
    find_files(tmp_path, (".nc",))
    assert stat.S_ISFIFO((tmp_path / "pipe.nc").stat().st_mode)
    shutil.rmtree(tmp_path)
