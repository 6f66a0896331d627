#!/usr/bin/env bash
# Trains on GPU nodes under Slurm, one process a node: sbatch tools/launch/slurm.sh RECIPE MODEL_DIR DATASET_DIR
# Requeued by itself when it was stopped for the time limit (exit status 75) or lost a node (76).
#SBATCH --job-name=v2meow
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
RECIPE=${1:?a recipe, such as v2meow_coarse} MODEL_DIR=${2:?} DATASET_DIR=${3:?}

# A node's eight GPUs along fsdp, nodes along data.
srun --kill-on-bad-exit=0 .venv/bin/v2meow train --multiprocess \
  --gin_file="recipes/$RECIPE.gin" --gin_file=hardware/gpu_8.gin \
  --gin.Partitioner.dcn_mesh_shape="($SLURM_JOB_NUM_NODES, 1, 1)" \
  --gin.MODEL_DIR="'$MODEL_DIR'" --gin.DATASET_DIR="'$DATASET_DIR'" &
wait $!
status=$?
case $status in
  75 | 76) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit $status
