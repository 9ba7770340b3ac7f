"""How DeepSpeed's files reach the disk: hashed while written, flushed, errors kept until all ranks can agree."""

import hashlib
import os
from pathlib import Path
from typing import IO, Any

import torch


class HashingWriter:
    """A binary file that is hashed as it is written, so that it need not be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Append bytes."""
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._digest.hexdigest()


class HashingCheckpointEngine:
    """Takes the place of DeepSpeed's checkpoint engine.

    DeepSpeed has barriers between its files, so a rank that raised at a full disk would leave the others waiting: an
    error is kept instead, and `checkpoint_writer` lets all ranks agree on it.
    """

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        """Path of every file written by this rank since `reset` -> sha256."""
        self.error: Exception | None = None
        """The first error of this rank since `reset`."""

    def reset(self) -> None:
        """Forget files and error of the last checkpoint."""
        self.digests, self.error = {}, None

    def save(self, state_dict: Any, path: str) -> None:
        """torch.save with a hash and an fsync."""
        if self.error:
            return
        try:
            with open(path, "wb") as file:
                writer = HashingWriter(file)
                torch.save(state_dict, writer)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            self.digests[path] = writer.sha256
        except (OSError, RuntimeError) as error:  # torch wraps what its zip writer meets
            self.error = error

    def load(self, path: str, map_location: Any = None) -> Any:
        """Unpickle a file of a verified checkpoint."""
        return torch.load(path, map_location=map_location, weights_only=False)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder."""
        try:
            Path(path).mkdir(parents=True, exist_ok=exist_ok)
        except OSError as error:
            self.error = self.error or error

    def create(self, info: Any) -> None:
        """DeepSpeed announces a checkpoint."""

    def commit(self, info: Any) -> bool:
        """DeepSpeed has written all files."""
        return True

    def is_decoupled(self) -> bool:
        """Files are written when `save` returns."""
        return False

    def preserves_storage_sharing(self) -> bool:
        """A view would be saved with its whole storage."""
        return True
