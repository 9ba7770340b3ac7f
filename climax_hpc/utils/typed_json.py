"""JSON files as dataclasses: types, ranges and keys are checked once, on reading; files that carry their own hash.

pydantic checks plain dataclasses against their annotations. Inconsistent fields raise ValueError in `__post_init__`.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from climax_hpc.errors import UserError
from climax_hpc.utils.files import parse_json, read_bytes, write_text

Number = Annotated[float, Field(allow_inf_nan=False)]
"""A finite number."""
Count = Annotated[int, Field(ge=0)]
"""A number of things."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A sha256 in hexadecimal."""
SEAL = "sha256"
"""Key of a file's own hash: the sha256 of its bytes with zeros in place of these 64 digits."""

T = TypeVar("T")
_ZEROS = "0" * 64
_MOST_SHOWN = 40  # characters of a value in a message


def typed(content: Any, kind: Any, where: str, fix: str, *, extra: Literal["forbid", "ignore"] = "forbid") -> Any:
    """JSON content as an object of `kind`, a dataclass or another annotation.

    Strict: text is no number, true is no number. `extra`: what is done with keys that `kind` lacks.

    Raises:
        UserError: names `where`, the key, what was found and what was expected; ends with `fix`.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(content), strict=True, extra=extra)
    except ValidationError as error:
        problems = error.errors()
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(f"{where}: is damaged ({_sentence(problems[0])}{more}); {fix}") from None
    except UserError as error:
        raise UserError(f"{where}: is damaged ({error}); {fix}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _sentence(problem: Any) -> str:
    """One of pydantic's problems in words: key, what was found, what was expected."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    place = place or "the file"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{place} is missing"
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{place} is no key of such a file"
    if problem["type"] == "value_error":
        return f"{place}: {problem['ctx']['error']}"
    shown = json.dumps(problem["input"], ensure_ascii=False, default=str)
    shown = shown if len(shown) <= _MOST_SHOWN else shown[:_MOST_SHOWN] + "…"
    expected = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{place} is {shown}: {expected}"


def read_typed(path: Path, kind: type[T], what: str, fix: str) -> T:
    """A JSON file as an object of `kind`; `what` says in messages what the file should hold.

    Raises:
        UserError: absent, not JSON, or not as `kind` says; see `typed`.
    """
    found: T = typed(parse_json(read_bytes(path, what), path, what), kind, str(path), fix)
    return found


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically, with the file's own hash as its last key `SEAL`."""
    text = json.dumps({**content, SEAL: _ZEROS}, indent=1, ensure_ascii=False) + "\n"
    before, _, after = text.rpartition(_ZEROS)
    write_text(path, before + hashlib.sha256(text.encode()).hexdigest() + after)


def check_schema(content: Any, schema: str, newest: int, where: str, fix: str, *, oldest: int = 1) -> int:
    """The version of a file with `schema` and `schema_version`, between `oldest` and `newest`.

    Raises:
        UserError: another schema, or a version that this climax_hpc does not read.
    """
    found = content if isinstance(content, dict) else {}
    name, version = found.get("schema"), found.get("schema_version")
    if name == schema and type(version) is int and version in range(oldest, newest + 1):
        return version
    seen, wanted = f"{name} version {version}"[:_MOST_SHOWN], " or ".join(map(str, range(oldest, newest + 1)))
    raise UserError(f"{where}: is {seen}, not {schema} version {wanted}; {fix}")


def check_seal(raw: bytes, seal: str | None, where: str, fix: str) -> None:
    """Compare the bytes of a file that `write_sealed` wrote with their own hash; None: it lacks one.

    Raises:
        UserError: a byte was changed; names `where`, ends with `fix`.
    """
    if seal is None or hashlib.sha256(raw.replace(seal.encode(), _ZEROS.encode())).hexdigest() != seal:
        raise UserError(f"{where}: was edited or damaged after it was written (its own sha256 differs); {fix}")
