"""Form of the pages: width, a picture or table near the top, keys that exist, English of today."""

import re
from functools import cache
from pathlib import Path

import pytest

from climax_hpc.cli import SUBCOMMANDS
from climax_hpc.utils.references import load

from .pages import DOCS, ROOT, all_pages, blocks, is_history, name, prose, reference, site_pages, text_of

README = ROOT / "README.md"
_SECTIONS = ("data", "model", "optimizer", "train", "where", "sweep", "stages")
_KEY = re.compile(rf"(?:`|--)((?:{'|'.join(_SECTIONS)})\.(?!json\b|py\b)\w+)")
_OLD_WORDS = re.compile(r"\b(me[n]ds?|mended|goes on|going on|tells the|stretch|stretches)\b", re.IGNORECASE)


@cache
def _known_keys() -> frozenset[str]:
    """Of the configs of all commands; reading their docstrings takes half a second."""
    return frozenset(key.name for verb in SUBCOMMANDS.values() for key in reference().config_keys(load(verb.config)))


@pytest.mark.parametrize("page", [README, *site_pages()], ids=name)
def test_no_line_is_longer_than_100_characters(page: Path) -> None:
    wide = [f"{n}: {len(line)}" for n, line in enumerate(text_of(page).split("\n"), start=1) if len(line) > 100]
    assert not wide


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(text_of(README).splitlines()) <= 150


def test_the_readme_is_a_front_door() -> None:
    text = text_of(README)
    snippet, tree = (next(b for b in blocks(text) if b.language == kind) for kind in ("python", "text"))
    assert not snippet.title, "the snippet runs as it is printed"
    assert len(snippet.text.splitlines()) <= 20
    assert len(tree.text.splitlines()) <= 40
    verbs = set(re.findall(r"^\| \[`([a-z]+)", text, re.MULTILINE))
    assert verbs == {verb.split()[0] for verb in SUBCOMMANDS}


def test_the_tree_in_the_readme_is_on_disk() -> None:
    tree = next(block.text for block in blocks(text_of(README)) if block.language == "text")
    parent = ROOT
    for line in tree.splitlines():
        names = re.match(r" *((?:[\w.]+[/.]\w*/? ?)+)", line)
        assert names, line
        for word in names[1].split():
            folder = ROOT if not line.startswith(" ") else parent
            assert (folder / word).exists(), line
        if not line.startswith(" "):
            parent = ROOT / names[1].split()[0]


@pytest.mark.parametrize("page", [page for page in site_pages() if not is_history(page)], ids=name)
def test_a_picture_or_table_stands_near_the_top(page: Path) -> None:
    top = text_of(page).split("\n")[:25]
    assert any(line.startswith(("![", "|", "<table", "```")) for line in top)


@pytest.mark.parametrize("page", [page for page in all_pages() if not is_history(page)], ids=name)
def test_keys_exist(page: Path) -> None:
    named = set(_KEY.findall(text_of(page)))
    assert not named - _known_keys()


@pytest.mark.parametrize("page", [page for page in all_pages() if not is_history(page)], ids=name)
def test_environment_variables_exist(page: Path) -> None:
    named = set(re.findall(r"\bCLIMAX_HPC_[A-Z_]+\b", text_of(page)))
    assert not named - _environment_variables()


def test_messages_in_the_troubleshooting_are_those_of_the_code() -> None:
    quoted = re.findall(r"^\*\*`([^`]+)`\.\*\*", text_of(DOCS / "guides" / "slurm.md"), re.MULTILINE)
    own = [message for message in quoted if message != "EADDRINUSE" and not message.startswith("mpi/pmi2")]
    assert len(own) >= 4
    for message in own:
        words = [part.strip() for part in re.split(r"…|\b[N\d]\b|\bpython\b", message) if len(part.strip()) > 8]
        assert words, message
        assert not [part for part in words if part not in _sources()], message


@cache
def _sources() -> str:
    folders = ("climax_hpc", "data_prep", "kernels", "launch", "slurm")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*")]
    return "".join(file.read_text(encoding="utf-8") for file in files if file.suffix in (".py", ".sh", ".env"))


def _environment_variables() -> set[str]:
    return set(re.findall(r"\bCLIMAX_HPC_[A-Z_]+\b", _sources()))


def test_an_unknown_key_would_be_found() -> None:
    assert _KEY.findall("`data.group_size` and --train.stepz 3") == ["data.group_size", "train.stepz"]


@pytest.mark.parametrize("page", [README, *site_pages()], ids=name)
def test_plain_words(page: Path) -> None:
    assert not _OLD_WORDS.findall(prose(re.sub(r"`[^`]*`", "", text_of(page))))


def test_drawings_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    import drawings

    for file, draw in drawings.DRAWINGS.items():
        assert (DOCS / "images" / f"{file}.svg").read_text(encoding="utf-8") == draw().svg(), file


def test_drawings_are_all_used() -> None:
    text = "".join(text_of(page) for page in all_pages())
    assert not [file.name for file in (DOCS / "images").iterdir() if file.name not in text]


@pytest.mark.parametrize("page", [README, *site_pages()], ids=name)
def test_blocks_have_a_language(page: Path) -> None:
    assert not [block.line for block in blocks(text_of(page)) if not block.language]


def indented_code(text: str) -> list[str]:
    """Lines of code blocks that are made by indentation: nobody can tell whether they are commands."""
    found, inside_item, blank = [], False, True
    for line in prose(text).split("\n"):
        if not line.strip():
            blank = True
            continue
        if not line.startswith(" "):
            inside_item = bool(re.match(r"([-*]|\d+\.) |!!! ", line))
        elif line.startswith("    ") and blank and not inside_item:
            found.append(line.strip())
        blank = False
    return found


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *site_pages()], ids=name)
def test_code_is_fenced(page: Path) -> None:
    assert not indented_code(text_of(page))


def test_indented_code_is_found() -> None:
    assert indented_code("text\n\n    make demo\n\n- item\n\n    more of it\n") == ["make demo"]
