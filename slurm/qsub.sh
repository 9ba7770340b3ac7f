#!/usr/bin/env bash
# Submit a batch script of this folder to PBS Pro or OpenPBS, with a warning before the time limit and successor jobs.
#   slurm/qsub.sh [OPTIONS OF QSUB] [--nodes=N] SCRIPT ARGUMENTS …
#   slurm/qsub.sh -A PROJECT -l walltime=12:00:00 --nodes=4 pretrain.sh CONFIG [--dotted.key value …]
# In the job this file runs SCRIPT, unchanged, with functions in place of Slurm's commands: srun is mpiexec; squeue and
# scontrol ask qstat; sbatch, which job.sh calls for a successor, is qsub. docs/guides/sites.md explains it.
# UNPROVEN: it has not run on a real PBS.
set -euo pipefail
export CLIMAX_HPC_PYTHON=${CLIMAX_HPC_PYTHON:-python}
CLIMAX_HPC_SLURM=${CLIMAX_HPC_SLURM:-$("$CLIMAX_HPC_PYTHON" -m climax_hpc.launch where)} \
  || { echo "climax-hpc: error: $CLIMAX_HPC_PYTHON cannot import climax_hpc: activate its environment, or see docs/guides/slurm.md" >&2; exit 2; }
export CLIMAX_HPC_SLURM

fail() { # MESSAGE: one line, exit status 2
  printf 'climax-hpc: error: %s\n' "$1" >&2
  exit 2
}

submit() { # OPTIONS … SCRIPT ARGUMENTS …
  local options=() script=''
  # shellcheck disable=SC2206 # the options of the site file are words
  options=(${CLIMAX_HPC_QSUB_OPTIONS:-})
  while [ $# -gt 0 ] && [ -z "$script" ]; do
    case $1 in
      --nodes=*)
        [ -n "${CLIMAX_HPC_QSUB_NODE:-}" ] \
          || fail "--nodes needs CLIMAX_HPC_QSUB_NODE, the resources of a node: source a site file, or give -l select=…"
        options+=(-l "select=${1#*=}:$CLIMAX_HPC_QSUB_NODE")
        ;;
      pack.sh | pretrain.sh | finetune_array.sh | evaluate.sh | */pack.sh | */pretrain.sh | */finetune_array.sh | */evaluate.sh)
        script=${1##*/}
        ;;
      *) options+=("$1") ;;
    esac
    shift
  done
  [ -n "$script" ] || fail "usage: slurm/qsub.sh [OPTIONS OF QSUB] [--nodes=N] pack.sh|pretrain.sh|finetune_array.sh|evaluate.sh ARGUMENTS …"
  command -v qsub >/dev/null || fail "no qsub on this machine; log in to a cluster with PBS, or use sbatch"
  options=(-N "climax-${script%%[_.]*}" -j oe -r y "${options[@]}")
  CLIMAX_HPC_QSUB_AGAIN=$(printf '%q ' "${options[@]}") # for a successor job
  export CLIMAX_HPC_QSUB_AGAIN
  exec qsub "${options[@]}" -V -- "$BASH" "$CLIMAX_HPC_SLURM/qsub.sh" --job "$script" "$@"
}

field() { # NAME: a field of this job in qstat's output
  qstat -f "$PBS_JOBID" | sed -n "s/^ *$1 = //p" | head -n 1
}

clock() { # SECONDS: as Slurm writes a duration
  printf '%d:%02d:%02d' $(($1 / 3600)) $(($1 / 60 % 60)) $(($1 % 60))
}

state() { # of this job, in Slurm's words
  # SIGTERM before the warning is due: qdel, or a preemption, after which PBS runs the job again by itself.
  if [ "$warned" = 1 ] && [ $SECONDS -lt $warning_at ]; then
    echo CANCELLED
  else
    case $(field job_state) in R) echo RUNNING ;; *) echo COMPLETING ;; esac
  fi
}

srun() { # [--OPTION=VALUE …] COMMAND …: start the ranks; job.sh calls it in the background, so that exec ends no script
  local ranks per_node
  ranks=$(wc -l <"$PBS_NODEFILE")
  per_node=$((ranks / SLURM_JOB_NUM_NODES))
  MASTER_PORT=$((10000 + (MASTER_PORT - 10000 + 9973 * restarts) % 20000)) # of job.sh: another one after a restart
  while [[ $1 = --* ]]; do
    case $1 in --ntasks=*) ranks=${1#*=} per_node=$ranks ;; esac
    shift
  done
  exec "${CLIMAX_HPC_MPIEXEC[@]:-mpiexec}" -n "$ranks" -ppn "$per_node" "$@"
}

