#!/bin/sh
# pith eval: scores of a model that answers what it was told, resumption, and what it refuses.
# Usage: eval_test.sh PITH BUILD_DIR
. tests/support/common.sh

"$pith" eval --list --json >"$dir/list" || fail "--list"
json "$dir/list" 'len(j) >= 29 and sum(t["suite"] == "ruler" for t in j) == 13'

"$pith" demo --exact --tokens 512 --needles 1 --keep "$dir/recall.gguf" >/dev/null 2>&1 || fail "demo"
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

# --show prints what would be asked, and runs nothing.
eval_pith --show -o json >"$dir/shown" || fail "--show -o json"
json_lines() { python3 -c 'import json,sys; j=[json.loads(l) for l in open(sys.argv[1])]; sys.exit(not eval(sys.argv[2]))' "$@"; }
json_lines "$dir/shown" 'len(j) == 4 and all(q["answers"] for s in j for q in s["questions"])' || fail "samples"
json_lines "$dir/shown" 'all(s["questions"][0]["answers"][0] in s["context"] for s in j)' || fail "hidden"
eval_pith --show >"$dir/shown" && grep -q "The pass key is" "$dir/shown" || fail "--show"

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

# What is measured together: bytes by class, peak and the compression's share.
json "$dir/a" 'all(abs(r["cache_bytes"] - sum(r["cache_%s_bytes" % c] for c in
                       ("key", "value", "metadata", "summary", "other"))) <= 5 for r in j)'
json "$dir/a" 'all(r["peak_bytes"] > r["end_bytes"] and 0 < r["compression_share"] < 1 for r in j)'
json "$dir/a" 'all(r["kl_mean"] is None for r in j)'

# --fidelity measures again what was not compared, and answers stay the same.
eval_pith $specs --fidelity --results "$dir/r.sqlite" --json >"$dir/f" || fail "--fidelity"
json "$dir/f" 'all((r["kl_mean"] == 0 and r["top1_agreement"] == 1) == (r["spec"] == "full")
                   for r in j)'
json "$dir/f" 'all(0 < r["mass_kept"] < 0.9 for r in j if r["spec"] != "full")'
json "$dir/f" 'all(r["score"] == (100 if r["spec"] == "full" else 0) for r in j if "niah" in r["task"])'

# A file of the first version gets the columns that it lacks, and keeps its rows.
python3 - "$dir/r.sqlite" "$dir/old.sqlite" <<'PY' || fail "an old file"
import sqlite3, sys
new, old = sqlite3.connect(sys.argv[1]), sqlite3.connect(sys.argv[2])
later = {"prompt_key_bytes", "prompt_value_bytes", "prompt_pseudo_bytes", "prompt_lane_bytes",
         "prompt_summary_bytes", "prompt_dropped_bytes", "key_bytes", "value_bytes", "peak_bytes",
         "compress_seconds", "divergence", "agreement", "mass_kept", "files"}
columns = [c for c in new.execute("PRAGMA table_info(results)") if c[1] not in later]
names = ", ".join(c[1] for c in columns)
keys = ", ".join(c[1] for c in columns if c[5])
old.execute("CREATE TABLE results (%s, PRIMARY KEY (%s)) WITHOUT ROWID"
            % (", ".join(c[1] + " " + c[2] for c in columns), keys))
old.executemany("INSERT INTO results VALUES (%s)" % ",".join("?" * len(columns)),
                new.execute("SELECT " + names + " FROM results"))
old.execute("PRAGMA application_id = 0x70697468")
old.execute("PRAGMA user_version = 1")
old.commit()
PY
eval_pith $specs --protocol both --results "$dir/old.sqlite" --json >"$dir/g" || fail "an old file"
json "$dir/g" 'len(j) == 12 and all(r["peak_bytes"] is None and r["cache_bytes"] > 0 for r in j)'
python3 - "$dir/old.sqlite" <<'PY' || fail "a later file"
import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
file.execute("PRAGMA user_version = 99")
file.commit()
PY
refused 1 'written by a later version of pith eval' eval_pith --results "$dir/old.sqlite"

