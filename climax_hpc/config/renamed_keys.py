"""Config keys, values and defaults that changed: users' configs are refused with the new name, stored ones translated.

To rename a key, rename the field of its dataclass and add a line to `RENAMED_KEYS`: "data.old_name": "data.new_name".
Keys are dotted from the root of a config; a line for a section ("old": "new") covers all its keys, and a key may move
to another section. To rename a value that a key takes, add it to `RENAMED_VALUES`. Then

* `climax-hpc VERB --data.old_name 4`, and a YAML file with that key, end in "data.old_name was renamed to
  data.new_name" (`config/parser.py`). A line applies to the verbs that have the new key and lack the old one, so two
  verbs may use one word differently.
* what the project wrote itself still opens: `translate` is called on the config.yaml of a run folder and on the model's
  settings in a checkpoint.

Settings that lack a key are older than the key and mean its default. Where that default has changed since, or was never
what older versions did, `ABSENT_MEANS` has what they did.

Lines stay for ever: files outlive releases. A key that is renamed again gets its old lines changed to the newest name.
tests/config/test_renamed_keys.py checks every line, tests/compatibility opens files of an earlier version.
"""

import copy
from collections.abc import Mapping
from typing import Any

RENAMED_KEYS: dict[str, str] = {
    "channels": "variables",
    "data.group_size": "data.micro_batch_size",
    "data.groups_per_step": "data.micro_batches_per_step",
    "data.prefetch_groups": "data.prefetch_micro_batches",
    "group_size": "micro_batch_size",
    "member": "realization",
    "optim": "optimizer",
    "out": "output",
}
"""Old dotted key -> new dotted key."""

RENAMED_VALUES: dict[str, dict[str, str]] = {}
"""Dotted key, by its newest name -> {old value: new value}."""

ABSENT_MEANS: dict[str, Any] = {"model.init": "climax"}
"""Dotted key, by its newest name -> value that stored settings of its section mean that lack it."""


def new_name(key: str) -> str | None:
    """The present name of a dotted key that was renamed, itself or with its section; None for other keys."""
    words = key.split(".")
    for n in range(len(words), 0, -1):
        new = RENAMED_KEYS.get(".".join(words[:n]))
        if new:
            return ".".join([new, *words[n:]])
    return None


def new_value(key: str, value: Any) -> str | None:
    """The present name of a value of a key that was renamed; None for other values."""
    return RENAMED_VALUES.get(key, {}).get(value) if isinstance(value, str) else None


def translate(stored: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """A copy of settings that an earlier version stored: present names, `ABSENT_MEANS` for what they lack.

    `section`: where the settings are in a config, such as `model`; the whole config where empty.
    """
    path = section.split(".") if section else []
    settings: dict[str, Any] = {}
    _put(settings, path, copy.deepcopy(dict(stored)))
    # Longest first: a key that left its section must be taken out before the section is renamed.
    for old in sorted(RENAMED_KEYS, key=lambda name: -name.count(".")):
        _move(settings, old.split("."), RENAMED_KEYS[old].split("."))
    for key, values in RENAMED_VALUES.items():
        *parents, last = key.split(".")
        holder = _find(settings, parents)
        if holder is not None and isinstance(holder.get(last), str):
            holder[last] = values.get(holder[last], holder[last])
    for key, value in ABSENT_MEANS.items():
        *parents, last = key.split(".")
        holder = _find(settings, parents)
        if holder is not None:
            holder.setdefault(last, value)
    found = _find(settings, (new_name(section) or section).split(".") if section else [])
    return found if found is not None else {}


def _move(settings: dict[str, Any], old: list[str], new: list[str]) -> None:
    """Move a value, or the keys of a section; a value that already has the new name is kept."""
    holder = _find(settings, old[:-1])
    if holder is None or old[-1] not in holder:
        return
    target = _find(settings, new)
    if target is not None and isinstance(holder[old[-1]], dict):
        target |= {key: value for key, value in holder.pop(old[-1]).items() if key not in target}
    elif (_find(settings, new[:-1]) or {}).get(new[-1]) is None:
        _put(settings, new, holder.pop(old[-1]))


def _find(settings: dict[str, Any], path: list[str]) -> dict[str, Any] | None:
    """The section of that path; None where there is none."""
    here: Any = settings
    for word in path:
        here = here.get(word) if isinstance(here, dict) else None
    return here if isinstance(here, dict) else None


def _put(settings: dict[str, Any], path: list[str], value: Any) -> None:
    here = settings
    for word in path[:-1]:
        here = here.setdefault(word, {})
    if path:
        here[path[-1]] = value
    else:
        here |= value
