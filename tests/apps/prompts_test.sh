#!/bin/sh
# pith run --prompts: the answers are those of single runs, in order, whatever is shared and however
# little memory there is; figures, refusals, Ctrl-C. Usage: prompts_test.sh PITH BUILD_DIR
. tests/support/common.sh

python3 tests/support/make_checkpoint.py "$dir"
model=$dir/model.gguf
"$pith" convert "$dir/model.bin" "$model" --type f32 >/dev/null || fail "convert"

common='the king and the queen went on and on in the rain, and nobody knew where they would sleep'
for end in 'that night' 'or why' 'but the fox' 'until they saw the sea' ''; do
  printf '%s %s\n' "$common" "$end"
done >"$dir/prompts"
printf '\n' >>"$dir/prompts"
run() {
  "$pith" run -m "$model" -n 24 -c 512 "$@"
}

# In order, as if each had been alone; a beginning is computed once.
i=0
grep -v '^$' "$dir/prompts" | while IFS= read -r line; do
  i=$((i + 1))
  printf '==> %s: ' $i
  run -p "$line" -s 5 --json -q >"$dir/one" || echo "FAILED"
  python3 - "$dir/one" "$line" <<'PY'
import json, sys
line = sys.argv[2]
print((line if len(line) <= 60 else line[:60] + "...") + " <==\n" + json.load(open(sys.argv[1]))["text"] + "\n")
PY
done >"$dir/expected"
run --prompts "$dir/prompts" -s 5 >"$dir/out" 2>"$dir/err" || fail "--prompts: $(cat "$dir/err")"
cmp -s "$dir/expected" "$dir/out" || fail "many prompts answer differently: $(diff "$dir/expected" "$dir/out")"
grep -q '^5 of 5 answers in .* of them computed for an earlier one' "$dir/err" ||
  fail "figures: $(cat "$dir/err")"
run --prompts "$dir/prompts" -s 5 --apart -q 2>"$dir/err" | cmp -s - "$dir/expected" || fail "--apart"
[ ! -s "$dir/err" ] || fail "-q said: $(cat "$dir/err")"
run --prompts - -s 5 -q <"$dir/prompts" | cmp -s - "$dir/expected" || fail "standard input"

# A method that chooses by the whole prompt says what it shares.
run --prompts "$dir/prompts" --kv snapkv:window=4,budget=0.5 >/dev/null 2>"$dir/err" || fail "snapkv"
grep -q 'chooses among the rows of the whole prompt' "$dir/err" || fail "$(cat "$dir/err")"

# JSON lines with options of their own; figures that parse.
python3 - "$dir/prompts" >"$dir/lines" <<'PY'
import json, sys
for i, line in enumerate(l for l in open(sys.argv[1]).read().split("\n") if l):
    print(json.dumps({"prompt": line, "kv": ["full", "knorm:budget=0.5"][i % 2], "predict": 3 + i, "seed": i}))
PY
run --prompts "$dir/lines" --json --kv-memory 3MiB >"$dir/j" 2>"$dir/err" || fail "json lines"
[ ! -s "$dir/err" ] || fail "--json said: $(cat "$dir/err")"
json "$dir/j" '[len(a["tokens"]) for a in j["answers"]] == [3, 4, 5, 6, 7]'
json "$dir/j" '[a["spec"] for a in j["answers"]][:2] == ["full", "knorm:budget=0.5"]'
json "$dir/j" '0 < j["peak_cache_bytes"] <= j["cache_limit_bytes"] == 3 << 20'
json "$dir/j" 'j["reused_tokens"] == sum(a["reused_tokens"] for a in j["answers"]) > 100'
json "$dir/j" '{r["spec"]: r["shares"] for r in j["reuse"]} == {"full": "pages", "knorm:budget=0.5": "work"}'

# Under pressure: the limit holds, and exact prompts answer as before.
need=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["peak_cache_bytes"])' "$dir/j")
run --prompts "$dir/prompts" -s 5 --json --exact --kv-memory $((need / 2)) >"$dir/k"
code=$?
json "$dir/k" 'j["peak_cache_bytes"] <= j["cache_limit_bytes"] and j["evicted_rows"] == 0'
json "$dir/k" 'all(a["finish"] != "refused" or "raise the limit" in a["why"] for a in j["answers"])'
[ $code = 0 ] || [ $code = 1 ] || fail "under pressure: $code"
python3 - "$dir/k" "$dir/expected" <<'PY' || fail "an exact answer is another one under pressure"
import json, sys
text = open(sys.argv[2]).read()
for a in json.load(open(sys.argv[1]))["answers"]:
    assert a["finish"] == "refused" or a["text"] in text, a
PY

# Few bits: what is short is squeezed, not refused or begun again.
for kv in kivi:bits=2 turboquant; do
  run --prompts "$dir/prompts" --json --apart -n 300 --kv $kv >"$dir/j" || fail "$kv"
  need=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["peak_cache_bytes"])' "$dir/j")
  run --prompts "$dir/prompts" --json --apart -n 300 --kv $kv --kv-memory $((need * 4 / 5)) >"$dir/k" || fail "$kv is refused"
  json "$dir/k" 'j["peak_cache_bytes"] <= j["cache_limit_bytes"] and j["evicted_rows"] > 0 == j["preemptions"]'
