"""`climax-hpc repack`: the bytes of a pack with these chunks, in both directions; kills, damage, refused outputs."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from climax_hpc.data_prep import repack as repack_module
from climax_hpc.data_prep.config import PackConfig, RepackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.output_folder import STATE
from climax_hpc.data_prep.repack import repack
from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest

from .packed import NAME, digests, physical

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
Settings = Callable[..., PackConfig]

# Kills itself before the third file; the second call ends.
KILLED = """
import os, signal, sys
from climax_hpc.data_prep import repack as module
from climax_hpc.data_prep.config import RepackConfig
real, calls = module._write, []
def write(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        arguments[2].write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)
module._write = write
module.repack(RepackConfig(dataset=sys.argv[1], output=sys.argv[2], chunks="2x3"))
"""
RUN = """
import sys
from climax_hpc.data_prep.config import RepackConfig
from climax_hpc.data_prep.repack import repack
repack(RepackConfig(dataset=sys.argv[1], output=sys.argv[2], chunks="2x3"))
"""


@pytest.fixture
def packed(cmip6: Any, settings: Settings, tmp_path: Path) -> Callable[..., Path]:
    """Packs three channels on 8 × 16 cells in four shards and a climatology; the folder."""
    cmip6("tas", times=cmip6.six_hourly(12))
    cmip6("ta", times=cmip6.six_hourly(12), plev_hpa=[850, 500])

    def make(name: str, **changes: Any) -> Path:
        return pack(settings(output=str(tmp_path / name), steps_per_shard=3, **changes)).parent

    return make


def again(dataset: Path, name: str, chunks: str = "auto") -> Path:
    return repack(RepackConfig(dataset=str(dataset), output=str(dataset.parent / name), chunks=chunks)).parent


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("chunks", ["2x3", "1x8", "3x5"])
def test_bytes_are_those_of_a_pack_in_both_directions(packed: Any, compression: str, chunks: str) -> None:
    whole, bands = packed("whole", compression=compression), packed("bands", compression=compression, chunks=chunks)
    np.testing.assert_array_equal(physical(whole), physical(bands))
    assert digests(whole) != digests(bands)
    assert digests(again(whole, "to", chunks)) == digests(bands)
    assert digests(again(bands, "back")) == digests(whole)
    assert read_manifest(bands).settings["chunks"] == chunks
    assert "chunks" not in read_manifest(whole).settings
    with h5py.File(bands / read_manifest(bands).sources[NAME].shards[0].file) as file:
        assert file["fields"].chunks == (1, *(int(size) for size in chunks.split("x")), 16)


def test_small_steps_stay_in_one_chunk(packed: Any) -> None:
    """Same files; `step` is another setting than `auto`, which only decides the same here."""
    files = [
        {name: digest for name, digest in digests(packed(chunks, chunks=chunks)).items() if name.endswith(".h5")}
        for chunks in ("auto", "step")
    ]
    assert files[0] == files[1]


def test_statistics_and_climatology_stay(packed: Any) -> None:
    whole = packed("whole")
    before, after = (read_manifest(folder).sources[NAME] for folder in (whole, again(whole, "to", "1x3")))
    for key in ("statistics", "grid", "gaps", "identity", "channels", "static"):
        assert getattr(before, key) == getattr(after, key)
    assert [s.steps for s in after.shards] == [3, 3, 3, 3]
    assert after.climatology is not None
    assert before.climatology is not None
    assert (after.climatology.slots, after.climatology.sha256) != (before.climatology.slots, before.climatology.sha256)


def test_kill_9_then_the_same_command_resumes(packed: Any) -> None:
    whole, undisturbed = packed("whole"), digests(packed("bands", chunks="2x3"))
    output = whole.parent / "to"
    done = subprocess.run([sys.executable, "-c", KILLED, str(whole), str(output)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    kept = {path: path.stat().st_ino for path in output.rglob("*.h5")}
    assert len(kept) == 2
    with pytest.raises(UserError, match=r"interrupted pack with other chunks; use the same ones"):
        again(whole, "to", "1x3")
    with pytest.raises(UserError, match="is not a finished data set"):
        verify(output)
    again(whole, "to", "2x3")
    assert digests(output) == undisturbed
    assert {path: path.stat().st_ino for path in kept} == kept


def test_a_damaged_file_of_an_interrupted_repack_is_written_again(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, undisturbed = packed("whole"), digests(packed("bands", chunks="2x3"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repack_module, "write_manifest", full)
    with pytest.raises(UserError, match=r"no space is left for .*same command again"):
        again(whole, "to", "2x3")
    monkeypatch.undo()
    path = sorted((whole.parent / "to").rglob("*.h5"))[0]
    raw = bytearray(path.read_bytes())
    raw[-3000] ^= 1
    path.write_bytes(bytes(raw))
    assert digests(again(whole, "to", "2x3")) == undisturbed


def test_a_disk_that_fills_up_is_that_of_the_output(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = packed("whole")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repack_module, "reserve", full)
    with pytest.raises(UserError, match=r"^output: no space is left for .*/to \(No space left on device\)"):
        again(whole, "to", "2x3")


def test_damage_is_named_and_what_was_finished_is_kept(packed: Any) -> None:
    whole = packed("whole")
    entry = read_manifest(whole).sources[NAME].shards[2]
    path = whole / entry.file
    with h5py.File(path) as file:
        place = file["fields"].id.get_chunk_info(1).byte_offset + 40
    sound = path.read_bytes()
    path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
    with pytest.raises(UserError, match=rf"{path}: time step 1 does not match its checksum; restore it"):
        again(whole, "to", "2x3")
    output = whole.parent / "to"
    assert (output / STATE).is_file()
    assert len(list(output.rglob("*.h5"))) == 2
    assert not list(output.rglob("*.tmp"))
    path.write_bytes(sound)
    assert len(verify(again(whole, "to", "2x3")).sources[NAME].shards) == 4


def test_outputs_in_use_are_refused(packed: Any, tmp_path: Path) -> None:
    whole = packed("whole")
    before = digests(whole)
    for output in (whole, whole / "below"):
        with pytest.raises(UserError, match=r"^output: .* lies in the data set .*; choose another folder"):
            repack(RepackConfig(dataset=str(whole), output=str(output)))
    packed("other")
    with pytest.raises(UserError, match=r"^output: .*other already contains a data set"):
        again(whole, "other")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"^output: .*foreign is not empty \(notes\)"):
        again(whole, "foreign")
    assert os.listdir(foreign) == ["notes"]
    assert digests(whole) == before


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    packed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = packed("whole")
    monkeypatch.setattr("climax_hpc.data_prep.packing.output_folder.free_bytes", lambda _: 1000)
    with pytest.raises(UserError, match=r"^output: .*to needs about .* more, but only 1 kB are free"):
        again(whole, "to", "2x3")
    assert not (whole.parent / "to").exists()


@pytest.mark.parametrize("key", ["dataset", "output"])
def test_empty_paths_are_refused(key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: is empty; give a folder"):
        RepackConfig(**({"dataset": "a", "output": "b"} | {key: ""}))


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="so it is not a finished data set; run `climax-hpc pack`"):
        again(tmp_path, "to")


@pytest.mark.parametrize("config", [PackConfig, RepackConfig])
def test_chunks_are_checked_with_the_settings(config: Any) -> None:
    common = {"input": "in"} if config is PackConfig else {"dataset": "in"}
    with pytest.raises(UserError, match=r"^chunks: '4 MiB' is not auto, step"):
        config(**common, output="out", chunks="4 MiB")


@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="mpiexec is not installed")
def test_ranks_give_the_same_bytes(packed: Any) -> None:
    whole, expected = packed("whole"), digests(packed("bands", chunks="2x3"))
    output = whole.parent / "to"
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-c", RUN, str(whole), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("repacked 6 files") == 1
    assert digests(output) == expected
