"""How a test runs a benchmark that is refused, and reads what it says; used in the tests of every suite."""

from pathlib import Path

import pytest

from climax_hpc.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What `climax-hpc bench` says on standard error before it ends with status 2, without a row of results."""
    with pytest.raises(SystemExit) as stop:
        main(["bench", *map(str, arguments)])
    assert stop.value.code == 2
    text = capsys.readouterr()
    table = [line for line in text.out.splitlines() if line.startswith("|")]
    assert len(table) in (0, 2)  # nothing, or the head of the table alone
    return text.err
