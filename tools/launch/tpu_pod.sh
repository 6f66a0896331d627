#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice: the same command on every host, which find each other by themselves.
#   tools/launch/tpu_pod.sh TPU_NAME ZONE RECIPE HARDWARE MODEL_DIR DATASET_DIR
# The package must be installed on the hosts, with its extra "tpu" (gcloud ... ssh --worker=all --command='pip ...').
set -euo pipefail
NAME=${1:?} ZONE=${2:?} RECIPE=${3:?} HARDWARE=${4:?v5e_256 or v5p_64} MODEL_DIR=${5:?} DATASET_DIR=${6:?}

gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="
  # 75: stopped and saved; 76: another host was lost. Both go on from the last checkpoint.
  while v2meow train --multiprocess \
      --gin_file=recipes/$RECIPE.gin --gin_file=hardware/$HARDWARE.gin \
      --gin.MODEL_DIR=\"'$MODEL_DIR'\" --gin.DATASET_DIR=\"'$DATASET_DIR'\"; \
    status=\$?; [ \$status -eq 75 ] || [ \$status -eq 76 ]; do sleep 10; done; exit \$status"
