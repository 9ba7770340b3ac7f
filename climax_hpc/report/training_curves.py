"""Training curves and settings of the runs that the config of a report names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from climax_hpc.errors import UserError
from climax_hpc.utils.files import open_plain


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """What a training run logged."""

    label: str
    steps: list[int]
    loss: list[float]
    learning_rate: list[float]
    config: str
    """config.yaml as text; empty where the folder has none."""

    @classmethod
    def load(cls, label: str, folder: str | Path) -> "RunHistory":
        """Read metrics.jsonl and config.yaml of a run folder.

        Raises:
            UserError: no metrics, or a malformed line.
        """
        path = Path(folder) / "metrics.jsonl"
        try:
            with open_plain(path) as file:
                lines = file.read().decode("utf-8", errors="replace").splitlines()
        except OSError as error:
            raise UserError(
                f"runs: cannot read {path} of {label!r} ({error.strerror}): give the folder of a training run"
            ) from None
        try:
            rows = [row for row in map(json.loads, lines) if "event" not in row and "validation_loss" not in row]
            steps = [int(row["step"]) for row in rows]
            loss, rate = ([float(row[key]) for row in rows] for key in ("loss", "learning_rate"))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"runs: {path} of {label!r} has a bad line ({error}): start the run again") from None
        if not rows:
            raise UserError(f"runs: {path} of {label!r} is empty: train first, or leave the run out")
        config = Path(folder) / "config.yaml"
        text = config.read_text(encoding="utf-8") if config.is_file() else ""
        return cls(label=label, steps=steps, loss=loss, learning_rate=rate, config=text)


def load_histories(runs: Mapping[str, str]) -> list[RunHistory]:
    """The histories of labelled run folders; raises as `RunHistory.load`."""
    return [RunHistory.load(label, folder) for label, folder in runs.items()]
