#!/bin/sh
# Commands that run a model: reproducible texts, figures that parse, stop strings, Ctrl-C.
# Usage: generate_test.sh PITH BUILD_DIR
. tests/support/common.sh

python3 tests/support/make_checkpoint.py "$dir"
model=$dir/model.gguf
"$pith" convert "$dir/model.bin" "$model" --type f32 >/dev/null || fail "convert"
text='the king and the queen went on and on in the rain'

# The same seed gives the same text, on one thread and on two; another seed another text.
"$pith" run -m "$model" -p "$text" -n 40 -s 7 -t 1 -q >"$dir/a" || fail "run"
"$pith" run -m "$model" -p "$text" -n 40 -s 7 -t 2 -q >"$dir/b" || fail "run -t 2"
"$pith" run -m "$model" -p "$text" -n 40 -s 8 -t 2 -q >"$dir/c" || fail "run -s 8"
cmp -s "$dir/a" "$dir/b" || fail "two threads write another text"
cmp -s "$dir/a" "$dir/c" && fail "two seeds write the same text"

# A prompt comes from -p, from a file or from standard input.
printf '%s' "$text" >"$dir/prompt"
"$pith" run -m "$model" -f "$dir/prompt" -n 40 -s 7 -q | cmp -s - "$dir/a" || fail "-f"
"$pith" run -m "$model" -n 40 -s 7 -q <"$dir/prompt" | cmp -s - "$dir/a" || fail "standard input"
"$pith" run -m "$model" -p "$text" -n 4 --echo -q | grep -qF "$text" || fail "--echo"

# Figures as JSON; the text on the terminal is the text in it.
"$pith" run -m "$model" -p "$text" -n 40 -s 7 --json >"$dir/j" 2>"$dir/err" || fail "--json"
[ ! -s "$dir/err" ] || fail "--json said: $(cat "$dir/err")"
json "$dir/j" 'j["finish"] == "length" and len(j["tokens"]) == 40'
json "$dir/j" 'j["cache_bytes"] > 0 and j["peak_rss_bytes"] > 1 << 20 and j["ttft_seconds"] > 0'
python3 -c 'import json, sys; sys.stdout.write(json.load(open(sys.argv[1]))["text"] + "\n")' \
  "$dir/j" | cmp -s - "$dir/a" || fail "the text of --json differs"

# A stop string ends the text before itself, wherever token boundaries fall.
stop=$(head -c 23 "$dir/a" | tail -c 3)
"$pith" run -m "$model" -p "$text" -n 40 -s 7 --stop "$stop" --json >"$dir/j" || fail "--stop"
json "$dir/j" 'j["finish"] == "stop_string"'
python3 - "$dir/a" "$dir/j" "$stop" <<'PY' || fail "--stop ended the text elsewhere"
import json, sys
whole = open(sys.argv[1], "rb").read()
text = json.load(open(sys.argv[2]))["text"].encode()
assert whole.startswith(text) and whole.find(sys.argv[3].encode()) == len(text), (whole, text)
PY

# Every method with a budget above the prompt says what the full cache says.
"$pith" run -m "$model" -p "$text" -n 24 --temp 0 -q >"$dir/full" || fail "full"
for method in snapkv knorm streaming_llm fastkv:tsp_rate=1; do
  case $method in *:*) spec=$method,budget=1.0 ;; *) spec=$method:budget=1.0 ;; esac
  "$pith" run -m "$model" -p "$text" -n 24 --temp 0 -q --kv "$spec" | cmp -s - "$dir/full" ||
    fail "$spec differs from full"
done

# Perplexity: the full cache compared with itself, and a small budget.
for _ in 1 2 3 4 5 6 7 8 9 10; do printf '%s. ' "$text"; done >"$dir/text"
"$pith" perplexity -m "$model" -f "$dir/text" -c 128 --kv full --kv snapkv:window=4,recent=4,budget=8 \
  --json >"$dir/j" || fail "perplexity"
json "$dir/j" '[row["spec"] for row in j][:2] == ["full", "full"]'
json "$dir/j" 'j[1]["kl_mean"] == 0 and j[1]["top1_agreement"] == 1 and j[1]["nll"] == j[0]["nll"]'
json "$dir/j" 'j[2]["kl_mean"] > 0 and j[2]["cache_bytes"] < j[0]["cache_bytes"]'
json "$dir/j" 'j[0]["kl_mean"] is None'
# One pass over whole windows agrees with tokens fed one by one.
"$pith" perplexity -m "$model" -f "$dir/text" -c 128 --json >"$dir/k" || fail "perplexity"
python3 - "$dir/j" "$dir/k" <<'PY' || fail "prefill and decoding differ"
import json, sys
a, b = (json.load(open(name))[0] for name in sys.argv[1:])
assert a["tokens"] == b["tokens"] and abs(a["nll"] - b["nll"]) < 1e-3, (a, b)
PY

# Tokens and back.
"$pith" tokenize -m "$model" -f "$dir/prompt" --ids >"$dir/ids" || fail "tokenize"
"$pith" tokenize -m "$model" -f "$dir/ids" --decode | cmp -s - "$dir/prompt" || fail "--decode"
[ "$("$pith" tokenize -m "$model" -f "$dir/prompt" --count)" = "$(wc -w <"$dir/ids")" ] ||
  fail "--count"

# A calibration file belongs to the model it was made for.
"$pith" calibrate tsp -m "$model" -f "$dir/text" --tokens 64 "$dir/tsp.gguf" >/dev/null ||
  fail "calibrate tsp"
"$pith" run -m "$model" -p "$text" -n 4 -q \
  --kv "fastkv:tsp_layer=auto,calibration=$dir/tsp.gguf,budget=0.2" >/dev/null ||
  fail "the calibration cannot be used"

# Sentences.
refused 2 "--kv" "$pith" run -m "$model" -p x --kv
refused 2 "snapkv: needs budget=..." "$pith" run -m "$model" -p x --kv snapkv
refused 2 "did you mean 'snapkv'" "$pith" run -m "$model" -p x --kv snapkw:budget=3
refused 2 "--logit-bias" "$pith" run -m "$model" -p x -l 15
refused 2 "-p and -f" "$pith" run -m "$model" -p x -f y
refused 1 "-c" "$pith" run -m "$model" -f "$dir/text" -c 16
refused 1 "--kv-memory" "$pith" run -m "$model" -f "$dir/text" -c 4096 --kv-memory 20KiB
refused 1 "no/such.gguf" "$pith" run -m no/such.gguf -p x
refused 1 "not a token id" "$pith" tokenize -m "$model" --decode -p 99999

# Ctrl-C ends the text, not the figures: what was written stays.
"$pith" run -m "$model" -p "$text" -n -1 -c 100000000 >"$dir/out" 2>"$dir/err" &
pid=$!
while kill -0 $pid 2>/dev/null && [ ! -s "$dir/out" ]; do :; done
kill -INT $pid
wait $pid
[ $? = 130 ] || fail "Ctrl-C did not give 130"
[ -s "$dir/out" ] || fail "Ctrl-C lost the text"
grep -q 'generated ' "$dir/err" || fail "no figures: $(cat "$dir/err")"

[ "$failures" = 0 ]
