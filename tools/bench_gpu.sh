#!/usr/bin/env bash
# All that must be known of one GPU, in about 12 minutes, most important first.
#   tools/bench_gpu.sh OUT_FOLDER [PART ...]
# Each part appends its rows to OUT_FOLDER/PART.jsonl as they are measured, so that what is cut off keeps what it had;
# a part that ended well is not run again. Parts: parity train attention decode generate codec resume torch.
# TINY=1 runs everything at sizes for a CPU. Needs the package; PyTorch for "torch" (left out where it is missing).
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${1:?usage: bench_gpu.sh OUT_FOLDER [PART ...]}"
shift
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(parity train attention decode generate codec resume torch)
mkdir -p "$out"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$out/compiled}"

if [ -n "${TINY:-}" ]; then
  sizes=(nano_semantic) hardware=() batch=2 grow=()
  parity=(--stage=nano_coarse --codec=nano_codec)
  attention=(--batch=1 --length=64 --prefix=16 --heads=2 --dimension=16 --repeats=2)
  decode=(--layers=2 --width=32 --heads=2 --mlp=64 --batches=1,2 --contexts=8,16 --repeats=1)
  generate=(--stages=nano_semantic,nano_coarse,nano_fine --codec=nano_codec --seconds=2 --repeats=1 --dtype=float32)
  resume=(--steps=4 --recipes=nano_coarse --batch=2)
  plain=(--layers=1 --width=32 --heads=2 --mlp=64 --length=64 --vocabulary=64 --batch=2 --steps=1)
else
  sizes=(v2meow_coarse v2meow_small_coarse v2meow_base_coarse v2meow_xl_coarse)
  hardware=(--hardware=gpu_1) batch=8 grow=(--grow)
  parity=() attention=() decode=(--batches=1,8,32 --dtypes=bfloat16) generate=() resume=()
  plain=(--layers=24 --width=1024 --heads=16 --mlp=4096 --length=2048 --batch=16 --dtype=bfloat16)
fi

tool() { python "$here/$1.py" "${@:2}"; }

# Seconds after which a part is cut off, and what it runs; rows go to the file named first.
limit() { case "$1" in train) echo 240 ;; generate) echo 150 ;; decode | resume) echo 120 ;; *) echo 90 ;; esac; }
run() {
  local rows="$1"
  case "$2" in
    parity) tool device_parity "${parity[@]}" --json="$rows" ;;
    train)
      for size in "${sizes[@]}"; do
        tool bench_train --recipe="$size" "${hardware[@]}" --batch="$batch" "${grow[@]}" --json="$rows" || return
      done ;;
    attention) tool bench_attention "${attention[@]}" --json="$rows" ;;
    decode) tool bench_decode "${decode[@]}" --no_peer --json="$rows" ;;
    generate) tool bench_generate "${generate[@]}" --json="$rows" ;;
    codec) tool bench_codec --no_peer ${TINY:+--recipes=nano_codec --seconds=1 --repeats=1} --json="$rows" ;;
    resume)
      tool device_resume "${resume[@]}" --json="$rows" && [ -n "${TINY:-}" ] ||
        XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_deterministic_ops=true" tool device_resume "${resume[@]}" --json="$rows" ;;
    torch)
      if ! python -c 'import torch' 2>/dev/null; then
        echo 'no PyTorch here: the peer is left out'
        return
      fi
      tool bench_train "${plain[@]}" --peer=torch --json="$rows" ;;
    *) echo "bench_gpu: there is no part $2" >&2; return 2 ;;
  esac
}

if [ "${parts[0]}" = --run ]; then
  run "$out/${parts[1]}.jsonl" "${parts[1]}"
  exit
fi
failed=0
for part in "${parts[@]}"; do
  if [ -e "$out/$part.done" ]; then
    echo "$part: done before"
    continue
  fi
  began=$SECONDS
  if timeout -k 10 "$(limit "$part")" bash "$0" "$out" --run "$part" > "$out/$part.log" 2>&1; then
    touch "$out/$part.done"
    echo "$part: $((SECONDS - began)) s"
  else
    failed=1
    echo "$part: failed or was cut off after $((SECONDS - began)) s; see $out/$part.log"
  fi
done
cat "$out"/*.jsonl 2>/dev/null
exit $failed
