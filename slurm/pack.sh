#!/usr/bin/env bash
# Pack CMIP6 on all tasks of the job (MPI). Finished work units are kept, so it resumes after the time limit.
#   sbatch [OPTIONS OF SBATCH] slurm/pack.sh CONFIG [--dotted.key value …]
#SBATCH --job-name=climax-pack
#SBATCH --output=climax-pack-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
set -euo pipefail
# Slurm runs a copy of this file from its spool folder, so job.sh is found through the installed package.
export CLIMAX_HPC_PYTHON=${CLIMAX_HPC_PYTHON:-python}
CLIMAX_HPC_SLURM=${CLIMAX_HPC_SLURM:-$("$CLIMAX_HPC_PYTHON" -m climax_hpc.launch where)} \
  || { echo "climax-hpc: error: $CLIMAX_HPC_PYTHON cannot import climax_hpc: activate its environment, or see docs/guides/slurm.md" >&2; exit 2; }
# shellcheck source=slurm/job.sh
. "$CLIMAX_HPC_SLURM/job.sh"

[ $# -ge 1 ] || climax_hpc_fail "usage: sbatch slurm/pack.sh CONFIG [--dotted.key value …]"
run_job pack.sh pack --config "$@"
