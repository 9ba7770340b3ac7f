# shellcheck shell=bash
# Shared part of the batch scripts, sourced by them: runs srun, forwards signals to it, starts lost ranks again, requeues.
# Slurm sends the warning of --signal=B:… to the batch shell only, so this shell forwards it to srun, which signals every
# task. SIGTERM (preemption, scancel) reaches the shell and the tasks; it is forwarded too, because a task in a container
# may not receive it.

# From climax_hpc/distributed/signals.py, by `python -m climax_hpc.launch.constants`: edit there, not here.
warning_signal=USR1
exit_requeue=75
exit_restart=77

[ -n "${SLURM_JOB_ID:-}" ] || { echo "climax-hpc: error: this is a batch script: submit it with sbatch" >&2; exit 2; }
export CLIMAX_HPC_SLURM # for a successor job
submitted=("$@") # arguments of the batch script

step_pid='' interrupted=0 warned=0 left='' restarts=0
on_signal() {
  interrupted=1 warned=1
  if [ -n "$step_pid" ]; then kill -"$warning_signal" "$step_pid" 2>/dev/null || true; fi
}
on_warning() {
  on_signal
  # Slurm does not show the --signal of a job: this is how long before the time limit it warns.
  [ -n "$left" ] || left=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%L 2>/dev/null) || true
}

trap on_warning "$warning_signal"
trap on_signal TERM

# shellcheck source=slurm/environment.sh
. "$CLIMAX_HPC_SLURM/environment.sh"

ask() { # WORD …: call climax_hpc.launch, inside the container if the site has one
  ${CLIMAX_HPC_WRAP[@]+"${CLIMAX_HPC_WRAP[@]}"} "$CLIMAX_HPC_PYTHON" -m climax_hpc.launch "$@"
}

job_fields() { scontrol show job "$SLURM_JOB_ID" 2>/dev/null || true; }

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

layout=() # options of srun
check_layout() { # SUBCOMMAND: one task per rank, as sbatch got it, or as the site has it
  if [ "$1" = evaluate ]; then
    layout=(--nodes=1 --ntasks=1) CLIMAX_HPC_SPARE_NODES=0
  elif [ -z "${SLURM_NTASKS:-}" ] && [ -n "${CLIMAX_HPC_TASKS_PER_NODE:-}" ]; then
    layout=("--ntasks-per-node=$CLIMAX_HPC_TASKS_PER_NODE")
    local cores=${SLURM_JOB_CPUS_PER_NODE:-} needed=$((CLIMAX_HPC_TASKS_PER_NODE * ${SRUN_CPUS_PER_TASK:-1}))
    cores=${cores%%[!0-9]*}
    [ "${cores:-$needed}" -ge "$needed" ] \
      || climax_hpc_fail "CLIMAX_HPC_TASKS_PER_NODE=$CLIMAX_HPC_TASKS_PER_NODE needs $needed cores of each node, the job \
has $cores: submit it with --exclusive or --ntasks-per-node=$CLIMAX_HPC_TASKS_PER_NODE"
  fi
}

nodes=() # options of srun where the job has spare nodes
choose_nodes() { # as many nodes as the run needs, without those that Slurm has lost
  local spare=${CLIMAX_HPC_SPARE_NODES:-0} ranks=${SLURM_NTASKS_PER_NODE:-${CLIMAX_HPC_TASKS_PER_NODE:-1}} needed lost
  [ "$spare" != 0 ] || return 0
  needed=$((SLURM_JOB_NUM_NODES - spare))
  lost=$(sinfo --noheader --Node --nodes="$SLURM_JOB_NODELIST" --states=down,drain,fail,no_respond --format=%N |
    sort -u | paste -s -d, -) || lost=''
  nodes=("--nodes=$needed" "--ntasks=$((needed * ranks))" "--ntasks-per-node=$ranks" ${lost:+"--exclude=$lost"})
  # Slurm waits for word from a lost node before it ends the old step, whose cores a new one may take only like this.
  if [ $restarts -gt 0 ]; then nodes+=(--overlap); fi
}

check_number() { # NAME MOST: a variable of the user
  case ${!1:-0} in
    *[!0-9]* | ??????*) ;;
    *) if [ "${!1:-0}" -le "$2" ]; then return 0; fi ;;
  esac
  climax_hpc_fail "$1=${!1}: must be a number from 0 to $2"
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
    local option options=("--dependency=afterany:$SLURM_JOB_ID")
    while IFS= read -r -d '' option; do
      case $option in
        --signal=*) export SBATCH_SIGNAL=${option#*=} ;; # in the environment, so that later successors have it too
        *) options+=("$option") ;;
      esac
    done < <(job_fields | ask successor "$1" ${left:+"$left"})
    CLIMAX_HPC_CHAIN=$chain sbatch "${options[@]}" "$CLIMAX_HPC_SLURM/$1" "${submitted[@]}" \
      || climax_hpc_fail "the successor job could not be submitted: submit the same command again, it resumes"
  fi
  exit "$exit_requeue"
}

run_job() { # SCRIPT SUBCOMMAND ARGUMENTS …: run it, then finish, requeue, or stop with the reason
  local script=$1 run next most=${CLIMAX_HPC_RESTARTS:-10}
  shift
  check_layout "$1"
  chain=${CLIMAX_HPC_CHAIN:-$SLURM_JOB_ID}
  unset CLIMAX_HPC_CHAIN
  check_number CLIMAX_HPC_RESTARTS 99999
  check_number CLIMAX_HPC_SPARE_NODES $((${SLURM_JOB_NUM_NODES:-1} - 1))
  run=$(ask begin "$chain" "$@") || exit
  while :; do
    choose_nodes
    run_step srun ${layout[@]+"${layout[@]}"} ${nodes[@]+"${nodes[@]}"} \
      ${CLIMAX_HPC_WRAP[@]+"${CLIMAX_HPC_WRAP[@]}"} "$CLIMAX_HPC_PYTHON" -m climax_hpc "$@"
    [ $warned = 0 ] || most=0 # the job is about to end
    # 0: finished; exit_restart: start the ranks again here; exit_requeue: requeue; anything else: stop with that status.
    # The reason is in the log.
    next=0
    ask end "$chain" "$run" "$status" "$most" ${left:+"$left"} < <(job_fields) || next=$?
    [ "$next" = "$exit_restart" ] || break
    restarts=$((restarts + 1))
  done
  if [ "$next" = "$exit_requeue" ]; then requeue "$script"; fi
  exit "$next"
}
