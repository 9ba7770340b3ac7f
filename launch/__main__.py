"""What the batch scripts ask Python: `python -m climax_hpc.launch WORD …`.

where                       print the folder of the batch scripts
row TABLE INDEX             print the arguments of one row of a table, each ended by NUL
begin JOB VERB ARGUMENTS    check the verb's settings, write down an attempt, print the run folder
end JOB FOLDER STATUS       write down how it ended; exits with 0 (finished), 75 (go on) or another status (stop)
"""

import sys
from pathlib import Path

from climax_hpc.errors import UserError
from climax_hpc.launch import requeue
from climax_hpc.launch.batch import folder_of, scripts
from climax_hpc.launch.table import read_table


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
