"""`climax-hpc convert` in this process, and the line with which it refuses."""

import pytest

from climax_hpc.cli import main


def convert(*arguments: object) -> None:
    main(["convert", "--source", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        convert(*arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error
