"""Input files that are not packed: the reason of each, the order of reasons, and the lines that report them."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

_MOST_LINES = 40


class Cause(IntEnum):
    """What keeps a file from being packed; the smallest is what a user wants to know first."""

    UNUSABLE = 0
    """Something is wrong with it, or it is of a form that cannot be packed."""
    NOT_SELECTED = 1
    """Another config would pack it."""
    NEVER_PACKED = 2
    """It is no input: another type of file, or a variable that is not in the registry."""


@dataclass(frozen=True, kw_only=True)
class SkippedFile:
    """A file, or one of its variables, that is not packed; a file with several reasons has several entries."""

    file: str
    """Path relative to the input folder."""
    reason: str
    variable_id: str = ""
    """CMIP6 name of the variable that is lost, if it is known."""
    cause: Cause = Cause.UNUSABLE

    def to_json(self) -> dict[str, str]:
        """The entry of the manifest."""
        return {"file": self.file, "reason": self.reason}


def in_order(skipped: Iterable[SkippedFile]) -> list[SkippedFile]:
    """Each file and reason once, the decisive reasons first, then by file."""
    once = {(s.file, s.reason): s for s in skipped}
    return sorted(once.values(), key=lambda s: (s.cause, s.file, s.reason))


def skip_reasons(skipped: Iterable[SkippedFile], count: int) -> str:
    """Why files are left out, on one line: the first `count` reasons in order."""
    ordered = in_order(skipped)
    more = f"; and {len(ordered) - count} more" if len(ordered) > count else ""
    return "; ".join(f"{s.file}: {s.reason}" for s in ordered[:count]) + more


def skipped_lines(entries: Iterable[dict[str, str]]) -> list[str]:
    """One line per reason of a manifest's `skipped`, in its order: an example and the number of the others."""
    files: dict[str, list[str]] = {}
    for entry in entries:
        files.setdefault(entry["reason"], []).append(entry["file"].rsplit("/", 1)[-1])
    lines = [
        f"skipped {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {reason}"
        for reason, found in files.items()
    ]
    if (more := len(lines) - _MOST_LINES) > 0:
        lines[_MOST_LINES:] = [f"skipped for {more} more reasons; `skipped` in manifest.json holds all"]
    return lines