squeue() { # … --format=%T or %L: state of this job, or its time left
  case "$*" in
    *%L*) clock $((limit - SECONDS)) ;;
    *) state ;;
  esac
}

scontrol() { # show job …: what job.sh needs of it
  [ "$1" = show ] || return 1 # a job of PBS cannot requeue itself
  echo "JobId=$SLURM_JOB_ID JobState=$(state) TimeLimit=$(clock "$limit")"
}

sbatch() { # OPTIONS OF SBATCH … SCRIPT ARGUMENTS …: submit a successor, with the options of this job
  local again=() after=() options=() i
  while [[ $1 = --* ]]; do shift; done
  eval "again=($CLIMAX_HPC_QSUB_AGAIN)" # written by printf %q
  if [ -z "${PBS_ARRAY_INDEX:-}" ]; then
    options=("${again[@]}")
    after=(-W "depend=afterany:$PBS_JOBID")
  else
    # PBS has no arrays of one: the successor is a plain job, with the member's number in its environment.
    for ((i = 0; i < ${#again[@]}; i++)); do
      if [ "${again[i]}" = -J ]; then i=$((i + 1)); else options+=("${again[i]}"); fi
    done
    CLIMAX_HPC_QSUB_AGAIN=$(printf '%q ' "${options[@]}")
  fi
  qsub "${options[@]}" ${after[@]+"${after[@]}"} -V -- "$BASH" "$CLIMAX_HPC_SLURM/qsub.sh" --job "${1##*/}" "${@:2}"
}

run() { # SCRIPT ARGUMENTS …: in the job
  local script=$1 signal name time
  shift
  [ "${CLIMAX_HPC_SPARE_NODES:-0}" = 0 ] || fail "CLIMAX_HPC_SPARE_NODES: PBS has no spare nodes; unset it"
  cd "$PBS_O_WORKDIR"
  export SLURM_JOB_ID=${PBS_JOBID%%[!0-9]*} SLURM_JOB_PARTITION=${PBS_QUEUE:-}
  SLURM_JOB_NUM_NODES=$(sort -u "$PBS_NODEFILE" | wc -l)
  SLURM_NTASKS=$(wc -l <"$PBS_NODEFILE")
  SLURM_RESTART_COUNT=$(($(field run_count || echo 1) - 1))
  export SLURM_JOB_NUM_NODES SLURM_NTASKS SLURM_RESTART_COUNT CLIMAX_HPC_RESUME_BY=successor
  if [ -n "${PBS_ARRAY_INDEX:-}" ]; then export SLURM_ARRAY_TASK_ID=$PBS_ARRAY_INDEX; fi
  # Rank 0 runs on the first node; the port is below those that systems give away, and another one after a restart.
  MASTER_ADDR=$(head -n 1 "$PBS_NODEFILE")
  MASTER_PORT=$((10000 + (SLURM_JOB_ID + 7919 * SLURM_RESTART_COUNT) % 20000))
  export MASTER_ADDR MASTER_PORT

  time=$(field Resource_List.walltime)
  IFS=: read -r hours minutes seconds <<<"$time"
  limit=$((10#$hours * 3600 + 10#$minutes * 60 + 10#$seconds))
  signal=${SBATCH_SIGNAL:-$(sed -n 's/^#SBATCH --signal=//p' "$CLIMAX_HPC_SLURM/$script")}
  name=${signal#B:}
  warning_at=$((limit - ${name#*@}))
  [ $warning_at -gt 0 ] \
    || fail "the warning comes ${name#*@} s before the time limit, which is $time: give a longer -l walltime, or export SBATCH_SIGNAL=${signal%@*}@SECONDS"
  (
    trap 'kill "$pause"; exit' TERM
    sleep $((warning_at - SECONDS)) &
    pause=$!
    wait "$pause" && kill -s "${name%@*}" $$
  ) &
  # shellcheck disable=SC2064 # the present value
  trap "kill $! 2>/dev/null || true" EXIT
  # shellcheck source=slurm/pretrain.sh
  . "$CLIMAX_HPC_SLURM/$script" "$@"
}

if [ "${1:-}" = --job ]; then
  run "${@:2}"
else
  submit "$@"
fi
