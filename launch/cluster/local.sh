#!/usr/bin/env bash
# Train one network with N processes of this machine, each with one GPU, or on the CPU:
#
#   bash launch/cluster/local.sh N --config covid_semiseg --workdir W ...
#
# A single process uses all GPUs too and needs no launcher. SIGTERM and Ctrl-C reach every process:
# all stop after the same step, the state is saved, and the same command resumes. The first process
# that fails ends the others, and its exit status is the launcher's.
#
# In the environment: SSA_JAX, the program [ssa-jax]; PORT, on which the processes meet [random].
set -uo pipefail

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
    echo "error: ${1:-nothing}; expected the number of processes, then the flags of train" >&2
    exit 2
fi
processes=$1
shift
address=localhost:${PORT:-$((20000 + RANDOM % 10000))} # below the ports that Linux gives away

declare -A running=() # number of each process by its process id
deadline=            # of those that are left, in seconds since the start

end_all() {
    ((${#running[@]} == 0)) || kill -TERM "${!running[@]}" 2>/dev/null
}

# Processes in the background ignore SIGINT, so that Ctrl-C is passed on as SIGTERM.
trap end_all TERM INT

for ((process = 0; process < processes; process++)); do
    # Of the GPUs, each process takes the one of its number; JAX reads this variable.
    JAX_LOCAL_DEVICE_IDS=$process "${SSA_JAX:-ssa-jax}" train "$@" \
        --distributed "$address" --processes "$processes" --process "$process" &
    running[$!]=$process
done

first=0
while ((${#running[@]})); do
    for ended in "${!running[@]}"; do
        kill -0 "$ended" 2>/dev/null && continue
        wait "$ended"
        status=$?
        process=${running[$ended]}
        unset "running[$ended]"
        ((status != 0 && first == 0)) || continue
        first=$status
        echo "process $process ended with status $status" >&2
        end_all
        # A process that waits for a dead one may not notice SIGTERM.
        ((status == 130)) || deadline=$((SECONDS + 90))
    done
    ((${#running[@]} == 0)) || sleep 0.2 # `wait -n` misses a process that has ended already
    [[ -z $deadline ]] || ((SECONDS < deadline)) || kill -KILL "${!running[@]}" 2>/dev/null
done
exit "$first"
