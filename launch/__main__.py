"""What the batch scripts ask Python: `python -m climax_hpc.launch WORD …`.

where                       print the folder of the batch scripts
row TABLE INDEX             print the arguments of one row of a table, each ended by NUL
begin JOB VERB ARGUMENTS    check the verb's settings, write down an attempt, print the run folder
end JOB FOLDER STATUS       write down how it ended; exits with 0 (finished), 75 (go on) or another status (stop)
"""

import sys
from pathlib import Path

from climax_hpc.errors import UserError, print_error
from climax_hpc.launch import requeue
from climax_hpc.launch.members import read_table
from climax_hpc.launch.scripts import folder_of, scripts


def _answer(words: list[str]) -> int:
    match words:
        case ["where"]:
            print(scripts())
        case ["row", table, index]:
            row = read_table(Path(table)).row(int(index))
            sys.stdout.write("".join(argument + "\0" for argument in row.arguments()))
        case ["begin", job, verb, *arguments]:
            folder = folder_of(verb, arguments)
            requeue.begin(folder, job)
            print(folder)
        case ["end", job, run, status]:
            goes_on, line = requeue.end(Path(run), job, int(status))
            print(f"climax-hpc: {line}", flush=True)
            # 75 means "go on" to the script, so a run that stops with it ends otherwise.
            return requeue.EXIT_REQUEUE if goes_on else 1 if int(status) == requeue.EXIT_REQUEUE else int(status)
        case _:
            raise UserError(f"unknown word {' '.join(words)!r}: this module is for the batch scripts")
    return 0


def main() -> None:
    """Entry point: bad input ends in one line and status 2."""
    try:
        sys.exit(_answer(sys.argv[1:]))
    except UserError as error:
        print_error(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
