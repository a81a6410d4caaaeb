#!/usr/bin/env bash
# Train one run on several nodes of Slurm by torchrun; its processes meet at the first node.
#   sbatch --nodes=2 --gpus-per-node=4 --time=600 scripts/train_nodes.sh train_gmu.py --config configs/iemocap_gmu.yaml
# Give it from the repository. PROCESSES is the number of processes a node, by default one for each
# of its GPUs; run.root must be on a mount that all nodes share. Some time before the limit Slurm
# sends SIGUSR1: all processes save and end, and the job goes back into the queue, where it resumes.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
fail() {
    echo "wrong input: $1" >&2
    exit 2
}
case "${1:-}" in
train.py | train_gmu.py) ;;
*) fail "name the entry first, train.py or train_gmu.py, then its arguments; got '${1:-}'" ;;
esac
[ -n "${SLURM_JOB_ID:-}" ] && [ -n "${SLURM_JOB_NODELIST:-}" ] ||
    fail "this script runs as a job: sbatch --nodes=2 ... scripts/train_nodes.sh $*"
cd "${SLURM_SUBMIT_DIR:-.}" && [ -f "$1" ] || fail "there is no $1 in $PWD: give sbatch from the repository"
default=python
[ -x .venv/bin/python ] && default=.venv/bin/python
export PYTHON="${PYTHON:-$default}" PROCESSES="${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}"
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || exit 1
export MASTER_ADDR="${hosts%%$'\n'*}" MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}"
# Seconds that torchrun gives its processes to save
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-100}"

requeue=no step=
# srun hands signals on to torchrun, which hands SIGTERM on to the training; SIGUSR1 would end torchrun alone
trap 'requeue=yes; [ -z "$step" ] || kill -TERM "$step"' USR1
trap '[ -z "$step" ] || kill -TERM "$step"' TERM
# In single quotes, because each node puts its own number in
srun --ntasks-per-node=1 bash -c 'exec "$PYTHON" -m torch.distributed.run \
    --nnodes="$SLURM_JOB_NUM_NODES" --node-rank="$SLURM_NODEID" --nproc-per-node="$PROCESSES" \
    --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" "$@"' train_nodes "$@" &
step=$!
while :; do # a signal ends one wait
    wait "$step"
    status=$?
    kill -0 "$step" 2>/dev/null || break
done
if [ "$status" != 0 ] && [ "$requeue" = yes ]; then
    echo "saved before the time limit: back into the queue"
    scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$status"
