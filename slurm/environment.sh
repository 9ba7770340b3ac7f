# shellcheck shell=bash
# The environment of every job, sourced on its first node: site, caches of each node, what srun takes over.
# Needs CLIMAX_HPC_SLURM, the folder of this file. docs/guides/slurm.md explains every variable.

climax_hpc_fail() { # MESSAGE: one line, exit status 2
  printf 'climax-hpc: error: %s\n' "$1" >&2
  exit 2
}

# sbatch hands on the environment of the shell or process that calls it: a rank found there would be that of every task.
if [ -n "${RANK:-}" ]; then unset MASTER_ADDR MASTER_PORT; fi # they belong to the same launcher
unset RANK WORLD_SIZE LOCAL_RANK PMI_RANK PMI_SIZE MPI_LOCALRANKID
unset OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK

CLIMAX_HPC_WRAP=() # the site's container command, empty for a virtual environment
export CLIMAX_HPC_SITE=${CLIMAX_HPC_SITE:-generic}
site_file=$CLIMAX_HPC_SITE
case $site_file in */*) ;; *) site_file=$CLIMAX_HPC_SLURM/sites/$site_file.env ;; esac
[ -r "$site_file" ] || climax_hpc_fail "CLIMAX_HPC_SITE: cannot read $site_file; give a name of $CLIMAX_HPC_SLURM/sites or a path"
# Site files and module systems use unset variables.
set +u
# shellcheck source=slurm/sites/generic.env
. "$site_file"
set -u

# Compiled kernels go to a folder that is local to each node: thousands of ranks must not lock files on a shared disk.
cache=${CLIMAX_HPC_CACHE:-${TMPDIR:-/tmp}/climax_hpc-$(id -un)}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$cache/triton}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$cache/inductor}
export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$cache/torch_extensions}
export MIOPEN_USER_DB_PATH=${MIOPEN_USER_DB_PATH:-$cache/miopen}

# srun takes --cpus-per-task from sbatch only through this variable since Slurm 22.05.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SRUN_CPUS_PER_TASK:-1}}
# A rank that stops ends with status 75: the others may finish too, but not wait for a dead one for ever.
export SLURM_KILL_BAD_EXIT=0 SLURM_WAIT=${SLURM_WAIT:-60}
export PYTHONUNBUFFERED=1
