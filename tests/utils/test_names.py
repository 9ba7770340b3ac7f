"""Names and relative paths from files: what could leave the folder, or command a terminal, is none."""

import os
import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from climax_hpc.errors import print_error, printable
from climax_hpc.utils.names import Name, RelativePath, shown, why_no_name

GOOD = ["JCM-A", "MPI-ESM1-2-HR_historical_r1i1p1f1", "E3SM.2.0", "_x", "0", "a" * 200, "a.", "a-", "A_b-C.d"]
BAD = [
    "", ".", "..", "...", ".hidden", "-rf", "--output", "a..b", "../x", "../../x", "/", "/etc/passwd", "a\\b", "~",
    "~/x", "a b", " a", "a ", "a\n", "\na", "a\tb", "a\x00b", "\x1b[2J", "a\x9bb", "é", "\u202egpj.exe", "\uff0e\uff0e",
    "a" * 256, "$HOME", "`id`", "a;b", "a|b", "a*", "a?", "[a]", "{a}", "<b>", "a'b", 'a"b', "a:b", "a%2fb", "a&b",
    "a=b", "\udcff", "٣",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_names(text: str) -> None:
    assert not why_no_name(text)
    assert TypeAdapter(Name).validate_python(text) == text
    assert TypeAdapter(RelativePath).validate_python(f"{text}/{text}_1.h5") == f"{text}/{text}_1.h5"


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_name(text: str) -> None:
    reason = why_no_name(text)
    assert reason
    assert len(reason) < 300
    assert reason.isprintable()
    for path in (f"a/{text}", f"{text}/a", f"a/{text}/b"):
        with pytest.raises(ValidationError):
            TypeAdapter(RelativePath).validate_python(path)
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(text)


@pytest.mark.parametrize("path", ["/a", "a/", "a//b", "//a", "./a", "a/./b", "a/../a", "/".join("a" * 9), "a" * 256])
def test_what_is_no_path_inside_a_folder(path: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(RelativePath).validate_python(path)


def test_texts_are_shown_on_one_short_line() -> None:
    assert shown("a\n b\x1b[2J\u202e") == "a b?[2J?"
    assert shown("x" * 10**8) == "x" * 80 + "…"
    assert why_no_name("a/b")
    assert printable("é 東京 °", "") == "é 東京 °"


def test_a_message_is_one_line_of_bounded_length(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(f"the beginning\n {'x' * 10**6}\x1b[2J: the end")
    err = capsys.readouterr().err
    assert err.startswith("climax-hpc: error: the beginning x")
    assert err.endswith("x?[2J: the end\n")
    assert len(err) < 1600


def test_commands_do_not_reach_the_terminal() -> None:
    code = (
        "import sys; from climax_hpc.utils.command_guard import command_guard\n"
        "with command_guard():\n"
        "    print('a\\x1b[31mb\\x9bc\\x07\\u202e\\ttab °'); print('\\x1b]0;x\\x07', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONUTF8": "1"})
    assert done.stdout.decode() == "a?[31mb?c??\ttab °\n"
    assert done.stderr == b"?]0;x?\n"
