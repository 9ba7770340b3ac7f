"""Writes the stop signal and the exit status of `climax_hpc.distributed.signals` into the batch scripts.

    python -m climax_hpc.launch.constants

Run it after changing them; a test fails while a script differs.
"""

import re
from pathlib import Path

from climax_hpc.distributed import signals
from climax_hpc.launch.scripts import scripts
from climax_hpc.utils.files import write_text


def updated(text: str) -> str:
    """The text of a batch script, with the present signal and exit status."""
    name = signals.WARNING_SIGNAL.name.removeprefix("SIG")
    text = re.sub(r"(?m)^(#SBATCH --signal=B:)\w+", rf"\g<1>{name}", text)
    text = re.sub(r"(?m)^warning_signal=.*$", f"warning_signal={name}", text)
    text = re.sub(r"(?m)^exit_restart=.*$", f"exit_restart={int(signals.EXIT_RESTART)}", text)
    return re.sub(r"(?m)^exit_requeue=.*$", f"exit_requeue={int(signals.EXIT_REQUEUE)}", text)


def batch_scripts() -> list[Path]:
    """All shell files of the package."""
    return sorted(scripts().glob("*.sh"))


def main() -> None:
    """Rewrite the scripts that differ, and print their paths."""
    for path in batch_scripts():
        before = path.read_text(encoding="utf-8")
        after = updated(before)
        if after != before:
            mode = path.stat().st_mode
            write_text(path, after)
            path.chmod(mode)
            print(path)


if __name__ == "__main__":
    main()
