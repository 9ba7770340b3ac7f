"""Every command block of the documentation runs on small data, or says in its title what it needs."""

import re
from pathlib import Path

import pytest

from climax_hpc.cli import run

from .blocks import SHORT, TRAINING, commands, matches, run_python, run_shell, smaller
from .pages import Block, all_pages, blocks, name, text_of

RUN = ("bash", "python", "console")
_REASON = re.compile(r"(Needs|Takes|Installs|Recorded) \w.*")


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page that hold commands."""
    return [block for block in blocks(text_of(page)) if block.language in RUN]


def with_blocks() -> list[Path]:
    """Pages that have something to run."""
    return [page for page in all_pages() if any(not block.title for block in blocks_of(page))]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what `make demo` leaves, made by its own configs in two steps each."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(["pack", "--config", "demo_pack"])
        run(["pretrain", "--config", "demo_pretrain", *TRAINING])
        run(["finetune", "--config", "demo_finetune", *TRAINING])
        scratch = ("--checkpoint", "null", "--run_folder", "runs/demo/scratch")
        run(["finetune", "--config", "demo_finetune", *TRAINING, *scratch])
        run(["finetune", "--config", "demo_weights", *SHORT])  # of weights that have their size
        run(smaller(["evaluate", "--config", "demo_evaluate"]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks(), ids=name)
def test_blocks_run(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for block in blocks_of(page):
        if block.title:
            continue
        if block.language == "python":
            run_python(block.text, f"{name(page)}:{block.line}")
        elif block.language == "bash":
            run_shell(block.text)
        else:
            command, _, shown = block.text.partition("\n")
            assert command.startswith("$ "), f"{name(page)}:{block.line}: a transcript begins with a command"
            printed = run_shell(command[2:])
            assert matches(shown, printed), f"{name(page)}:{block.line}: prints something else today\n{printed}"


@pytest.mark.parametrize("page", all_pages(), ids=name)
def test_a_block_that_is_not_run_says_what_it_needs(page: Path) -> None:
    assert not [block.title for block in blocks_of(page) if block.title and not _REASON.fullmatch(block.title)]


def test_commands_of_a_block() -> None:
    block = '# a comment\nclimax-hpc a \\\n  --b \'{"c": 1,\n "d": 2}\'  # why\npython -m x > y\n'
    assert list(commands(block)) == [["climax-hpc", "a", "--b", '{"c": 1,\n "d": 2}'], ["python", "-m", "x", ">", "y"]]


def test_a_transcript_may_leave_out_the_end_of_a_line() -> None:
    assert matches("one two …\nthree", "one two and a half\nthree\n")
    assert not matches("one two …\nthree", "one too\nthree")
    assert not matches("one", "one\ntwo")


def test_a_failing_block_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="unknown command"):
        run_shell("climax-hpc pretain")
    with pytest.raises(pytest.fail.Exception, match="give the block a title"):
        run_shell("sbatch job.sh")
    with pytest.raises(ZeroDivisionError):
        run_python("1 / 0", "here")
