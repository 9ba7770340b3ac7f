#!/usr/bin/env bash
# Pretrain on all nodes of the job. Before the time limit it writes a checkpoint and resumes in the next job.
#   sbatch [OPTIONS OF SBATCH] slurm/pretrain.sh CONFIG [--dotted.key value …]
#SBATCH --job-name=climax-pretrain
#SBATCH --output=climax-pretrain-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
set -euo pipefail
# Slurm runs a copy of this file from its spool folder, so job.sh is found through the installed package.
export CLIMAX_HPC_PYTHON=${CLIMAX_HPC_PYTHON:-python}
CLIMAX_HPC_SLURM=${CLIMAX_HPC_SLURM:-$("$CLIMAX_HPC_PYTHON" -m climax_hpc.launch where)} \
  || { echo "climax-hpc: error: $CLIMAX_HPC_PYTHON cannot import climax_hpc: activate its environment, or see docs/guides/slurm.md" >&2; exit 2; }
# shellcheck source=slurm/job.sh
. "$CLIMAX_HPC_SLURM/job.sh"

[ $# -ge 1 ] || climax_hpc_fail "usage: sbatch slurm/pretrain.sh CONFIG [--dotted.key value …]"
run_job pretrain.sh pretrain --config "$@"
