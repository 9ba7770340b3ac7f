"""Interrupted packs: resuming, fields kept between the passes, full or too small disks, dry runs."""

import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.cli import run
from climax_hpc.data_prep import pack as pack_module
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.field_blocks import read_blocks
from climax_hpc.data_prep.packing.first_pass import FOLDER, finished_units
from climax_hpc.data_prep.packing.output_folder import STATE
from climax_hpc.data_prep.packing.process_unit import write_work_unit
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest

from .packed import NAME, digests

Settings = Callable[..., PackConfig]


def test_an_interrupted_pack_resumes_to_the_same_bytes(
    cmip6: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cmip6("tas", times=cmip6.six_hourly(20))
    undisturbed = digests(pack(settings(steps_per_shard=4, output=str(tmp_path / "undisturbed"))).parent)
    config, real, calls = settings(steps_per_shard=4), write_work_unit, []

    def full_disk(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(pack_module, "write_work_unit", full_disk)
    with pytest.raises(
        UserError, match=r"no space is left for .*/out \(No space left on device\).* same command again"
    ):
        pack(config)
    folder = tmp_path / "out"
    kept = {p.name: p.stat().st_ino for p in folder.rglob("*.h5")}
    assert len(kept) == 3  # static fields and two shards
    assert (folder / STATE).exists()
    assert not list(folder.rglob("*.tmp"))
    monkeypatch.setattr(pack_module, "write_work_unit", real)
    reads: list[int] = []
    monkeypatch.setattr("climax_hpc.data_prep.packing.process_unit.read_blocks", _counted(reads))
    (folder / NAME / ".climax_hpc-0a.tmp").write_bytes(b"left by kill -9")
    damaged = sorted(folder.rglob("*.h5"))[0]
    raw = bytearray(damaged.read_bytes())
    raw[-3000] ^= 1
    damaged.write_bytes(bytes(raw))
    pack(config)
    assert digests(folder) == undisturbed
    assert reads == [0]  # the first pass is not repeated; only the fields of the damaged shard are read again
    kept.pop(damaged.name)
    assert {p.name: p.stat().st_ino for p in folder.rglob("*.h5") if p.name in kept} == kept


@pytest.mark.parametrize("damaged", [False, True])
def test_a_finished_climatology_is_kept(
    cmip6: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    cmip6("tas", times=cmip6.six_hourly(20))
    undisturbed = digests(pack(settings(steps_per_shard=4, output=str(tmp_path / "undisturbed"))).parent)
    config, real = settings(steps_per_shard=4), pack_module.write_manifest

    def full_disk(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack_module, "write_manifest", full_disk)
    with pytest.raises(UserError, match="no space is left"):
        pack(config)
    monkeypatch.setattr(pack_module, "write_manifest", real)
    folder = tmp_path / "out"
    assert finished_units(folder) == 5 + 5 + 5 + 2 + 2  # moments, files, and the records of the files
    path = folder / NAME / "climatology.h5"
    before = path.stat().st_ino
    if damaged:
        raw = bytearray(path.read_bytes())
        raw[-9] ^= 1
        path.write_bytes(bytes(raw))
    pack(config)
    assert digests(folder) == undisturbed
    assert (path.stat().st_ino == before) != damaged


def _counted(reads: list[int]) -> Any:
    """`read_blocks` that records the first step of each call with something to read."""

    def counted(context: Any, source: Any, start: int, stop: int) -> Any:
        reads.extend([start] if start < stop else [])
        return read_blocks(context, source, start, stop)

    return counted


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_missing_or_damaged_kept_fields_do_not_change_the_bytes(
    cmip6: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    cmip6("tas", times=cmip6.six_hourly(20))
    packed = {}
    for how in ("kept", "read twice", "spoilt"):
        output = str(tmp_path / how)
        config = settings(
            output=output, steps_per_shard=7, keep_first_pass=how != "read twice", compression=compression
        )
        if how == "spoilt":
            monkeypatch.setattr(pack_module, "write_work_unit", _spoil_then_write)
        packed[how] = digests(pack(config).parent)
    assert packed["kept"] == packed["read twice"] == packed["spoilt"]
    assert len(packed["kept"]) == 3 + 1 + 1 + 1


def _spoil_then_write(context: Any, unit: Any, header: Any) -> Any:
    """Flip a bit near the end of the fields that the first pass kept of a work unit, then write its shard."""
    path = context.output / FOLDER / f"{unit.file}.raw"
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(bytes(raw))
    return write_work_unit(context, unit, header)


def test_a_dry_run_prints_the_sizes_and_writes_nothing(
    cmip6: Any, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cmip6("tas", times=cmip6.six_hourly(400))
    pack(settings(steps_per_shard=150, dry_run=True))
    output = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert re.search(rf"{NAME}: 1 channels, 1 static, 400 steps .* 0 gaps; 1 input files, 0\.5 MB", output)
    expected = [float(size) for size in re.findall(r"\.h5: \d+ steps, .* (\S+) MB$", output, re.MULTILINE)]
    shards = read_manifest(pack(settings(steps_per_shard=150)).parent).sources[NAME].shards
    assert expected == pytest.approx([shard.bytes / 1e6 for shard in shards], abs=0.011)
    assert re.search(r"1 sources, 3 shards: .* of shards, .* MB are free in .*nothing was written", output)


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line_and_the_next_run_resumes(
    cmip6: Any, settings: Settings, tmp_path: Path
) -> None:
    cmip6("tas", times=cmip6.six_hourly(4 * 365), calendar="noleap")
    undisturbed = digests(pack(settings(output=str(tmp_path / "undisturbed"), dtype="float16")).parent)
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--grid_spacing_deg", "22.5"]
    command = [sys.executable, "-m", "climax_hpc", "pack", *arguments]
    for limit in (100_000, 600_000):  # maximum bytes of a file: too few for the shard, for the climatology
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=_file_limit(limit))
        assert done.returncode == 2
        assert re.fullmatch(
            r"climax-hpc: error: output: no space is left for \S+ \(File too large\); .* same command again.*\n",
            done.stderr,
        )
        left = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
        shards = {name for name in left if not name.startswith((".first_pass/", "pack_state.json"))}
        expected = {name for name in undisturbed if "static" in name or ("_1850" in name and limit > 200_000)}
        assert shards == expected
    run(command[3:])
    assert digests(tmp_path / "out") == undisturbed


def _file_limit(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    cmip6: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cmip6("tas")
    monkeypatch.setattr("climax_hpc.data_prep.packing.output_folder.free_bytes", lambda folder: 1000)
    with pytest.raises(
        UserError, match=r"output: .*/out needs about 94 kB more, but only 1 kB are free; free some space"
    ):
        pack(settings())
    assert not (tmp_path / "out").exists()
