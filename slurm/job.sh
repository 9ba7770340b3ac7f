# shellcheck shell=bash
# What the batch scripts share, sourced by them: one srun, signals passed on, and what comes after it ends.
# Slurm sends --signal=B:USR1 to the batch shell alone, so this shell passes it to srun, which gives it to every task;
# SIGTERM (preemption, scancel) reaches shell and tasks, and is passed on too, because a task in a container may miss it.

[ -n "${SLURM_JOB_ID:-}" ] || { echo "climax-hpc: error: this is a batch script: submit it with sbatch" >&2; exit 2; }
export CLIMAX_HPC_SLURM # for a successor
submitted=("$@") # the script's own arguments
# shellcheck source=slurm/environment.sh
. "$CLIMAX_HPC_SLURM/environment.sh"

ask() { # WORD …: climax_hpc.launch, in the container where there is one
  ${CLIMAX_HPC_WRAP[@]+"${CLIMAX_HPC_WRAP[@]}"} "$CLIMAX_HPC_PYTHON" -m climax_hpc.launch "$@"
}

step_pid='' interrupted=0 warned=0
on_signal() {
  interrupted=1 warned=1
  if [ -n "$step_pid" ]; then kill -USR1 "$step_pid" 2>/dev/null || true; fi
}

run_step() { # COMMAND …: run it beside this shell, so that traps run at once; its status in $status
  status=75
  [ $warned = 0 ] || return 0
  "$@" &
  step_pid=$!
  # A trapped signal ends `wait` early: wait again until the step itself has ended.
  while :; do
    interrupted=0
    wait "$step_pid" && status=0 || status=$?
    [ $interrupted = 1 ] || break
  done
  step_pid=''
}

srun_verb() { # VERB ARGUMENTS …: the verb as one task per rank
  local layout=()
  if [ -z "${SLURM_NTASKS:-}" ] && [ -n "${CLIMAX_HPC_TASKS_PER_NODE:-}" ]; then
    layout=("--ntasks-per-node=$CLIMAX_HPC_TASKS_PER_NODE")
  fi
  if [ "$1" = evaluate ]; then layout=(--nodes=1 --ntasks=1); fi
  run_step srun ${layout[@]+"${layout[@]}"} ${CLIMAX_HPC_WRAP[@]+"${CLIMAX_HPC_WRAP[@]}"} \
    "$CLIMAX_HPC_PYTHON" -m climax_hpc "$@"
}

go_on() { # SCRIPT: this job again, or a successor where the site forbids to requeue
  local state
  state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) || state=unknown
  case $state in
    RUNNING | SIGNALING) ;; # Slurm calls a running job so while it delivers --signal
    *)                      # cancelled by a person, or already being requeued by Slurm
      echo "climax-hpc: Slurm has the job as $state: nothing is requeued from here"
      exit 75
      ;;
  esac
  trap '' USR1 TERM
  if [ "${CLIMAX_HPC_GO_ON:-requeue}" = requeue ]; then
    scontrol requeue "$SLURM_JOB_ID" || climax_hpc_fail "this site forbids to requeue: export CLIMAX_HPC_GO_ON=successor"
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
      || climax_hpc_fail "no successor could be submitted from here: submit the same command again, it goes on"
  fi
  exit 75
}

run_job() { # SCRIPT VERB ARGUMENTS …: run the verb, then finish, go on, or stop with the reason
  local script=$1 run next=0
  shift
  trap on_signal USR1 TERM
  chain=${CLIMAX_HPC_CHAIN:-$SLURM_JOB_ID}
  unset CLIMAX_HPC_CHAIN
  run=$(ask begin "$chain" "$@") || exit
  srun_verb "$@"
  # 0: finished; 75: go on; anything else: stop with that status. The reason is in the log.
  ask end "$chain" "$run" "$status" || next=$?
  if [ $next = 75 ]; then go_on "$script"; fi
  exit $next
}
