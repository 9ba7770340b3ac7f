"""The calls that the batch scripts make: `python -m climax_hpc.launch WORD …`.

where                           print the folder of the batch scripts
row TABLE INDEX                 print the arguments of one row of a table, each ended by NUL
begin JOB SUBCOMMAND …          check the settings, record a new attempt, print the run folder
end JOB FOLDER STATUS MOST [LEFT]   record the exit status; exits with 0 (finished), EXIT_RESTART, EXIT_REQUEUE, or
                                another status (stop)
successor SCRIPT [LEFT]         print the options of sbatch for a job that continues this one, each ended by NUL

MOST is how often a job may start its ranks again; 0: it is requeued instead. LEFT is the time that was left when Slurm
warned of the time limit, as squeue prints it. The last two read the output of
`scontrol show job` from their standard input, because it may not be available in a container.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from climax_hpc.distributed.signals import EXIT_REQUEUE, EXIT_RESTART
from climax_hpc.errors import UserError
from climax_hpc.launch import requeue, slurm_job
from climax_hpc.launch.members import read_table
from climax_hpc.launch.scripts import folder_of, scripts
from climax_hpc.utils.command_guard import command_guard


def _answer(words: list[str]) -> int:
    match words:
        case ["where"]:
            print(scripts())
        case ["row", table, index]:
            row = read_table(Path(table)).row(int(index))
            _print_words(row.arguments())
        case ["begin", job, subcommand, *arguments]:
            folder = folder_of(subcommand, arguments)
            requeue.begin(folder, job, restarted=_is_restarted(job))
            print(folder)
        case ["end", job, run, status, most, *left]:
            fields, seconds = slurm_job.fields_of(_input()), slurm_job.seconds("".join(left))
            if line := requeue.restart(Path(run), job, int(status), most=int(most), slurm=fields):
                print(f"climax-hpc: {line}", flush=True)
                return EXIT_RESTART
            resumes, line = requeue.end(Path(run), job, int(status), slurm=fields, left=seconds)
            print(f"climax-hpc: {line}", flush=True)
            if resumes:
                return EXIT_REQUEUE
            # These two are orders to the script, so a run that must stop returns another status.
            return 1 if int(status) in (EXIT_REQUEUE, EXIT_RESTART) else int(status)
        case ["successor", script, *left]:
            fields, seconds = slurm_job.fields_of(_input()), slurm_job.seconds("".join(left))
            text = (scripts() / script).read_text(encoding="utf-8")
            _print_words(slurm_job.successor_options(fields, os.environ, script=text, left=seconds))
        case _:
            raise UserError(f"unknown word {' '.join(words)!r}: this module is called by the batch scripts")
    return 0


def _is_restarted(job: str) -> bool:
    """True if the chain began with another job, or with an earlier start of this one."""
    return os.environ.get("SLURM_JOB_ID", job) != job or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _print_words(words: Iterable[str]) -> None:
    """Print words as bytes: text on standard output has no NUL."""
    sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in words))
    sys.stdout.buffer.flush()


def _input() -> str:
    return "" if sys.stdin.isatty() else sys.stdin.read()


def main() -> None:
    """Entry point: bad input, and what the system refuses, end with one line on standard error."""
    with command_guard():
        sys.exit(_answer(sys.argv[1:]))


if __name__ == "__main__":
    main()
