"""Structural edits of JSON files: every key deleted, renamed, of another type, out of range; and damage of the text."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Where = tuple[Any, ...]

_OTHER: dict[str, Any] = {
    "null": None, "true": True, "text": "x", "empty text": "", "minus one": -1, "zero": 0, "half": 0.5, "huge": 10**30,
    "infinite": float("inf"), "NaN": float("nan"), "list": [], "object": {}, "nested": [[[[]]]], "up": "../../x",
    "absolute": "/etc/hostname", "control": "a\u0000b\x1b[31m\n", "long": "y" * 5000, "numbers": [1, 2, 3],
}  # fmt: skip
_TEXT: dict[str, Callable[[str], str]] = {
    "empty file": lambda text: "",
    "cut in the middle": lambda text: text[: len(text) // 2],
    "last brace missing": lambda text: text.rstrip()[:-1],
    "many brackets": lambda text: "[" * 100_000,
    "list around": lambda text: f"[{text}]",
    "text alone": lambda text: '"x"',
    "null alone": lambda text: "null",
    "number of 5000 digits": lambda text: text.replace(": 1,", f": {'1' * 5000},", 1) if ": 1," in text else "1" * 5000,
    "byte order mark": lambda text: "\ufeff" + text,
    "NUL behind": lambda text: text + "\0",
    "twice": lambda text: text + text,
    "lone surrogate": lambda text: text.replace('"', '"\\ud800', 1),
}


@dataclass(frozen=True)
class Edit:
    """A changed text of a JSON file."""

    name: str
    text: str
    wrong_type: bool
    """A value has another type or the text is damaged. Otherwise nobody without a hash can tell that it was edited."""


def edits(text: str, seed: int, count: int) -> Iterator[Edit]:
    """`count` edits: those of the text first, then of keys drawn at random."""
    for name, change in list(_TEXT.items())[:count]:
        yield Edit(name, change(text), True)
    document = json.loads(text)
    places = list(_places(document, ()))
    chance = random.Random(seed)
    for number in range(count - len(_TEXT)):
        where = places[number % len(places)] if count > 2 * len(places) else chance.choice(places)
        yield _edit(document, where, chance)


def _places(value: Any, where: Where) -> Iterator[Where]:
    """Every key and the first two entries of every list."""
    if where:
        yield where
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _places(entry, (*where, key))
    elif isinstance(value, list):
        for number, entry in enumerate(value[:2]):
            yield from _places(entry, (*where, number))


def _edit(document: Any, where: Where, chance: random.Random) -> Edit:
    changed = copy.deepcopy(document)
    parent = changed
    for key in where[:-1]:
        parent = parent[key]
    old = parent[where[-1]]
    name, wrong_type = _change(parent, where[-1], old, chance)
    return Edit(f"{name} at {'.'.join(map(str, where))}", json.dumps(changed, ensure_ascii=True), wrong_type)


def _change(parent: Any, key: Any, old: Any, chance: random.Random) -> tuple[str, bool]:
    """Change one entry in place; what was done, and whether a value has now another type."""
    kinds = ["delete", "other", "other", "other", "near"] + (["rename", "extra"] if isinstance(parent, dict) else [])
    kind = chance.choice(kinds)
    if kind == "delete":
        del parent[key]
        return "deleted", False
    if kind == "rename":
        parent[f"{key}x"] = parent.pop(key)
        return "renamed", False
    if kind == "extra":
        parent["unknown"] = old
        return "key beside", False
    if kind == "near":
        parent[key], name = _near(old, chance)
        return name, False
    name, other = chance.choice([(n, v) for n, v in _OTHER.items() if v != old or type(v) is not type(old)])
    parent[key] = other
    number = (int, float)
    plain = not isinstance(old, bool) and not isinstance(other, bool)
    same = type(other) is type(old) or (isinstance(old, number) and isinstance(other, number) and plain)
    return name, not same and old is not None


def _near(old: Any, chance: random.Random) -> tuple[Any, str]:
    """A value of the same type that is almost the same."""
    if isinstance(old, bool):
        return not old, "negated"
    if isinstance(old, int):
        return old + chance.choice([-1, 1]), "one more or less"
    if isinstance(old, float):
        return old * (1 + 1e-9) + 1e-9, "rounding"
    if isinstance(old, str):
        return chance.choice([old + " ", old.upper(), old[::-1], old[:-1]]), "spelling"
    if isinstance(old, list):
        return chance.choice([old[::-1], old + old[:1], old[:-1]]), "order or length"
    if isinstance(old, dict):
        return dict(list(old.items())[::-1][: max(1, len(old) - chance.randint(0, 1))]), "order or length"
    return old, "nothing"
