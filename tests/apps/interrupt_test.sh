#!/bin/sh
# Ctrl-C in the middle of a long command: exit code 130, one sentence, no partial file.
# Usage: interrupt_test.sh PITH BUILD_DIR
. tests/support/common.sh

# The signal is sent when the temporary file has appeared, so the work is in its middle. A fifo
# as input would be simpler, but models are mapped.
interrupted() {
  signals=$1
  shift
  "$@" >"$dir/out" 2>"$dir/err" &
  pid=$!
  while kill -0 $pid 2>/dev/null && [ -z "$(ls -A "$dir/made")" ]; do :; done
  for _ in $signals; do kill -INT $pid 2>/dev/null; done
  wait $pid
  code=$?
  # The work may have been quicker than the signal: then it is complete.
  if [ "$code" = 0 ]; then
    echo "note: '$*' was done before the signal came"
    rm -f "$dir"/made/*
    return
  fi
  [ "$code" = 130 ] || fail "$* ended with $code: $(cat "$dir/err")"
  [ -z "$(ls -A "$dir/made")" ] || fail "$* left $(ls -A "$dir/made")"
  rm -f "$dir"/made/*
}

python3 tests/support/make_checkpoint.py "$dir" 512 2048 6 8 4 128 || fail "make_checkpoint.py"
mkdir "$dir/made"
"$pith" convert "$dir/model.bin" "$dir/model.gguf" --type f32 >/dev/null || fail "convert"

for _ in 1 2 3; do
  interrupted "once" "$pith" convert "$dir/model.bin" "$dir/made/out.gguf"
  interrupted "once" "$pith" quantize "$dir/model.gguf" "$dir/made/out.gguf" q4_k
  interrupted "once twice" "$pith" quantize "$dir/model.gguf" "$dir/made/out.gguf" q6_k
done

# Random weights of a known shape are a file of half a gigabyte.
interrupted "once" "$pith" bench --geometry qwen2.5-0.5b --type Q8_0 -o "$dir/made/out.gguf"

# stopped WORDS... : as above, for work without a file; the signal is sent after 0.3 seconds of the
# processor's time, of at least half a minute that the work would take.
stopped() {
  "$@" >"$dir/out" 2>"$dir/err" &
  pid=$!
  ticks=0
  while [ "$ticks" -lt 30 ]; do
    read -r line 2>/dev/null <"/proc/$pid/stat" || break
    # shellcheck disable=SC2086 # fields are words; the first two have none of ours in them
    set -- ${line##*) }
    ticks=$((${12} + ${13}))
  done
  kill -INT $pid 2>/dev/null
  wait $pid
  code=$?
  [ "$code" = 130 ] || fail "a stopped command ended with $code: $(cat "$dir/err")"
  [ "$(cat "$dir/err")" = "pith: interrupted" ] || fail "a stopped command said: $(cat "$dir/err")"
}
stopped "$pith" demo --exact --tokens 65536 --kv full -o json
[ ! -s "$dir/out" ] || fail "a stopped demo printed $(cat "$dir/out")"
stopped "$pith" bench -m "$dir/model.gguf" -p 512 -n 0 -r 1000 -o json
[ ! -s "$dir/out" ] || fail "a stopped bench printed $(cat "$dir/out")"
stopped "$pith" demo --exact --tokens 65536 --kv full --keep "$dir/kept.gguf"
"$pith" inspect "$dir/kept.gguf" >/dev/null || fail "a stopped demo kept half a model"

[ "$failures" = 0 ]
