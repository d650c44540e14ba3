#!/bin/sh
# pith eval: scores of a model that answers what it was told, resumption, and what it refuses.
# Usage: eval_test.sh PITH BUILD_DIR
set -u
pith=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failures=0

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# refused CODE TEXT WORDS... : exits with CODE and one line on stderr that holds TEXT.
refused() {
  want=$1
  text=$2
  shift 2
  "$@" >"$dir/out" 2>"$dir/err" </dev/null
  code=$?
  [ "$code" = "$want" ] || fail "$* ended with $code, not $want: $(cat "$dir/err")"
  [ "$(wc -l <"$dir/err")" = 1 ] || fail "$* said: $(cat "$dir/err")"
  [ -s "$dir/out" ] && fail "$* wrote: $(cat "$dir/out")"
  grep -qF -e "$text" "$dir/err" || fail "$* said: $(cat "$dir/err")"
}

# json FILE EXPRESSION: the expression, over the parsed file as j, holds.
json() {
  python3 -c 'import json, sys; j = json.load(open(sys.argv[1])); assert eval(sys.argv[2]), j' \
    "$1" "$2" || fail "$2"
}

"$pith" eval --list --json >"$dir/list" || fail "--list"
json "$dir/list" 'len(j) >= 29 and sum(t["suite"] == "ruler" for t in j) == 13'

"$pith" demo --tokens 512 --needles 1 --keep "$dir/recall.gguf" >/dev/null 2>&1 || fail "demo"
# The model answers a name with what followed it; here RULER's form of a question ends in a name.
filler='hiri rezo fegu nama zuse hiri rezo fegu nama zuse hiri rezo fegu nama zuse hiri rezo fegu nama'
for pair in 'Luni toru' 'Bafe kulo'; do
  printf '{"input": "%s. %s. %s\\nQuestion: %s", "outputs": ["%s"]}\n' \
    "$filler" "$pair" "$filler" "${pair% *}" "${pair#* }"
done >"$dir/niah_own.jsonl"

eval_pith() {
  "$pith" eval -m "$dir/recall.gguf" --lengths 512 --data "ruler=$dir/niah_own.jsonl" \
    --task passkey --samples 2 "$@"
}
specs="--kv full --kv streaming_llm:sink=2,budget=8"
eval_pith $specs --protocol both --results "$dir/r.sqlite" --json >"$dir/a" || fail "eval"
json "$dir/a" 'len(j) == 12'  # two protocols, two specs, two tasks and their mean
json "$dir/a" 'all(r["score"] == 100 and r["score_error"] == 0 and r["samples"] == 2
                   for r in j if r["spec"] == "full" and r["task"] == "ruler:niah_own")'
# What is thrown away before the question is known is lost; within one prompt it is still read.
json "$dir/a" 'all(r["score"] == (100 if r["protocol"] == "query-aware" else 0)
                   for r in j if r["spec"] != "full" and "niah" in r["task"])'
json "$dir/a" 'all(0 < r["cache_bytes"] <= r["end_bytes"] and r["ttft_seconds"] > 0 for r in j)'
json "$dir/a" '{r["protocol"] for r in j} == {"query-aware", "query-agnostic"}'

# A cache that a context's questions share counts as if it were not shared: nothing but page ends
# differs between the protocols.
"$pith" eval -m "$dir/recall.gguf" --lengths 640 --task scbench_mf_requests,scbench_mf \
  --samples 1 --protocol both --json >"$dir/e" || fail "several questions"
json "$dir/e" 'len(j) == 6 and max(r["cache_share"] for r in j) < 1.25 * min(r["cache_share"] for r in j)'

# What is in the file is taken from there, times and all; one spec more is added to it.
eval_pith $specs --protocol both --results "$dir/r.sqlite" --json >"$dir/b" || fail "again"
cmp -s "$dir/a" "$dir/b" || fail "results changed"
eval_pith --kv full --kv knorm:budget=0.5 --results "$dir/r.sqlite" >"$dir/c" || fail "one more"
grep -q "query-agnostic" "$dir/c" || fail "the table does not name its protocol"
grep -q "knorm:budget=0.5" "$dir/c" || fail "no row of the added spec"

refused 2 'no task or suite "niah"' eval_pith --task niah
refused 2 'FORMAT=FILE' eval_pith --data "$dir/niah_own.jsonl"
refused 2 'longbench' eval_pith --data "squad=$dir/niah_own.jsonl"
refused 2 'separated by commas' eval_pith --lengths 4k
refused 2 'which model' "$pith" eval
refused 1 'the shortest sample of passkey' eval_pith --lengths 64
refused 1 'context of' "$pith" eval -m "$dir/recall.gguf" -c 100 --task passkey --lengths 512
echo '{"input": "no end", "outputs": ["x"]}' >"$dir/vt.jsonl"
refused 1 "$dir/vt.jsonl:1: \"input\"" eval_pith --data "ruler=$dir/vt.jsonl"
echo 'not a database at all, but long enough to be one' >"$dir/text"
refused 1 "$dir/text" eval_pith --results "$dir/text"
refused 1 "cannot be opened" eval_pith --results "$dir/none/r.sqlite"

[ $failures = 0 ] || exit 1
