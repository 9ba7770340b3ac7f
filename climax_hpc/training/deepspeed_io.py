"""DeepSpeed's checkpoint files: hashed while written, errors kept until all ranks agree; read without running code."""

import copy
import hashlib
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError

_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_MODEL_STATES_OF_A_RANK = re.compile(r"zero_pp_rank_\d+_mp_rank_00_model_states\.pt")  # at ZeRO stage 3


@contextmanager
def loading_no_code() -> Iterator[None]:
    """Let `torch.load` read tensors, plain values and DeepSpeed's own states only, also where DeepSpeed calls it.

    DeepSpeed asks for unrestricted pickles, which can run any code.

    Raises:
        UserError: a file holds anything else; nothing of it is run.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = {key: os.environ.pop(key, None) for key in (_FORCE, _FORCE_NOT)}
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals([fragment_address, ZeroStageEnum, LossScaler, DynamicLossScaler]):
            yield
    except UnpicklingError as error:
        raise UserError(
            "a file of the checkpoint holds more than tensors and DeepSpeed's states, which could run code: nothing of "
            f"it is loaded; use an older checkpoint ({str(error).splitlines()[0]})"
        ) from None
    finally:
        del os.environ[_FORCE]
        os.environ.update({key: value for key, value in before.items() if value is not None})


class HashingWriter:
    """A binary file that is hashed while it is written, so that it need not be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self.error: OSError | None = None
        """What the system refused; torch reports it in words that do not say so."""

    def write(self, data: Any) -> int:
        """Append bytes."""
        self._digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Pass buffered bytes to the operating system."""
        self._file.flush()

    @property
    def sha256(self) -> str:
        """Hash of everything written."""
        return self._digest.hexdigest()


def host_copy(state: Any) -> Any:
    """A copy of nested dicts, lists and tuples in the host's memory, which later steps do not change.

    A tensor of a GPU is copied to pinned memory without waiting: synchronise before the copy is read.
    """
    if torch.is_tensor(state):
        if state.ndim and not any(state.stride()) and state.numel():  # one number repeated
            return host_copy(state.as_strided((1,), (1,))).expand(state.shape)
        copied = torch.empty_like(state, device="cpu", pin_memory=state.is_cuda)
        return copied.copy_(state.detach(), non_blocking=True)
    if type(state) in (dict, OrderedDict):
        return type(state)((key, host_copy(value)) for key, value in state.items())
    if type(state) in (list, tuple):
        return type(state)(host_copy(value) for value in state)
    return copy.deepcopy(state)


def fingerprint(state: Any) -> bytes:
    """sha256 of nested dicts, lists and tuples with their tensors and plain values [32 bytes]; equal if all are."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if torch.is_tensor(value):
            add((str(value.dtype), list(value.shape)))
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            return
        items = value.items() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else None
        content = pickle.dumps(value, protocol=4) if items is None else b"%d" % len(value)
        digest.update(b"%s %d " % (type(value).__name__.encode(), len(content)) + content)
        for item in items or ():
            add(item)

    add(state)
    return digest.digest()


class HashingCheckpointEngine:
    """Replaces DeepSpeed's checkpoint engine.

    DeepSpeed has barriers between its files, so a rank that raised on a full disk would leave the others waiting. An
    error is kept instead, and `save.py` lets all ranks agree on it.

    At stage 3 DeepSpeed writes the model states on every rank, though they hold no weights and are the same: 8000 more
    files for 8000 ranks. Here rank 0 alone writes them, once the ranks have found them equal.
    """

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        """sha256 of every file that this rank wrote since `reset`, by path."""
        self.error: Exception | None = None
        """The first error of this rank since `reset`."""
        self._postpones = False
        self._postponed: list[tuple[Any, str]] = []

    def reset(self, *, postpone: bool) -> None:
        """Forget the last checkpoint; `postpone`: `save` copies, and `write_postponed` writes, perhaps in a thread."""
        self.digests, self.error = {}, None
        self._postpones, self._postponed = postpone, []

    def save(self, state_dict: Any, path: str) -> None:
        """Write a file, or copy what belongs into it; all ranks call this together for model states at stage 3."""
        if _MODEL_STATES_OF_A_RANK.fullmatch(Path(path).name):
            same = process_group.same_on_all(fingerprint(state_dict))
            if same and torch.distributed.get_rank() > 0:
                return
        if not self._postpones:
            self._write(state_dict, path)
            return
        try:
            self._postponed.append((host_copy(state_dict), path))
        except RuntimeError as error:  # torch's word for a host without memory
            self.error = self.error or error

    def write_postponed(self) -> None:
        """Write the files that `save` has copied, and free the copies."""
        while self._postponed:
            self._write(*self._postponed.pop(0))

    def _write(self, state_dict: Any, path: str) -> None:
        """torch.save with a hash and an fsync."""
        if self.error:
            return
        writer = None
        try:
            with open(path, "wb") as file:
                writer = HashingWriter(file)
                torch.save(state_dict, writer)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            self.digests[path] = writer.sha256
        except (OSError, RuntimeError) as error:  # torch wraps errors of its zip writer
            self.error = (writer and writer.error) or error

    def load(self, path: str, map_location: Any = None) -> Any:
        """The content of a file of a verified checkpoint; call it within `loading_no_code`."""
        return torch.load(path, map_location=map_location, weights_only=True)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Create a folder."""
        try:
            Path(path).mkdir(parents=True, exist_ok=exist_ok)
        except OSError as error:
            self.error = self.error or error

    def create(self, info: Any) -> None:
        """Called by DeepSpeed before a checkpoint."""

    def commit(self, info: Any) -> bool:
        """Called by DeepSpeed after the last file."""
        return True

    def is_decoupled(self) -> bool:
        """False: files are complete when `save` returns."""
        return False

    def preserves_storage_sharing(self) -> bool:
        """True: a view would be saved with its whole storage."""
        return True
