#!/usr/bin/env bash
# Train one network with all hosts of a Cloud TPU slice, from an empty project:
#
#   bash launch/cluster/tpu_vm.sh create
#   bash launch/cluster/tpu_vm.sh install
#   bash launch/cluster/tpu_vm.sh train --config covid_semiseg --config.data.source_dir=PATH ...
#   bash launch/cluster/tpu_vm.sh stop      # save the state; `train` again resumes
#   bash launch/cluster/tpu_vm.sh delete    # or the slice goes on to cost money
#
# Needs the Google Cloud CLI, logged in, and the TPU API (`gcloud services enable
# tpu.googleapis.com`). All hosts read and write one disk: an NFS share (Filestore, say) in the
# slice's network. `train` runs for as long as this shell is connected; start it within tmux.
set -euo pipefail

# Fill in:
name=ssa-jax
zone=us-east5-b
accelerator=v6e-16      # `gcloud compute tpus accelerator-types list` names them
runtime=v2-alpha-tpuv6e # v5p: v2-alpha-tpuv5; v5e: v2-alpha-tpuv5-lite; older: tpu-ubuntu2204-base
share=ADDRESS:/SHARE    # the NFS share

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

on_all() {
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

step=${1:-}
shift || true
case $step in
create)
    gcloud compute tpus tpu-vm create "$name" --zone="$zone" \
        --accelerator-type="$accelerator" --version="$runtime" "$@"
    ;;
install)
    archive=$(mktemp -d)
    trap 'rm -r "$archive"' EXIT
    git -C "$root" archive --format=tar.gz --prefix=ssa_jax/ -o "$archive/ssa_jax.tar.gz" HEAD
    gcloud compute tpus tpu-vm scp "$archive/ssa_jax.tar.gz" "$name:" --zone="$zone" --worker=all
    # The image's own Python may be older than 3.11; uv brings one. The extra `tpu` finds libtpu on
    # PyPI.
    on_all "set -e
        sudo apt-get update -q && sudo apt-get install -q -y nfs-common
        sudo mkdir -p /mnt/share && (mountpoint -q /mnt/share || sudo mount '$share' /mnt/share)
        sudo chmod 777 /mnt/share
        tar -xzf ssa_jax.tar.gz
        python3 -m pip install --user -q uv
        python3 -m uv venv -q --clear --python 3.12 env
        python3 -m uv pip install -q --python env/bin/python './ssa_jax[tpu,dicom]'"
    ;;
train)
    # JAX finds out about the hosts. `exec` lets a signal reach the program.
    on_all "cd /mnt/share && exec ~/env/bin/ssa-jax train --workdir W ${*@Q}"
    ;;
stop)
    on_all "pkill -TERM -f '[s]sa-jax train'"
    ;;
delete)
    gcloud compute tpus tpu-vm delete "$name" --zone="$zone"
    ;;
*)
    echo "error: ${step:-nothing}; expected create, install, train, stop or delete" >&2
    exit 2
    ;;
esac
