"""A simulation on its way: its folder beside the output, which one process at a time holds, and what is there already.

OUTPUT/../.OUTPUT-SOURCE-rMEMBER-partial/   settings.json, member/ (finished files), state/ (model and unwritten steps)
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import netCDF4

from climax_hpc.data_prep.simulation.config import Source
from climax_hpc.data_prep.simulation.driver_settings import (
    RECORD,
    driver_settings,
    drs_member,
    ensemble_folder,
    record,
)
from climax_hpc.data_prep.simulation.ensemble import INITIALIZATION
from climax_hpc.errors import UserError
from climax_hpc.utils.files import read_json, write_json
from climax_hpc.utils.folder_lock import LOCK, FolderLock

_KEYS = {"channels": "variables"}
"""Name in the records -> key of the config, where they differ."""


def member_folder(source: Source, output: Path) -> Path:
    """Folder of the finished simulation."""
    return output / drs_member(source.parameter_set, source.realization)


def ensemble_folders(source: Source, output: Path) -> dict[int, Path]:
    """Number -> folder of each finished member of its ensemble; none without one."""
    numbers = range(1, (source.config.members or 0) + 1)
    return {number: output / drs_member(source.parameter_set, number, INITIALIZATION) for number in numbers}


def partial_folder(source: Source, output: Path) -> Path:
    """Folder of an unfinished simulation, beside the output."""
    return output.parent / f".{output.name}-{source.parameter_set}-r{source.realization}-partial"


class Unfinished:
    """The folder of an unfinished simulation, held by this process until `close`; outside `output`, which is packed."""

    def __init__(self, source: Source, output: Path) -> None:
        """Take the folder; that of an interrupted simulation with the same settings goes on.

        Raises:
            UserError: another process holds it, it has other settings, or it cannot be written.
        """
        self.source, self._output = source, output
        self.folder = partial_folder(source, output)
        self.settings = self.folder / "settings.json"
        try:
            output.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            self._lock = FolderLock(self.folder / LOCK, output, "output")
        except OSError as error:
            raise UserError(f"output: {output}: {error.strerror}; choose a folder that you can write to") from error
        self._held = True
        try:
            self._prepare()
        except BaseException:
            self._lock.release()
            raise

    def _prepare(self) -> None:
        if not self._has_state():
            for written in [self.folder / "member", *self._ensemble]:
                shutil.rmtree(written, ignore_errors=True)
            write_json(self.settings, driver_settings(self.source, self.folder))
            return
        settings = read_json(self.settings, "the settings of an unfinished simulation; delete its folder")
        found = json.loads(settings["attributes"][RECORD])
        if differing := _differences(self.source, found, settings["facets"]["version"]):
            raise UserError(
                f"{self.folder}: holds an unfinished simulation of {self.source.label} with other settings "
                f"({differing}); finish it with its own, or delete this folder"
            )

    def _has_state(self) -> bool:
        return (self.folder / "state" / "model").exists()

    @property
    def _ensemble(self) -> dict[Path, Path]:
        """Where the driver writes each member of the ensemble -> its place."""
        found = ensemble_folders(self.source, self._output).items()
        return {ensemble_folder(self.folder, number): place for number, place in found}

    def finish(self) -> Path:
        """Put the complete member in its place, after those of its ensemble; returns its folder.

        Raises:
            UserError: another process has put one there.
        """
        member = member_folder(self.source, self._output)
        member.parent.mkdir(parents=True, exist_ok=True)
        for written, place in [*self._ensemble.items(), (self.folder / "member", member)]:
            if not written.exists() and place.exists():
                continue  # put there before an interruption
            if place.exists():
                raise UserError(f"{place}: was written by another process meanwhile; its output is kept")
            shutil.move(written, place)  # a rename, unless `output` is a mount point
        shutil.rmtree(self.folder)
        self._held = False
        self._lock.release()
        return member

    def close(self) -> bool:
        """Let the folder go, and remove it if it has nothing to go on from; returns whether it stays."""
        stays = self._has_state()
        if self._held and not stays:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._held = False
        self._lock.release()
        return stays


def is_finished(source: Source, output: Path) -> bool:
    """True if the member is there, complete and simulated with the same settings.

    Raises:
        UserError: it is there with other settings, or without a record of them.
    """
    member = member_folder(source, output)
    places = ensemble_folders(source, output).values()
    if not member.exists():
        if (partial_folder(source, output) / "state" / "model").exists():
            return False
        for place in places:
            if place.exists():
                raise UserError(f"{place}: already exists without its control; delete it, or choose another output")
        return False
    found, version = _record_of(member)
    differing = _differences(source, found, version) if found else "without a record of its settings"
    if differing:
        other = f"with other settings: {differing}" if found else differing
        raise UserError(f"{member}: already exists, {other}; delete it, or choose another realization or output")
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: is missing, while its control {member.name} is there; delete that, too")
    return True


def _record_of(member: Path) -> tuple[dict[str, Any] | None, str]:
    """Settings and version of a finished member, from the header of its orography."""
    for path in sorted(member.glob("fx/orog/*/*/*.nc")):
        try:
            with netCDF4.Dataset(path) as file:
                if RECORD in file.ncattrs():
                    return json.loads(file.getncattr(RECORD)), path.parent.name
        except OSError:
            break
    return None, ""


def _differences(source: Source, found: Mapping[str, Any], version: str) -> str:
    """Settings in which a simulation that is there differs from a wanted one, in words; empty if none does."""
    wanted = json.loads(json.dumps(record(source))) | {"version": source.config.version or version}
    there = {**found, "version": version}
    return ", ".join(
        f"other {_KEYS.get(key, key)}"
        if isinstance(value, list | dict)
        else f"{key} {there.get(key)} there, {value} wanted"
        for key, value in wanted.items()
        if there.get(key) != value
    )
