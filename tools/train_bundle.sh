#!/usr/bin/env bash
# Makes the bundle of data/bach from nothing but packages: rendered scores, a codec without phase, a pulse stage, one
# acoustic stage. Resumable: run it again after any interruption.
#   tools/train_bundle.sh WORK_FOLDER BUNDLE_FOLDER
# On two CPU cores that did other work too: an hour and three quarters for 24 hours of music with their films, codec an
# hour, its decoder 18 minutes, pulse 30, acoustic an hour and a half; 6 GB of disk. The scores to be expected are those of
# data/bach/README.md. Between the parts stand gates (tools/gates.py); one that fails ends it, unless GATES=tell.
# More of it, or on a GPU: HOURS=60 STYLES=bach,corelli,haydn,mozart STEPS=10 (times the recipes' steps) RECORDINGS=2
# (variations of the tracks of data/tiny) HARDWARE="--gin_file=hardware/gpu_1.gin". To see all of it run, and nothing
# learned, in a quarter of an hour: HOURS=1 STEPS=0.01 GATES=tell.
# Needs the extras "train", "scores" and "text", fluidsynth and fluid-soundfont-gm; with RECORDINGS apt-get.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
work="${1:?usage: train_bundle.sh WORK_FOLDER BUNDLE_FOLDER}"
bundle="${2:?usage: train_bundle.sh WORK_FOLDER BUNDLE_FOLDER}"
read -ra hardware <<< "${HARDWARE:-}"
mkdir -p "$work"

# Music, and videos of it: of scores from what is true, of recordings from what is measured.
kinds=(scores)
python "$here/tools/make_music.py" scores --hours "${HOURS:-24}" --repertoires "${STYLES:-bach,corelli,joplin}" \
  --out "$work/scores" --sample_rate 16000 --workers 2
if [ "${RECORDINGS:-0}" != 0 ]; then
  kinds+=(recordings)
  python "$here/tools/fetch_music.py" --out "$work/tracks" --tracks "$here/data/tiny/TRACKS.tsv"
  python "$here/tools/make_music.py" recordings --manifest "$work/tracks/manifest.jsonl" --out "$work/recordings" \
    --variations "$RECORDINGS" --sample_rate 16000
fi
for kind in "${kinds[@]}"; do
  v2meow visualize --manifest="$work/$kind/manifest.jsonl" --out="$work/videos_$kind" --workers=2
done
cat "$work"/videos_*/manifest.jsonl > "$work/manifest.jsonl"
v2meow prepare --manifest="$work/manifest.jsonl" --out="$work/ds" \
  --streams=video/motion,video/events,audio/pulse,style/words,audio/waveform

train() {  # recipe, run, steps, further arguments
  local steps shorter=()
  steps="$(awk "BEGIN { steps = int($3 * ${STEPS:-1} + 0.5); print steps < 10 ? 10 : steps }")"
  if [ "$steps" -lt "$3" ]; then shorter=(--gin.WARMUP_STEPS=$((steps / 10))); fi
  v2meow train --gin_file="recipes/$1.gin" "${hardware[@]}" --gin.MODEL_DIR="\"$work/runs/$2\"" \
    --gin.DATASET_DIR="\"$work/ds\"" --gin.TOTAL_STEPS="$steps" "${shorter[@]}" "${@:4}"
}
gate() {
  python "$here/tools/gates.py" "$@" || [ "${GATES:-}" = tell ]
}
report_of() {  # the runs that are there, as a bundle, on held-out music
  rm -rf "$work/so_far"
  v2meow export "${@/#/--run=$work/runs/}" --out="$work/so_far"
  v2meow evaluate --bundle="$work/so_far" --dataset="$work/ds" --out="$work/report" --crops=256
}

train magnitude_16k codec 3000
mkdir -p "$work/held_out/audio" "$work/held_out/video"
python - "$work/manifest.jsonl" "$work/held_out" << 'END'
import json, os, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
for row in [row for row in rows if row['split'] == 'validation'][:40]:
  for kind in ('audio', 'video'):
    place = os.path.join(sys.argv[2], kind, os.path.basename(row[kind]))
    os.path.lexists(place) or os.symlink(os.path.abspath(row[kind]), place)
END
v2meow codec report --bundle="$work/runs/codec" --audio="$work/held_out/audio" --out="$work/codec_report"
gate codec "$work/codec_report/report.json"
v2meow prepare --out="$work/ds" --streams=audio/acoustic --codec="$work/runs/codec"
train magnitude_16k_decoder decoder 600 --gin.WarmStart.source="\"$work/runs/codec\""

train small_pulse pulse 1200
report_of decoder pulse
gate stage "$work/report/report.json" pulse

train small_acoustic acoustic 2800
report_of decoder pulse acoustic
gate stage "$work/report/report.json" acoustic

[ -e "$bundle/bundle.json" ] || v2meow export --run="$work/runs/decoder" --run="$work/runs/pulse" \
  --run="$work/runs/acoustic" --out="$bundle" \
  --name="v2meow_jax bach" --dtype=float16 --licence="CC-BY-NC-SA-4.0" \
  --sampling='{"pulse": {"temperature": 0.9, "guidance": [["video", 2.0], ["style", 3.0]]},
    "acoustic": {"temperature": 0.9, "top_k": 100, "guidance": [["style", 3.0]]}}' \
  --provenance="music21's corpus (${STYLES:-bach,corelli,joplin}) played by FluidSynth with FluidR3"
v2meow evaluate --bundle="$bundle" "$work/held_out/video"/* --seconds=10 --out="$work/report_films"
gate music "$work/report_films/report.json"
