"""Mean and standard deviation of each variable from a file, for weights that come without their normalisation.

Three forms: the folder of ClimaX with normalize_mean.npz and normalize_std.npz; a YAML or JSON file
`{variable: {mean: …, std: …}}`; a packed data set, whose sources are pooled as in pretraining.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup, registry_name
from climax_hpc.shards.manifest import FILE_NAME
from climax_hpc.utils.files import check_is_plain_file
from climax_hpc.utils.system_errors import refuse_system_error

_CLIMAX = ("normalize_mean.npz", "normalize_std.npz")


def read_normalisation_table(path: Path, names: Collection[str]) -> tuple[Normalisation, list[str]]:
    """`full`-mode normalisation from one of the three forms, and the names of ClimaX's files that are left out.

    ClimaX's files hold what a download happened to have: of them only the variables `names` are read.

    Raises:
        UserError: none of these forms, an unknown variable, or a value that is not a finite number (std: above 0).
    """
    ignored: list[str] = []
    if (path / FILE_NAME).is_file():
        sources = DataSet(path).select(None)
        return fit_normalisation(sources, mode="full", period=None, min_lead_hours=6, max_lead_hours=6), []
    if all((path / name).is_file() for name in _CLIMAX):
        mean, std = (_read_npz(path / name) for name in _CLIMAX)
        ignored = sorted(name for name in mean.keys() | std.keys() if registry_name(name) not in names)
        mean, std = ({n: v for n, v in table.items() if n not in ignored} for table in (mean, std))
        if mean.keys() != std.keys():
            one_sided = ", ".join(sorted(mean.keys() ^ std.keys()))
            raise UserError(f"{path}: {one_sided} in only one of {' and '.join(_CLIMAX)}: restore both files")
        table = {name: {"mean": mean[name], "std": std[name]} for name in mean}
    elif path.is_file():
        table = _read_text(path)
    else:
        raise UserError(
            f"{path} holds no mean and standard deviation: give a packed data set, a folder with "
            f"{' and '.join(_CLIMAX)}, or a YAML file {{variable: {{mean: …, std: …}}}}"
        )
    pairs = {registry_name(name): _checked(path, name, entry) for name, entry in table.items()}
    for name in pairs:
        lookup(name)
    units = Normalisation(
        mode="full",
        mean={name: m for name, (m, _) in pairs.items()},
        std={name: s for name, (_, s) in pairs.items()},
        anomaly_std={}, lead_hours=[], r={}, s={},
    )  # fmt: skip
    return units, ignored


def _read_npz(path: Path) -> dict[str, Any]:
    check_is_plain_file(path, "an .npz of plain arrays")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name].reshape(-1) for name in file.files}
    except (OSError, ValueError) as error:
        refuse_system_error(error, path)
        raise UserError(f"{path} is not a readable .npz of plain arrays ({error})") from None


def _read_text(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable YAML or JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} is not a table {{variable: {{mean: …, std: …}}}}")
    return content


def _checked(path: Path, name: str, entry: Any) -> tuple[float, float]:
    if not isinstance(entry, dict) or entry.keys() != {"mean", "std"}:
        raise UserError(f"{path}: {name}: expected {{mean: …, std: …}}, found {entry!r}")
    try:
        mean, std = (float(np.asarray(entry[key]).item()) for key in ("mean", "std"))
    except (TypeError, ValueError):
        raise UserError(f"{path}: {name}: mean and std must be one number each, found {entry!r}") from None
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise UserError(f"{path}: {name}: mean {mean} and std {std} must be finite, and std above 0")
    return mean, std
