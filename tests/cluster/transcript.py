"""Writes docs/transcripts/*.txt: `.venv/bin/python tests/cluster/lab.py .venv/bin/python tests/cluster/transcript.py`.

requeue.txt   a pretraining run on two nodes that reaches its time limit, is requeued and resumes
sweep.txt     six fine-tuning runs from it by submitit, and their results table

All commands run on the cluster of lab.py, in a new folder; only the name of the folder is replaced in the text.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from climax_hpc.launch.scripts import scripts

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "transcripts"
PROMPT = "login$ "
SMALL = "--model.embed_dim=32 --model.depth=2 --model.heads=2 --train.ema_decay=0 --train.zero_stage=2"
SNIPPET = """\
from climax_hpc.launch import Resources, sweep

six = sweep(
    "demo_finetune",
    {"data.dataset": "data", "checkpoint": "pre", "train.steps": 20, "train.ema_decay": 0, "train.zero_stage": 2,
     "model.embed_dim": 32, "model.depth": 2, "model.heads": 2},
    folder="six",
    where=Resources(minutes=30, parallel=2),
    variables=["2m_temperature", "geopotential_500"],
    lead_hours=[24, 72, "6-120"],
)
print(six.results().to_markdown())
"""


class Session:
    """A recorded shell session."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.text = folder, ""

    def run(self, command: str, *, shown: str | None = None) -> str:
        """Run a command line and record it with its output."""
        words = shlex.split(command)
        done = subprocess.run(words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.text += f"{PROMPT}{shown or command}\n{self._plain(done.stdout)}"
        print(f"{PROMPT}{shown or command}\n{done.stdout}", flush=True)
        if done.returncode:
            sys.exit(f"{command} ended with status {done.returncode}")
        return done.stdout

    def wait_for_empty_queue(self) -> None:
        """Wait until nothing is queued or running."""
        while subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout.strip():
            time.sleep(2)

    def _plain(self, output: str) -> str:
        lines = output.replace(str(self.folder), "/scratch/me").splitlines(keepends=True)
        return "".join(line for line in lines if "Warning" not in line and "return func(" not in line)

    def save(self, name: str) -> None:
        """Write the session so far and start a new one."""
        DOCS.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(self.text)
        self.text = ""


def record_requeue(session: Session, steps: int) -> None:
    """Pack the sample, pretrain on both nodes with a short time limit, and show the result."""
    session.run("climax-hpc pack --config demo_pack --output data --sources '[\"JCM-C_piClim-control_r1i1p1f1\"]'")
    session.run("sinfo")
    script = scripts() / "pretrain.sh"
    config = f"demo_pretrain --run_folder=pre --data.dataset=data '--data.sources=[\"JCM-C\"]' --train.steps={steps}"
    rest = f"{config} --train.checkpoint_every=50 {SMALL}"
    # Seven minutes minus the 300 s of --signal: Slurm warns the job after 90 to 120 s.
    options = "--nodes=2 --ntasks-per-node=1 --time=7"
    session.run(f"sbatch {options} {script} {rest}", shown=f"sbatch {options} slurm/pretrain.sh {rest}")
    session.wait_for_empty_queue()
    log = next(session.folder.glob("climax-pretrain-*.out"))
    session.run(f"cat {log.name}")
    session.run("cat pre.attempts.json")
    session.run("climax-hpc status pre")
    session.save("requeue.txt")


def record_sweep(session: Session) -> None:
    """Six fine-tuning runs from the pretrained checkpoint."""
    (session.folder / "six.py").write_text(SNIPPET)
    session.run("cat six.py")
    session.run("python six.py")
    session.run("cat six/members.tsv")
    session.run("climax-hpc status six")
    session.save("sweep.txt")


def main(folder: Path, steps: int) -> None:
    """Record both sessions, or only the sweep if the folder has a pretrained run."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.update(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    session = Session(folder)
    if not (folder / "pre").exists():
        record_requeue(session, steps)
    record_sweep(session)


if __name__ == "__main__":
    # FOLDER STEPS: a new folder, and a number of steps that takes longer than a minute on this machine.
    given = sys.argv[1:]
    main(Path(given[0] if given else tempfile.mkdtemp(prefix="transcript-")), int(given[1]) if given[1:] else 1500)
