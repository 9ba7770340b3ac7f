# shellcheck shell=bash
# Shared part of the batch scripts, sourced by them: runs one srun, forwards signals to it, requeues the job.
# Slurm sends the warning of --signal=B:… to the batch shell only, so this shell forwards it to srun, which signals every
# task. SIGTERM (preemption, scancel) reaches the shell and the tasks; it is forwarded too, because a task in a container
# may not receive it.

# From climax_hpc/distributed/signals.py, by `python -m climax_hpc.launch.constants`: edit there, not here.
warning_signal=USR1
exit_requeue=75

[ -n "${SLURM_JOB_ID:-}" ] || { echo "climax-hpc: error: this is a batch script: submit it with sbatch" >&2; exit 2; }
export CLIMAX_HPC_SLURM # for a successor job
submitted=("$@") # arguments of the batch script
# shellcheck source=slurm/environment.sh
. "$CLIMAX_HPC_SLURM/environment.sh"

ask() { # WORD …: call climax_hpc.launch, inside the container if the site has one
  ${CLIMAX_HPC_WRAP[@]+"${CLIMAX_HPC_WRAP[@]}"} "$CLIMAX_HPC_PYTHON" -m climax_hpc.launch "$@"
}

step_pid='' interrupted=0 warned=0
on_signal() {
  interrupted=1 warned=1
  if [ -n "$step_pid" ]; then kill -"$warning_signal" "$step_pid" 2>/dev/null || true; fi
}

run_step() { # COMMAND …: run it in the background, so that traps run at once; sets $status
  status=$exit_requeue
  [ $warned = 0 ] || return 0
  "$@" &
  step_pid=$!
  # A trapped signal interrupts `wait`: repeat it until the step itself has ended.
  while :; do
    interrupted=0
    wait "$step_pid" && status=0 || status=$?
    [ $interrupted = 1 ] || break
  done
  step_pid=''
}

srun_subcommand() { # SUBCOMMAND ARGUMENTS …: run it with one task per rank
  local layout=()
  if [ -z "${SLURM_NTASKS:-}" ] && [ -n "${CLIMAX_HPC_TASKS_PER_NODE:-}" ]; then
    layout=("--ntasks-per-node=$CLIMAX_HPC_TASKS_PER_NODE")
  fi
  if [ "$1" = evaluate ]; then layout=(--nodes=1 --ntasks=1); fi
  run_step srun ${layout[@]+"${layout[@]}"} ${CLIMAX_HPC_WRAP[@]+"${CLIMAX_HPC_WRAP[@]}"} \
    "$CLIMAX_HPC_PYTHON" -m climax_hpc "$@"
}

requeue() { # SCRIPT: requeue this job, or submit a successor if the site does not allow requeueing
  local state
  state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) || state=unknown
  case $state in
    RUNNING | SIGNALING) ;; # SIGNALING: a running job while Slurm delivers --signal
    *)                      # cancelled by a user, or already being requeued by Slurm
      echo "climax-hpc: Slurm lists the job as $state: it is not requeued"
      exit "$exit_requeue"
      ;;
  esac
  trap '' "$warning_signal" TERM
  if [ "${CLIMAX_HPC_RESUME_BY:-requeue}" = requeue ]; then
    scontrol requeue "$SLURM_JOB_ID" || climax_hpc_fail "this site does not allow requeueing: export CLIMAX_HPC_RESUME_BY=successor"
  else
    local options=("--dependency=afterany:$SLURM_JOB_ID" "--nodes=$SLURM_JOB_NUM_NODES" "--partition=$SLURM_JOB_PARTITION")
    options+=("--time=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%l)")
    if [ -n "${SLURM_NTASKS:-}" ]; then options+=("--ntasks=$SLURM_NTASKS"); fi
    if [ -n "${SLURM_NTASKS_PER_NODE:-}" ]; then options+=("--ntasks-per-node=$SLURM_NTASKS_PER_NODE"); fi
    if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then options+=("--cpus-per-task=$SLURM_CPUS_PER_TASK"); fi
    if [ -n "${SLURM_GPUS_PER_NODE:-}" ]; then options+=("--gpus-per-node=$SLURM_GPUS_PER_NODE"); fi
    if [ -n "${SLURM_GPUS_PER_TASK:-}" ]; then options+=("--gpus-per-task=$SLURM_GPUS_PER_TASK"); fi
    if [ -n "${SLURM_JOB_ACCOUNT:-}" ]; then options+=("--account=$SLURM_JOB_ACCOUNT"); fi
    if [ -n "${SLURM_JOB_QOS:-}" ]; then options+=("--qos=$SLURM_JOB_QOS"); fi
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then options+=("--array=$SLURM_ARRAY_TASK_ID"); fi
    CLIMAX_HPC_CHAIN=$chain sbatch "${options[@]}" "$CLIMAX_HPC_SLURM/$1" "${submitted[@]}" \
      || climax_hpc_fail "the successor job could not be submitted: submit the same command again, it resumes"
  fi
  exit "$exit_requeue"
}

run_job() { # SCRIPT SUBCOMMAND ARGUMENTS …: run it, then finish, requeue, or stop with the reason
  local script=$1 run next=0
  shift
  trap on_signal "$warning_signal" TERM
  chain=${CLIMAX_HPC_CHAIN:-$SLURM_JOB_ID}
  unset CLIMAX_HPC_CHAIN
  run=$(ask begin "$chain" "$@") || exit
  srun_subcommand "$@"
  # 0: finished; exit_requeue: requeue; anything else: stop with that status. The reason is in the log.
  ask end "$chain" "$run" "$status" || next=$?
  if [ "$next" = "$exit_requeue" ]; then requeue "$script"; fi
  exit "$next"
}
