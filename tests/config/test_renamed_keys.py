"""Renamed config keys: each line of the table refuses the old name with the new one, and opens stored settings."""

import re
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from climax_hpc.cli import SUBCOMMANDS
from climax_hpc.config import parser, renamed_keys
from climax_hpc.config.parser import default_settings, read_config
from climax_hpc.config.renamed_keys import ABSENT_MEANS, RENAMED_KEYS, RENAMED_VALUES, new_name, translate
from climax_hpc.errors import UserError
from climax_hpc.utils.references import load


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """A section that was `optim`."""

    warmup_steps: int = 1
    """Was `optim.warmup`."""
    kind: str = "adam"
    """Took `adamw` for `adam`."""


@dataclass(frozen=True, kw_only=True)
class Small:
    """A config whose keys were renamed."""

    optimizer: Optimizer = field(default_factory=Optimizer)
    """Was `optim`."""
    seed: int = 0
    """Was `train.seed`."""
    precision: Literal["float32", "float16"] = "float32"
    """Took `half` for `float16`."""
    leads: dict[str, int] = field(default_factory=dict)
    """Never renamed; its keys have dots."""


@pytest.fixture
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renames of `Small`: a key in a section, a section, a key that left its section, a value."""
    keys = {"optim": "optimizer", "optim.warmup": "optimizer.warmup_steps", "train.seed": "seed", "optim.lr": "rate"}
    monkeypatch.setattr(renamed_keys, "RENAMED_KEYS", keys)
    values = {"optimizer.kind": {"adamw": "adam"}, "precision": {"half": "float16"}}
    monkeypatch.setattr(renamed_keys, "RENAMED_VALUES", values)
    monkeypatch.setattr(parser, "RENAMED_VALUES", values)


@pytest.mark.usefixtures("small_table")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("optim.warmup", "optimizer.warmup_steps"),
        ("optim.kind", "optimizer.kind"),
        ("train.seed", "seed"),
    ],
)
def test_an_old_key_is_refused_with_its_new_name(tmp_path: Path, old: str, new: str) -> None:
    assert_refused(Small, old, new, tmp_path)


@pytest.mark.usefixtures("small_table")
@pytest.mark.parametrize(("key", "old", "new"), [("optimizer.kind", "adamw", "adam"), ("precision", "half", "float16")])
def test_an_old_value_is_refused_with_its_new_name(key: str, old: str, new: str) -> None:
    with pytest.raises(UserError, match=f"{key}: '{old}' was renamed to '{new}'"):
        read_config(Small, "x", [f"--{key}={old}"])


@pytest.mark.usefixtures("small_table")
def test_a_line_of_another_verb_does_not_apply() -> None:
    with pytest.raises(UserError, match=r"unknown config key 'optim\.lr'"):
        read_config(Small, "x", ["--optim.lr=1"])


@pytest.mark.usefixtures("small_table")
def test_stored_settings_are_translated() -> None:
    stored = {"optim": {"warmup": 5, "kind": "adamw"}, "train": {"seed": 3}, "leads": {"a.b": 6}}
    before = yaml.safe_dump(stored)
    new = {"optimizer": {"warmup_steps": 5, "kind": "adam"}, "train": {}, "seed": 3, "leads": {"a.b": 6}}
    assert translate(stored) == new
    assert yaml.safe_dump(stored) == before
    assert translate(new) == new
    assert translate({"warmup": 5, "kind": "sgd"}, "optim") == {"warmup_steps": 5, "kind": "sgd"}
    assert translate({"warmup_steps": 5}, "optimizer") == {"warmup_steps": 5}
    assert translate({}) == {}


@pytest.mark.usefixtures("small_table")
def test_a_present_value_is_kept() -> None:
    assert translate({"optim": {"warmup": 5}, "optimizer": {"warmup_steps": 7}})["optimizer"]["warmup_steps"] == 7


def test_names_that_were_never_renamed() -> None:
    assert new_name("data.dataset") is None
    assert translate({"data": {"dataset": "x"}}) == {"data": {"dataset": "x"}}


@pytest.mark.parametrize(("key", "value"), ABSENT_MEANS.items())
def test_what_an_absent_key_means(key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    assert any(key in default_settings(c) for c in config_classes())
    assert translate({section: {}}) == {section: {name: value}}
    assert translate({name: "present"}, section) == {name: "present"}
    assert translate({name: None}, section) == {name: None}


def test_default_settings() -> None:
    defaults = default_settings(Small)
    assert defaults == {
        "optimizer.warmup_steps": 1,
        "optimizer.kind": "adam",
        "seed": 0,
        "precision": "float32",
        "leads": {},
    }


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
def test_every_renamed_key(tmp_path: Path, old: str, new: str) -> None:
    assert new not in RENAMED_KEYS, f"{old}: give the newest name of {new}"
    classes = [c for c in config_classes() if new in keys_of(c) and old not in keys_of(c)]
    assert classes, f"no verb has the key {new}"
    is_section = any(key.startswith(f"{new}.") for key in keys_of(classes[0]))
    for config_class in classes:
        if not is_section:
            assert_refused(config_class, old, new, tmp_path)
    words = old.split(".")
    stored: Any = {"key": 1} if is_section else 1
    for word in reversed(words):
        stored = {word: stored}
    found: Any = translate(stored)
    for word in new.split("."):
        found = found[word]
    assert found == ({"key": 1} if is_section else 1)


@pytest.mark.parametrize("key", sorted({*RENAMED_VALUES, "train.precision"}))
def test_every_renamed_value(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if key not in RENAMED_VALUES:  # one that is made up, so that the check itself is checked
        monkeypatch.setitem(RENAMED_VALUES, key, {"single": "float32"})
    assert any(key in keys_of(c) for c in config_classes())
    for old, new in RENAMED_VALUES[key].items():
        assert new not in RENAMED_VALUES[key]
        stored: Any = old
        for word in reversed(key.split(".")):
            stored = {word: stored}
        assert new in str(translate(stored))
        for config_class in config_classes():
            if key in keys_of(config_class):
                with pytest.raises(UserError, match=re.escape(f"{old!r} was renamed to {new!r}")):
                    read_config(config_class, "x", [*required(config_class), f"--{key}={old}"])


def config_classes() -> list[type]:
    """The config of every verb."""
    return [load(verb.config) for verb in SUBCOMMANDS.values()]


def keys_of(config_class: type, prefix: str = "") -> set[str]:
    """Dotted keys, sections too."""
    keys = set()
    for key in fields(config_class):
        keys.add(prefix + key.name)
        if isinstance(key.type, type) and is_dataclass(key.type):
            keys |= keys_of(key.type, f"{prefix}{key.name}.")
    return keys


def required(config_class: type, prefix: str = "") -> list[str]:
    """Words for the keys without a default."""
    words = []
    for key in fields(config_class):
        if isinstance(key.type, type) and is_dataclass(key.type):
            words += required(key.type, f"{prefix}{key.name}.")
        elif key.default is MISSING and key.default_factory is MISSING:
            words.append(f"--{prefix}{key.name}=x")
    return words


def assert_refused(config_class: type, old: str, new: str, folder: Path) -> None:
    """On the command line and in a file."""
    message = re.escape(f"{old} was renamed to {new}")
    with pytest.raises(UserError, match=message):
        read_config(config_class, "x", [f"--{old}=1"])
    content: Any = 1
    for word in reversed(old.split(".")):
        content = {word: content}
    (folder / "old.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        read_config(config_class, "x", ["--config", str(folder / "old.yaml")])
