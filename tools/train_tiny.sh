#!/usr/bin/env bash
# Makes the model of data/tiny from nothing but Debian's packages: about two hours on two CPU cores, resumable.
#   tools/train_tiny.sh WORK_FOLDER BUNDLE_FOLDER
# Needs the extra "train", apt-get, and 6 GB of disk.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
work="${1:?usage: train_tiny.sh WORK_FOLDER BUNDLE_FOLDER}"
bundle="${2:?usage: train_tiny.sh WORK_FOLDER BUNDLE_FOLDER}"
mkdir -p "$work"

python "$here/tools/fetch_music.py" --out "$work/music" --tracks "$here/data/tiny/TRACKS.tsv"
v2meow visualize --manifest="$work/music/manifest.jsonl" --out="$work/videos"
v2meow prepare --manifest="$work/videos/manifest.jsonl" --out="$work/ds" --streams=video/motion,audio/waveform
[ -e "$work/semantic.safetensors" ] ||
  v2meow fit-semantic --dataset="$work/ds" --out="$work/semantic.safetensors" --codes=512

train() {
  v2meow train --gin_file="recipes/tiny_$1.gin" \
    --gin.MODEL_DIR="\"$work/runs/$1\"" --gin.DATASET_DIR="\"$work/ds\""
}
train codec
v2meow prepare --out="$work/ds" --streams=audio/semantic,audio/acoustic \
  --semantic="$work/semantic.safetensors" --codec="$work/runs/codec"
train semantic
train coarse
train fine

export_to() {
  v2meow export --run="$work/runs/codec" --run="$work/runs/semantic" --run="$work/runs/coarse" \
    --run="$work/runs/fine" --semantic="$work/semantic.safetensors" --out="$1" --name="v2meow_jax tiny" \
    --dtype=float16 --licence="CC-BY-SA-4.0" --sampling="$2" \
    --provenance="106 tracks of freely licensed game music, listed in data/tiny/TRACKS.tsv"
}
temperatures='{"semantic": {"temperature": 0.95, "top_k": 100}, "coarse": {"temperature": 0.9, "top_k": 100},
  "fine": {"temperature": 0.7, "top_k": 100}}'
rm -rf "$work/first"
export_to "$work/first" "$temperatures"
export_to "$bundle" "$(python "$here/tools/quiet_codes.py" --dataset="$work/ds" --bundle="$work/first")"
v2meow evaluate --bundle="$bundle" --dataset="$work/ds" --out="$work/evaluation.json"
