#!/usr/bin/env bash
# sbatch configuration/launch/slurm.sh configuration/recipes/RECIPE.yaml [--field value ...]
# Run from the clone's root, with its environment in .venv and everything on a file system that all nodes share. Two
# minutes before the time is over the run saves its step and ends; then the job is queued again, as after a preemption,
# and the same command goes on from there.
#SBATCH --job-name=gpt-scratch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -uo pipefail

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 .venv/bin/torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "$head_node:29500" \
    -m training pretrain "$@"
code=$?

# The signal goes to the run, not to this script. An end near the time limit is its work; one before is an error.
if [ "$code" -ne 0 ] && [ "$((SLURM_JOB_END_TIME - $(date +%s)))" -lt 300 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
