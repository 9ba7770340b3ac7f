"""YAML that reads differently from what it says is refused with its line; ordinary configs pass."""

import os
import socket
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
        ("[" * 5000, "is nested more than 50 deep"),
        ("{a: " * 100_000, "is nested more than 50 deep"),
        ("- " * 5000, "is nested more than 50 deep"),
        ("a: &x [*x]\n", "is not YAML"),
        ("a: &x {b: *x}\n", "is not YAML"),
        ("a: " + "x" * (1 << 20), "has 1048579 bytes, more than the 1048576"),
        ("".join(f"unknown_{i}: {i}\n" for i in range(20_000)), r"has 40000 keys and values \(unknown_0, 0, "),
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
    with pytest.raises(UserError, match=r"gone.yaml does not exist: expected a config"):
        check_yaml(tmp_path / "gone.yaml")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
@pytest.mark.parametrize("key", ["config", "data", "model"])
def test_what_would_block_is_refused(tmp_path: Path, kind: str, key: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    for words in ([f"--{key}={path}"], [f"--{key}", str(path)]):
        with pytest.raises(UserError, match=rf"is a {kind}, not a file: expected a config in YAML"):
            read_config(PretrainConfig, "x", words)


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 100_000, "- " * 30_000, "[a" + ",a" * 50_000 + "]"])
def test_values_on_the_command_line_are_bounded(text: str) -> None:
    with pytest.raises(UserError, match=r"data.sources: (is nested more than 50 deep|has 50001 keys and values)"):
        read_config(PretrainConfig, "x", ["--run_folder=a", "--data.dataset=b", "--data.sources", text])


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"b{i}: &b{i} [{','.join(['*a' if not i else f'*b{i - 1}'] * 9)}]\n"
         for i in range(8)), "its aliases unfold to"),
        ("z: &z [*z]\n", "is not YAML"),
        ("z: &z\n  <<: *z\n", "is not YAML"),
    ],
    ids=["aliases of aliases", "list in itself", "map in itself"],
)  # fmt: skip
def test_aliases_that_unfold_without_end_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        check_yaml(file)
