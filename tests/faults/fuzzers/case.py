"""One case of a fuzzer: a command, what is damaged before it, and what may come of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Action = Callable[[Path], None]


def nothing(folder: Path) -> None:
    """No damage."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command on one damaged copy of the files, which is the current folder."""

    name: str
    """Says what is damaged, with the seed: enough to run it again."""
    verb: str
    words: tuple[str, ...] = ()
    """Words after the verb; `--config VERB.yaml` where empty."""
    call: Action | None = None
    """Called instead of the command line, for what is only in the Python API; `verb` names its result."""
    before: Action = nothing
    """Changes files without damage; also called where the right result is computed."""
    damage: Action = nothing
    """Changes files."""
    enclose: Action = nothing
    """Called after the damage: mounts, limits, permissions."""
    afterwards: Action | None = None
    """Called after the command; the result must then be right, also after a refusal."""
    again: bool = False
    """After a refusal and `afterwards`, the command is run again and must succeed."""
    anywhere: bool = False
    """The words may name an output of any name."""
    expects: str = "same"
    """`same`: the same result or a refusal; `refused`: a refusal alone; `free`: any result is right."""
    names: tuple[str, ...] = ()
    """A refusal must hold one of these; empty: a path or a config key."""
    tells: tuple[str, ...] = ()
    """Output that holds one of these explains another result."""
    reread: Callable[[Path], str] | None = None
    """Content of the damaged input by an independent reader: another result is right where it differs."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Words after the verb."""
        return self.words or (() if self.call else ("--config", f"{self.verb}.yaml"))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a forked process did."""

    status: int
    """Exit status; negative: ended by this signal."""
    seconds: float
    """Duration on a quiet machine."""
    output: str = ""
    errors: str = ""
    result: str = ""
    """Digest of the result (results.py)."""
    found: str = ""
    """What `Case.reread` found."""
    left: tuple[str, ...] = ()
    """New files that no other command expects."""
    outside: tuple[str, ...] = ()
    """New files where the command should not have written."""
    again: str = ""
    """Why the next run failed, of cases with `again`."""
    wall: float = 0.0
    """Duration on this machine."""
