#!/usr/bin/env bash
# Train one network with all GPUs of several nodes, one process for each GPU:
#
#   sbatch launch/cluster/slurm_train.sh --config.data.source_dir=PATH ...
#
# Two minutes before the time limit Slurm sends SIGTERM to the processes that srun starts, not to
# this shell (which --signal=B:TERM would do). They save the state and exit with status 130, and the
# job goes back into the queue. The same job, submitted again, resumes as well.
#
# Fill in, here and below:
#SBATCH --partition=gpu
#SBATCH --time=04:00:00
#SBATCH --nodes=2
# One task for each GPU of a node, and no --gpus-per-task: JAX gives each task the GPU of the task's
# number on its node, so that every task has to see all of them.
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#
#SBATCH --job-name=ssa-jax-train
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -uo pipefail

environment=$HOME/ssa_jax/.venv # where ssa-jax is installed, on the shared disk
workdir=$HOME/W                 # on the shared disk too
config=covid_semiseg

export PATH="$environment/bin:$PATH"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not take it from sbatch
trap : TERM                                           # a preemption: stay until the step has ended

# A node that died leaves a lock, which is nobody's after ten minutes without a sign of life.
for _ in {1..24}; do
    [[ -n $(find "$workdir/.lock" -mmin -11 2>/dev/null) ]] || break
    sleep 30
done

# A task that has ended must not take those with it that still save.
srun --kill-on-bad-exit=0 ssa-jax train --config "$config" --workdir "$workdir" "$@"
status=$?

# `scancel` gives 130 too, but then the job no longer counts as running.
if ((status == 130)) && [[ $(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T) == RUNNING ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
