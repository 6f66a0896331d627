#!/usr/bin/env bash
# Makes a bundle whose music is to follow its video, from nothing but packages: rendered scores and varied recordings,
# a codec without phase, a pulse stage, one acoustic stage. Resumable: run it again after any interruption.
#   tools/train_bundle.sh WORK_FOLDER BUNDLE_FOLDER
# Planned for two CPU cores: codec 3 h, pulse 1 h, acoustic 8 h, and 3 h for 40 hours of music; about 60 GB of disk.
# NOT YET RUN IN FULL: no scores can be told. Between the parts stand gates (tools/gates.py); one that fails ends it,
# unless GATES=tell. On a GPU: HARDWARE="--gin_file=hardware/gpu_1.gin". Another amount of music: HOURS=50.
# Needs the extras "train" and "scores", apt-get, fluidsynth and fluid-soundfont-gm.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
work="${1:?usage: train_bundle.sh WORK_FOLDER BUNDLE_FOLDER}"
bundle="${2:?usage: train_bundle.sh WORK_FOLDER BUNDLE_FOLDER}"
read -ra hardware <<< "${HARDWARE:-}"
mkdir -p "$work"

# Music, and videos of it: of scores from what is true, of recordings from what is measured.
python "$here/tools/fetch_music.py" --out "$work/tracks" --tracks "$here/data/tiny/TRACKS.tsv"
python "$here/tools/make_music.py" recordings --manifest "$work/tracks/manifest.jsonl" --out "$work/recordings" \
  --variations 2 --sample_rate 16000
python "$here/tools/make_music.py" scores --hours "${HOURS:-40}" --out "$work/scores" --sample_rate 16000 --workers 2
for kind in scores recordings; do
  v2meow visualize --manifest="$work/$kind/manifest.jsonl" --out="$work/videos_$kind" --workers=2
done
cat "$work"/videos_*/manifest.jsonl > "$work/manifest.jsonl"
v2meow prepare --manifest="$work/manifest.jsonl" --out="$work/ds" \
  --streams=video/motion,video/events,audio/pulse,audio/waveform

train() {
  v2meow train --gin_file="recipes/$1.gin" "${hardware[@]}" --gin.MODEL_DIR="\"$work/runs/$2\"" \
    --gin.DATASET_DIR="\"$work/ds\"" "${@:3}"
}
gate() {
  python "$here/tools/gates.py" "$@" || [ "${GATES:-}" = tell ]
}
report_of() {  # the runs that are there, as a bundle, on held-out music
  rm -rf "$work/so_far"
  v2meow export "${@/#/--run=$work/runs/}" --out="$work/so_far"
  v2meow evaluate --bundle="$work/so_far" --dataset="$work/ds" --out="$work/report" --crops=256
}

train magnitude_16k codec
train magnitude_16k_adversary codec_adversary --gin.WarmStart.source="\"$work/runs/codec\""
mkdir -p "$work/held_out"
python - "$work/manifest.jsonl" "$work/held_out" << 'END'
import json, os, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
for row in [row for row in rows if row['split'] == 'validation'][:40]:
  place = os.path.join(sys.argv[2], os.path.basename(row['audio']))
  os.path.lexists(place) or os.symlink(row['audio'], place)
END
v2meow codec report --bundle="$work/runs/codec_adversary" --audio="$work/held_out" --out="$work/codec_report"
gate codec "$work/codec_report/report.json"
v2meow prepare --out="$work/ds" --streams=audio/acoustic --codec="$work/runs/codec_adversary"

train small_pulse pulse
report_of codec_adversary pulse
gate stage "$work/report/report.json" pulse

train small_acoustic acoustic
report_of codec_adversary pulse acoustic
gate stage "$work/report/report.json" acoustic

v2meow export --run="$work/runs/codec_adversary" --run="$work/runs/pulse" --run="$work/runs/acoustic" --out="$bundle" \
  --name="v2meow_jax pulse" --dtype=float16 --licence="CC-BY-SA-4.0" \
  --sampling='{"pulse": {"temperature": 0.9}, "acoustic": {"temperature": 0.9, "top_k": 100}}' \
  --provenance="music21's corpus played by FluidSynth, and the tracks of data/tiny/TRACKS.tsv"
