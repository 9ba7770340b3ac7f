"""The normalisation of a run, fitted once and kept in the run folder, so that no later start fits it again.

RUN/normalisation.json: what determines it (data, sources, settings), the numbers, and the file's own hash.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.normalisation_fit import FIT_VERSION
from climax_hpc.data.shared_work import read_by_first
from climax_hpc.errors import UserError
from climax_hpc.utils.files import parse_json, read_bytes
from climax_hpc.utils.typed_json import Sha256, check_schema, check_seal, typed, write_sealed

FILE_NAME = "normalisation.json"
_SCHEMA, _VERSION = "climax_hpc/normalisation", 1
_FIX = "it is fitted again"


@dataclass(frozen=True, kw_only=True)
class KeptNormalisation:
    """A normalisation as fitted to the data, before that of a checkpoint is merged into it."""

    determined_by: dict[str, Any]
    """Hash of the data, sources, period and settings, and the version of the fit: the same ones give the same bits."""
    normalisation: Normalisation
    schema: str = field(default=_SCHEMA)
    schema_version: int = field(default=_VERSION)
    sha256: Sha256 | None = None
    """Of the file itself."""

    @property
    def is_stored(self) -> bool:
        """True if it comes from the run folder."""
        return self.sha256 is not None

    @property
    def reads_fields(self) -> bool:
        """True if fields were read for it, which takes long; otherwise all of it is in the manifest."""
        return self.normalisation.mode == "anomaly" or bool(self.determined_by.get("tendencies"))

    def write(self, run_folder: Path) -> None:
        """Write it into the run folder, atomically; called by one rank.

        Raises:
            OSError: the disk is full.
        """
        content = {"determined_by": self.determined_by, "normalisation": self.normalisation.to_dict()}
        write_sealed(run_folder / FILE_NAME, {"schema": _SCHEMA, "schema_version": _VERSION, **content})


def kept_or_fitted(
    run_folder: Path, determined_by: Mapping[str, Any], fit: Callable[[], Normalisation]
) -> KeptNormalisation:
    """The normalisation that the run folder keeps, where the same determines it; else `fit()`, which all ranks call.

    Rank 0 reads the file for all.

    Raises:
        UserError: as `fit`.
    """
    wanted = {"version": FIT_VERSION, **determined_by}
    kept = read_by_first(lambda: _read(run_folder / FILE_NAME))
    if kept is not None and kept.determined_by == wanted:
        return kept
    return KeptNormalisation(determined_by=wanted, normalisation=fit())


def _read(path: Path) -> KeptNormalisation | None:
    """The file; None where it is absent or damaged, which a line says."""
    if not path.is_file():
        return None
    try:
        raw = read_bytes(path, "the normalisation of a run")
        content = parse_json(raw, path, "the normalisation of a run")
        check_schema(content, _SCHEMA, _VERSION, str(path), _FIX)
        found: KeptNormalisation = typed(content, KeptNormalisation, str(path), _FIX)
        check_seal(raw, found.sha256, str(path), _FIX)
    except UserError as error:
        print(f"climax-hpc: warning: {error}", file=sys.stderr, flush=True)
        return None
    return found
