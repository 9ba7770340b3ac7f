#!/usr/bin/env bash
# Fine-tune one member per row of a table (docs/guides/sweeps.md). Members are requeued, and fail, independently.
#   sbatch --array=0-5 [OPTIONS OF SBATCH] slurm/finetune_array.sh TABLE CONFIG [--dotted.key value …]
#SBATCH --job-name=climax-finetune
#SBATCH --output=climax-finetune-%A_%a.out
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

[ $# -ge 2 ] || climax_hpc_fail "usage: sbatch --array=0-LAST slurm/finetune_array.sh TABLE CONFIG [--dotted.key value …]"
[ -n "${SLURM_ARRAY_TASK_ID:-}" ] || climax_hpc_fail "not an array job: submit it with sbatch --array=0-LAST slurm/finetune_array.sh …"
table=$1 config=$2
# The arguments of the row are separated by NUL, because names and paths may contain any other character.
row=()
while IFS= read -r -d '' word; do row+=("$word"); done < <(ask row "$table" "$SLURM_ARRAY_TASK_ID")
[ ${#row[@]} -gt 0 ] || exit 2 # the error is printed above
run_job finetune_array.sh finetune --config "$config" "${@:3}" "${row[@]}"
