# shellcheck shell=bash
# Environment of every job, sourced on its first node: site file, caches on each node, variables that srun inherits.
# Needs CLIMAX_HPC_SLURM, the folder of this file. docs/guides/slurm.md explains every variable.

climax_hpc_fail() { # MESSAGE: one line, exit status 2
  printf 'climax-hpc: error: %s\n' "$1" >&2
  exit 2
}

# sbatch passes on the environment of its caller; a rank in it would become the rank of every task.
if [ -n "${RANK:-}" ]; then unset MASTER_ADDR MASTER_PORT; fi # set by the same launcher
unset RANK WORLD_SIZE LOCAL_RANK PMI_RANK PMI_SIZE PMI_LOCAL_RANK MPI_LOCALRANKID PMIX_RANK ALPS_APP_PE
unset OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK
unset MV2_COMM_WORLD_RANK MV2_COMM_WORLD_SIZE MV2_COMM_WORLD_LOCAL_RANK
unset JSM_NAMESPACE_RANK JSM_NAMESPACE_SIZE JSM_NAMESPACE_LOCAL_RANK
unset PALS_RANKID PALS_SIZE PALS_LOCAL_RANKID FLUX_TASK_RANK FLUX_JOB_SIZE FLUX_TASK_LOCAL_ID

# sbatch --export=LIST applies to the batch script; srun would take it for its own --export and clear what is set below.
unset SLURM_EXPORT_ENV SRUN_EXPORT_ENV

# Renamed: refused, so that a job is not requeued where the site does not allow it.
[ -z "${CLIMAX_HPC_GO_ON:-}" ] || climax_hpc_fail "CLIMAX_HPC_GO_ON was renamed to CLIMAX_HPC_RESUME_BY: export that one"

CLIMAX_HPC_WRAP=() # container command of the site; empty for a virtual environment
export CLIMAX_HPC_SITE=${CLIMAX_HPC_SITE:-generic}
site_file=$CLIMAX_HPC_SITE
case $site_file in */*) ;; *) site_file=$CLIMAX_HPC_SLURM/sites/$site_file.env ;; esac
[ -r "$site_file" ] || climax_hpc_fail "CLIMAX_HPC_SITE: cannot read $site_file; use a name from $CLIMAX_HPC_SLURM/sites or a path"
# Site files and module systems use unset variables.
set +u
# shellcheck source=slurm/sites/generic.env
. "$site_file"
set -u

# Compiled kernels are cached on each node: thousands of ranks must not lock files on a shared file system. Every rank
# makes the folders its user's own, or refuses those of others (climax_hpc/utils/private_folders.py).
cache=${CLIMAX_HPC_CACHE:-${TMPDIR:-/tmp}/climax_hpc-$(id -un)}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$cache/triton}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$cache/inductor}
export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$cache/torch_extensions}
export MIOPEN_USER_DB_PATH=${MIOPEN_USER_DB_PATH:-$cache/miopen}
export MIOPEN_CUSTOM_CACHE_DIR=${MIOPEN_CUSTOM_CACHE_DIR:-$cache/miopen}

# srun takes --cpus-per-task from sbatch only through this variable since Slurm 22.05.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SRUN_CPUS_PER_TASK:-1}}
# A rank that stops exits with a non-zero status: the others may finish, but must not wait for it forever.
export SLURM_KILL_BAD_EXIT=0 SLURM_WAIT=${SLURM_WAIT:-60}
export PYTHONUNBUFFERED=1
