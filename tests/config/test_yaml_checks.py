"""YAML that reads differently from what it says is refused with its line; ordinary configs pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from climax_hpc.config.parser import read_config, shipped_configs
from climax_hpc.config.training import PretrainConfig
from climax_hpc.config.yaml_checks import check_yaml
from climax_hpc.errors import UserError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {steps: 9}\nmodel: {depth: 1}\ntrain: {seed: 3}\n", "line 3: key 'train' occurs twice .first in"),
        ("train:\n  steps: 10\n  seed: 1\n  steps: 20\n", "line 4: key 'train.steps' occurs twice"),
        ("lead_hours: [06, 12]\n", "line 1: '06' of 'lead_hours': YAML reads it as an octal number"),
        ("models:\n  no: run\n", "line 2: 'no' of 'models': YAML reads it as true or false"),
        ("period: [1:30, 2]\n", "'1:30' of 'period': YAML reads it as a number in base 60"),
        ("a: &x [1]\n" + "".join(f"b{i}: *x\n" for i in range(101)), "has 101 YAML aliases"),
        ("a: [1\n", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("a: " + "x" * (1 << 20), "is not a config"),
    ],
)  # fmt: skip
def test_surprises_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        check_yaml(file)
    with pytest.raises(UserError, match=message):
        read_config(PretrainConfig, "x", [f"--config={file}"])


def test_a_file_that_is_not_text_or_gone(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary.yaml: is not YAML"):
        check_yaml(tmp_path / "binary.yaml")
    with pytest.raises(UserError, match=r"gone.yaml: cannot be read \(No such file or directory\)"):
        check_yaml(tmp_path / "gone.yaml")


def test_ordinary_configs_pass(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: {b: [0, 6, '06', 1e-3, 0.5, true, null, 'no'], c: 2001-01}\nd: x\n")
    check_yaml(file)
    file.write_text("")
    check_yaml(file)
    for name in shipped_configs():
        from importlib.resources import as_file, files

        with as_file(files("climax_hpc.configs") / f"{name}.yaml") as path:
            check_yaml(path)


def test_a_terminal_that_is_not_utf8_shows_question_marks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "climax_hpc", "variables"], capture_output=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "climax_hpc", "pack", "--help"], capture_output=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout
