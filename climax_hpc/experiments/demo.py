"""`make demo`: the whole chain on the shipped sample, each stage the command that a user would type."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path("runs/demo")
_TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "climax_hpc")
_FINETUNE = (*_TORCHRUN, "finetune", "--config", "demo_finetune")

# Stage -> the words after `python -m`.
STAGES: dict[str, tuple[str, ...]] = {
    "pack the CMIP6 sample": ("climax_hpc", "pack", "--config", "demo_pack"),
    "verify the shards": ("climax_hpc", "verify", "--dataset", "runs/demo/data"),
    "pretrain on JCM-A and JCM-B": (*_TORCHRUN, "pretrain", "--config", "demo_pretrain"),
    "fine-tune on JCM-C": _FINETUNE,
    "the same from scratch": (*_FINETUNE, "--checkpoint", "null", "--run_folder", "runs/demo/scratch"),
    "score on the held-out year": ("climax_hpc", "evaluate", "--config", "demo_evaluate"),
    "write the report": ("climax_hpc", "report", "--config", "demo_report"),
}


def demo() -> int:
    """Run every stage in a fresh folder; returns the first non-zero exit status, else 0."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    # Two ranks of one thread each: threads that wait for one another lose much more on a busy machine.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    start, seconds = time.perf_counter(), {}
    for number, (name, words) in enumerate(STAGES.items(), start=1):
        print(f"\n[{number}/{len(STAGES)}] {name}: {_as_typed(words)}", flush=True)
        begun = time.perf_counter()
        status = subprocess.run([sys.executable, "-m", *words], env=environment).returncode
        seconds[name] = time.perf_counter() - begun
        if status:
            print(f"the demo stopped in stage {number} ({name}), exit status {status}", file=sys.stderr)
            return status
    print("\n" + "\n".join(f"{value:6.0f} s  {name}" for name, value in seconds.items()))
    print(f"{time.perf_counter() - start:6.0f} s  in all\n\nopen {(FOLDER / 'report.html').resolve()}")
    return 0


def _as_typed(words: tuple[str, ...]) -> str:
    """The command as a user would type it."""
    line = " ".join(words).replace("torch.distributed.run", "torchrun")
    return line if line.startswith("torchrun") else line.replace("climax_hpc", "climax-hpc", 1)


if __name__ == "__main__":
    sys.exit(demo())
