#!/usr/bin/env bash
# Segment many scans, one part of them in each task of an array, and then write one table of all, in
# an array of a single task:
#
#   sbatch launch/cluster/slurm_predict.sh --intensity hu SCANS...
#   sbatch --array=1 --dependency=afterany:JOB launch/cluster/slurm_predict.sh (the same arguments)
#
# Every task gets the same scans or folders and takes its part. Status 3 means that some inputs could
# not be used; errors.csv in the folder of results lists them. Interrupted or submitted again, all
# goes on with what is missing.
#
# Fill in, here and below:
#SBATCH --partition=gpu
#SBATCH --time=04:00:00
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#
#SBATCH --job-name=ssa-jax-predict
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -uo pipefail

environment=$HOME/ssa_jax/.venv # where ssa-jax is installed, on the shared disk
workdir=$HOME/W                 # the trained network, on the shared disk too
out=$HOME/masks
part=$SLURM_ARRAY_TASK_ID
parts=$SLURM_ARRAY_TASK_COUNT

export PATH="$environment/bin:$PATH"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not take it from sbatch
trap : TERM                                           # a preemption: stay until the step has ended

# A node that died leaves a lock, which is nobody's after ten minutes without a sign of life.
for _ in {1..24}; do
    [[ -n $(find "$out/.lock.$part-of-$parts" -mmin -11 2>/dev/null) ]] || break
    sleep 30
done

srun ssa-jax predict --workdir "$workdir" --out "$out" --shard "$part/$parts" "$@"
status=$?

# The task alone: of the array's last one, SLURM_JOB_ID is the number of the whole array.
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
# `scancel` gives 130 too, but then the task no longer counts as running.
if ((status == 130)) && [[ $(squeue --noheader --jobs "$task" --format %T) == RUNNING ]]; then
    scontrol requeue "$task"
fi
exit "$status"
