"""The folder of one training run: resolved config, provenance, metrics as JSON lines and for TensorBoard.

RUN/config.yaml        every setting, as used
RUN/provenance.json    versions, git commit, data manifest hash, launcher, device, loss weights of the variables
RUN/normalisation.json the normalisation as fitted to the data, if fields were read for it (kept_normalisation.py)
RUN/transfer.json      report of a weight transfer: what comes from the checkpoint, what is new
RUN/metrics.jsonl      one line per logged step, with its time [s since 1970]; lines without `loss` are validations and
                       events (spike, rollback)
RUN/tensorboard/       the same for TensorBoard
RUN/starts.jsonl       how long each start took, by part (start_up.py)
RUN/checkpoints/       see checkpoint/format.py
RUN/state.json         see run_status.py
RUN/stacks/            stack dumps of all ranks after a hang (distributed/heartbeat.py)
"""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from torch.utils.tensorboard import SummaryWriter

from climax_hpc.config.parser import default_settings, to_dict
from climax_hpc.config.renamed_keys import translate
from climax_hpc.config.yaml_checks import check_yaml
from climax_hpc.distributed.launcher import World
from climax_hpc.errors import UserError
from climax_hpc.training.kept_normalisation import FILE_NAME as KEPT
from climax_hpc.utils.atomic import explained, write_together
from climax_hpc.utils.files import json_writer, text_writer, write_text
from climax_hpc.utils.folder_lock import is_empty
from climax_hpc.utils.provenance import Provenance, provenance
from climax_hpc.utils.typed_json import read_typed

# Settings that may differ when a run is resumed: they change what is computed by rounding at most.
_MAY_DIFFER = (
    "run_folder", "resume_from", "checkpoint_every", "keep_checkpoints", "keep_best", "background_checkpoints",
    "max_rollbacks", "hang_timeout", "log_every", "threads", "compile", "sequence_parallel", "zero_hpz", "stage_to",
)  # fmt: skip
# May differ too where the learning rate is constant before its cool-down; `resume.check_length` decides whether the
# checkpoint allows it.
_LENGTH = ("train.steps", "optimizer.cooldown_steps")


class RunFolder:
    """Writes a run's files; only the first rank has one."""

    def __init__(
        self,
        path: Path,
        config: Any,
        *,
        world: World,
        manifest_sha256: str,
        transferred: dict[str, Any] | None = None,
    ) -> None:
        """Check that the folder is new, or that of an interrupted run with the same settings and data; writes nothing.

        Raises:
            UserError: the folder contains something else, or a run with other settings or data (named in the message).
        """
        if wild := set(str(path)) & set("*?[]"):
            raise UserError(
                f"run folder {path} contains {' '.join(sorted(wild))}, which DeepSpeed takes for wild cards when it "
                "loads a checkpoint: choose another name with --run_folder"
            )
        self.path, self._settings = path, to_dict(config)
        self._provenance = provenance(ranks=world.size, launcher=world.launcher, manifest_sha256=manifest_sha256)
        self._transferred = transferred
        if (path / "config.yaml").is_file():
            _check_same(path, self._settings, default_settings(type(config)), manifest_sha256)
        elif path.exists() and (not path.is_dir() or not is_empty(path, but=(KEPT,))):
            raise UserError(
                f"run folder {path} is not empty and contains no climax_hpc run: choose another with --run_folder"
            )
        self._metrics: Any = None
        self._board: Any = None

    def record(self, **values: Any) -> None:
        """Add to the provenance what is known before the start."""
        self._provenance |= values

    def start(self, step: int) -> None:
        """Write the run's files and open the logs after `step` steps; lines of later steps are removed."""
        with explained(self.path, self.path):
            writes = {"provenance.json": json_writer(self._provenance)}
            writes |= {"transfer.json": json_writer(self._transferred)} if self._transferred else {}
            # The config is what makes the folder one of a run, so it comes last.
            writes["config.yaml"] = text_writer(yaml.safe_dump(self._settings, sort_keys=False))
            write_together({self.path / name: write for name, write in writes.items()})
            self._open_logs(step, keep_events=False)

    def go_back(self, step: int) -> None:
        """Remove the log lines after `step` steps, except events."""
        self.close()
        self._open_logs(step, keep_events=True)

    def _open_logs(self, step: int, *, keep_events: bool) -> None:
        path = self.path / "metrics.jsonl"
        if path.exists():
            rows = [(line, _row(line)) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            kept = [line for line, row in rows if row and (row["step"] <= step or (keep_events and "event" in row))]
            write_text(path, "".join(line + "\n" for line in kept))
        self._metrics = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Write one line of metrics after `step` steps; numbers go to TensorBoard too, of an event the floats.

        Raises:
            UserError: the line cannot be written.
        """
        try:
            self._metrics.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
            self._metrics.flush()
            for name, value in values.items():
                # Integers of an event, as the rank of a straggler, are no curve.
                if isinstance(value, float) or (isinstance(value, int) and "event" not in values):
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            raise UserError(
                f"cannot write {self.path / 'metrics.jsonl'} ({error.strerror}): earlier checkpoints are intact; free "
                "space, then start the same command again to resume from the last one"
            ) from None

    def close(self) -> None:
        """Close the logs."""
        if self._metrics:
            with suppress(OSError):  # a failed write was reported when it happened
                self._metrics.close()
                self._board.close()


def _check_same(path: Path, settings: dict[str, Any], defaults: dict[str, Any], manifest_sha256: str) -> None:
    stored = path / "config.yaml"
    check_yaml(stored)
    # Keys missing in the stored config are newer than the run, which used their defaults.
    given, now = _flat(translate(yaml.safe_load(stored.read_text(encoding="utf-8")) or {})), _flat(settings)
    maps = {key.rpartition(".")[0] for key in given}  # a map may replace a default that is none
    before = {key: value for key, value in _flat(defaults).items() if key not in maps} | given
    constant = before.get("optimizer.schedule") == now.get("optimizer.schedule") == "constant"
    changed = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key)
        and key.rsplit(".", 1)[-1] not in _MAY_DIFFER
        and not (constant and key in _LENGTH)
    )
    if changed:
        key = changed[0]
        raise UserError(
            f"run folder {path} has a run with other settings ({key}: {before.get(key)} there, {now.get(key)} now"
            f"{', and ' + str(len(changed) - 1) + ' more' if len(changed) > 1 else ''}): "
            "use the same settings to resume it, or another folder with --run_folder"
        )
    what, fix = "the provenance of a climax_hpc run", "use another folder with --run_folder"
    data = read_typed(path / "provenance.json", Provenance, what, fix).manifest_sha256
    if data != manifest_sha256:
        raise UserError(
            f"run folder {path} has a run on another data set (manifest {data[:12]}… there, {manifest_sha256[:12]}… "
            "now): use the same data.dataset to resume it, or another folder with --run_folder"
        )


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {prefix.rstrip("."): settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.")
    return flat


def _row(line: str) -> dict[str, Any] | None:
    """One line of the metrics; None if it was cut off, or is of something else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