# Several samples at once are answered as one after the other, and as side by side.
for how in "--batch 3" "--jobs 3" "--jobs 2 --batch 2 --share-prompts"; do
  eval_pith $specs --protocol both $how --json >"$dir/many" || fail "$how"
  python3 - "$dir/a" "$dir/many" <<'PY' || fail "$how gives other results"
import json, sys
facts = ("protocol", "spec", "task", "score", "samples", "cache_bytes", "end_bytes", "cache_key_bytes")
one, many = ([[row[fact] for fact in facts] for row in json.load(open(file))] for file in sys.argv[1:])
assert one == many, (one, many)
PY
done

# A spec that takes no budget is measured once. One whose file changes is measured again, and a
# report shows what it was measured with last.
"$pith" calibrate heads -m "$dir/recall.gguf" --tokens 256 --prompts 1 --repeat 60 "$dir/cal.gguf" >/dev/null 2>&1 ||
  fail "calibrate heads"
razor() {
  eval_pith --kv full --kv "razor:heads=$dir/cal.gguf" --kv knorm --budget 0.1,0.2 \
    --results "$dir/files.sqlite" --json >"$dir/$1" || fail "a spec with a file"
}
counted() {  # SQL
  python3 -c 'import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])' "$dir/files.sqlite" "$1"
}
razor before
json "$dir/before" 'len({r["spec"] for r in j}) == 4'
rows=$(counted "SELECT count(*) FROM results")
razor again
cmp -s "$dir/before" "$dir/again" || fail "the same file was measured again"
"$pith" calibrate heads -m "$dir/recall.gguf" --tokens 256 --prompts 1 --repeat 60 -s 9 "$dir/new.gguf" \
  >/dev/null 2>&1 && mv "$dir/new.gguf" "$dir/cal.gguf" || fail "calibrate heads again"
razor changed
[ "$(counted "SELECT count(*) FROM results")" = $((rows + rows / 4)) ] ||
  fail "of $rows rows, not those of one spec were measured again"
"$pith" eval --results "$dir/files.sqlite" --report-only --json >"$dir/shown" || fail "--report-only"
json "$dir/shown" 'len(j) == 12 and all(r["samples"] in (2, 4) for r in j)'
cmp -s "$dir/changed" "$dir/again" && fail "times of a new measurement are those of the old one"

# As many sessions at once as fit: where one of the full cache does, several of the smaller one do.
full=$(python3 -c 'import json, sys; print(max(r["end_bytes"] for r in json.load(open(sys.argv[1]))))' \
  "$dir/f")
eval_pith $specs --batch-memory $((full * 5 / 4)) --results "$dir/r.sqlite" --json >"$dir/h" ||
  fail "--batch-memory"
json "$dir/h" 'all(r["tokens_per_second"] > 0 and r["batch_tokens_per_second"] > 0 and
                   (r["batch_sessions"] == 1) == (r["spec"] == "full") for r in j)'

# A plan says the same as flags, and flags win.
cat >"$dir/plan.json" <<EOF
{"models": ["$dir/recall.gguf"], "specs": ["full", "streaming_llm:sink=2"], "budgets": [8, 0.5],
 "data": ["ruler=$dir/niah_own.jsonl"], "lengths": [512], "samples": 1, "seeds": [42]}
EOF
"$pith" eval "$dir/plan.json" --samples 2 --json >"$dir/p" || fail "a plan"
json "$dir/p" '([(r["spec"], r["samples"]) for r in j] ==
                [("full", 2), ("streaming_llm:budget=8,sink=2", 2),
                 ("streaming_llm:budget=0.5,sink=2", 2)]) and j[0]["score"] == 100'
echo '{"models": ["m.gguf"], "lenghts": [512]}' >"$dir/bad.json"
refused 1 'bad.json: "lenghts" is no field of a plan; did you mean "lengths"?' \
  "$pith" eval "$dir/bad.json" --results "$dir/none.sqlite"
[ -e "$dir/none.sqlite" ] && fail "a refused plan left a file"

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
