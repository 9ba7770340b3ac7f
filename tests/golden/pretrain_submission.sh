#!/bin/bash

# Parameters
#SBATCH --account=m1234_g
#SBATCH --constraint='gpu&hbm80g'
#SBATCH --cpus-per-task=8
#SBATCH --error='TMP/it'"'"'s a "folder" $HOME/%j_0_log.err'
#SBATCH --gpus-per-node=4
#SBATCH --job-name=climax-pretrain
#SBATCH --mem=100GB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output='TMP/it'"'"'s a "folder" $HOME/%j_0_log.out'
#SBATCH --partition=gpu
#SBATCH --qos=regular
#SBATCH --requeue
#SBATCH --signal=USR1@300
#SBATCH --time=120
#SBATCH --wckey=submitit

# setup
set -euo pipefail
export CLIMAX_HPC_SLURM=SCRIPTS CLIMAX_HPC_PYTHON=PYTHON
CLIMAX_HPC_SITE=perlmutter
. "$CLIMAX_HPC_SLURM/environment.sh"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output 'TMP/it'"'"'s a "folder" $HOME/%j_%t_log.out' --error 'TMP/it'"'"'s a "folder" $HOME/%j_%t_log.err' ${CLIMAX_HPC_WRAP[@]+"${CLIMAX_HPC_WRAP[@]}"} PYTHON -u -m submitit.core._submit 'TMP/it'"'"'s a "folder" $HOME'
