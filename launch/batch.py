"""What the batch scripts ask Python: `python -m climax_hpc.launch.batch WORD …`.

where                       print the folder of the batch scripts
row TABLE INDEX             print the arguments of one row of a table, each ended by NUL
begin JOB VERB ARGUMENTS    check the verb's settings, write down an attempt, print the run folder
end JOB FOLDER STATUS       write down how it ended; exits with 0 (finished), 75 (go on) or another status (stop)
"""

import sys
from importlib.resources import files
from pathlib import Path

from climax_hpc.arguments import read_config
from climax_hpc.cli import VERBS, load
from climax_hpc.errors import UserError
from climax_hpc.launch import requeue
from climax_hpc.launch.table import read_table

_FOLDER_KEYS = ("run_folder", "output")


def scripts() -> Path:
    """The folder of the batch scripts of the installed package."""
    return Path(str(files("climax_hpc.slurm")))


def folder_of(verb: str, arguments: list[str]) -> Path:
    """The folder that a verb writes to, by its settings.

    Raises:
        UserError: the settings are bad, as the verb itself would say.
    """
    config = read_config(load(VERBS[verb].config), f"climax-hpc {verb}", arguments)
    return Path(next(getattr(config, key) for key in _FOLDER_KEYS if hasattr(config, key)))


def _answer(word: str, arguments: list[str]) -> int:
    if word == "where":
        print(scripts())
    elif word == "row":
        row = read_table(Path(arguments[0])).row(int(arguments[1]))
        sys.stdout.write("".join(argument + "\0" for argument in row.arguments()))
    elif word == "begin":
        folder = folder_of(arguments[1], arguments[2:])
        requeue.begin(folder, arguments[0])
        print(folder)
    elif word == "end":
        status = int(arguments[2])
        goes_on, line = requeue.end(Path(arguments[1]), arguments[0], status)
        print(f"climax-hpc: {line}", flush=True)
        # 75 means "go on" to the script, so a run that stops with it ends otherwise.
        return requeue.GO_ON if goes_on else 1 if status == requeue.GO_ON else status
    else:
        raise UserError(f"unknown word {word!r}: this module is for the batch scripts")
    return 0


def main() -> None:
    """Entry point: bad input ends in one line and status 2."""
    try:
        sys.exit(_answer(sys.argv[1], sys.argv[2:]))
    except UserError as error:
        print(f"climax-hpc: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
