"""Writes docs/transcripts/*.txt: `.venv/bin/python tests/cluster/lab.py .venv/bin/python tests/cluster/transcript.py`.

requeue.txt   a pretraining over two nodes that hits its time limit and goes on by itself
sweep.txt     six fine-tunings of it by submitit, and their table of results

Everything runs for real in the lab of lab.py, in a new folder; only its name is replaced in the text.
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
    """A shell session that is written down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.text = folder, ""

    def run(self, command: str, *, shown: str | None = None) -> str:
        """Run a command line and note it with its output."""
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
        """Write the session so far and begin a new one."""
        DOCS.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(self.text)
        self.text = ""


def record_requeue(session: Session, steps: int) -> None:
    """Pack the sample, pretrain over both nodes with a short time limit, and look at what became of it."""
    session.run("climax-hpc pack --config demo_pack --output data --sources '[\"JCM-C_piClim-control_r1i1p1f1\"]'")
    session.run("sinfo")
    script = scripts() / "pretrain.sh"
    config = f"demo_pretrain --run_folder=pre --data.dataset=data '--data.sources=[\"JCM-C\"]' --train.steps={steps}"
    rest = f"{config} --train.checkpoint_every=50 {SMALL}"
    # Six minutes less the 300 s of --signal: Slurm warns the job after one minute, to the next half.
    options = "--nodes=2 --ntasks-per-node=1 --time=6"
    session.run(f"sbatch {options} {script} {rest}", shown=f"sbatch {options} slurm/pretrain.sh {rest}")
    session.wait_for_empty_queue()
    log = next(session.folder.glob("climax-pretrain-*.out"))
    session.run(f"cat {log.name}")
    session.run("cat pre.attempts.json")
    session.run("climax-hpc status pre")
    session.save("requeue.txt")


def record_sweep(session: Session) -> None:
    """Six fine-tunings of the pretrained run."""
    (session.folder / "six.py").write_text(SNIPPET)
    session.run("cat six.py")
    session.run("python six.py")
    session.run("cat six/members.tsv")
    session.run("climax-hpc status six")
    session.save("sweep.txt")


def main(folder: Path, steps: int) -> None:
    """Record both sessions, or only the sweep where the folder has a pretrained run."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.update(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    session = Session(folder)
    if not (folder / "pre").exists():
        record_requeue(session, steps)
    record_sweep(session)


if __name__ == "__main__":
    # FOLDER STEPS: a new folder, and steps that take longer than a minute here.
    given = sys.argv[1:]
    main(Path(given[0] if given else tempfile.mkdtemp(prefix="transcript-")), int(given[1]) if given[1:] else 1500)