done

# An answer alone, longer than there is memory for: rows go and stderr says so, unless --exact.
"$pith" run -m "$model" -p "$common" -n 300 -c 1000 --json --temp 0 >"$dir/j" || fail "one answer"
tokens=$(python3 -c 'import json, sys; j = json.load(open(sys.argv[1])); print(j["prompt_tokens"] + len(j["tokens"]))' "$dir/j")
json "$dir/j" 'j["evicted_rows"] == 0 == j["evicted_pages"]'
limit=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["cache_bytes"] * 4 // 5)' "$dir/j")
one() {
  "$pith" run -m "$model" -p "$common" -n 300 -c 1000 --temp 0 --kv-memory $limit "$@"
}
one --json >"$dir/k" || fail "one answer under $limit"
json "$dir/k" 'j["evicted_rows"] > 0 < j["evicted_pages"] and j["cache_bytes"] <= '"$limit"
json "$dir/k" 'j["prompt_tokens"] + len(j["tokens"]) == '"$tokens"
one >/dev/null 2>"$dir/err" || fail "one answer"
grep -q 'pages (.* rows) evicted' "$dir/err" || fail "one answer said: $(cat "$dir/err")"
one --save "$dir/session" --stop 'zzzz' -q >/dev/null || fail "one answer with a stop string and --save"
one --exact >/dev/null 2>"$dir/err" && fail "--exact dropped rows"
grep -q 'raise --kv-memory' "$dir/err" || fail "--exact said: $(cat "$dir/err")"

# What is too large is refused, and the others are answered.
{ grep -v '^$' "$dir/prompts" | head -2; for _ in 1 2 3 4 5 6 7 8; do printf '%s ' "$common"; done; } >"$dir/long"
"$pith" run -m "$model" -n 4 -c 200 --prompts "$dir/long" --json >"$dir/j"
[ $? = 1 ] || fail "a refusal is not an exit code"
json "$dir/j" '[a["finish"] for a in j["answers"]] == ["length", "length", "refused"]'
json "$dir/j" '"raise the other with -c" in j["answers"][2]["why"]'
"$pith" run -m "$model" -n 4 -c 200 --prompts "$dir/long" -q >"$dir/out"
grep -q '^\[refused: the prompt has' "$dir/out" || fail "$(cat "$dir/out")"

# An opening: read once by methods that need no question, and with each prompt by others.
printf '%s. ' "$common" >"$dir/opening"
printf 'who slept\nwho went\nwhy\n' >"$dir/questions"
for kv in knorm:budget=0.5 snapkv:window=4,recent=4,budget=0.5 full; do
  run --opening "$dir/opening" --prompts "$dir/questions" --kv $kv --temp 0 -q >"$dir/out" || fail "$kv"
  run --opening "$dir/opening" --prompts "$dir/questions" --kv $kv --temp 0 -q --apart |
    cmp -s - "$dir/out" || fail "$kv: what is shared changes an answer"
done
run --opening "$dir/opening" --prompts "$dir/questions" --kv knorm:budget=0.5 --json >"$dir/j"
json "$dir/j" 'j["reuse"][0]["shares"] == "opening" and j["answers"][2]["reused_tokens"] > 50'
refused 2 "--opening" run -p x --opening "$dir/opening"

# Sentences.
refused 2 "-p and --prompts" run --prompts "$dir/prompts" -p x
refused 2 "--save and --prompts" run --prompts "$dir/prompts" --save "$dir/s"
refused 1 "nowhere.txt" run --prompts "$dir/nowhere.txt"
printf '{"prompt": "x", "kv": "snapkw:budget=3"}\n' >"$dir/bad"
refused 2 "bad:1: no method 'snapkw'; did you mean 'snapkv'?" run --prompts "$dir/bad"
printf '\n\n' >"$dir/bad"
refused 1 "there is no prompt in it" run --prompts "$dir/bad"

# Ctrl-C: whole answers stay, nothing is half written.
for _ in 1 2 3 4 5 6 7 8 9; do cat "$dir/prompts"; done >"$dir/many"
"$pith" run -m "$model" -n 2000 -c 100000 --prompts "$dir/many" --sessions 2 >"$dir/out" 2>"$dir/err" &
pid=$!
while kill -0 $pid 2>/dev/null && [ ! -s "$dir/out" ]; do :; done
kill -INT $pid
wait $pid
[ $? = 130 ] || fail "Ctrl-C did not give 130"
grep -q ' of 45 answers in ' "$dir/err" || fail "no figures: $(cat "$dir/err")"
python3 - "$dir/out" <<'PY' || fail "Ctrl-C left half an answer"
import re, sys
text = open(sys.argv[1]).read()
assert text.endswith("\n\n") and len(re.findall(r"^==> \d+: ", text, re.M)) >= 1, text[-200:]
PY

[ "$failures" = 0 ]
