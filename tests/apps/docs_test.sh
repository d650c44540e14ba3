#!/bin/sh
# Pages that the program writes are as it would write them now, and pages link to files that exist.
# Usage: docs_test.sh PITH BUILD_DIR
. tests/support/common.sh

"$pith" man --markdown >"$dir/cli.md"
diff -u docs/cli.md "$dir/cli.md" || fail "docs/cli.md is old: pith man --markdown > docs/cli.md"
"$pith" methods --markdown >"$dir/methods.md"
diff -u docs/methods.md "$dir/methods.md" ||
  fail "docs/methods.md is old: pith methods --markdown > docs/methods.md"

"$pith" man >"$dir/pith.1"
if command -v groff >/dev/null 2>&1; then
  warnings=$(groff -man -Tutf8 -ww -z "$dir/pith.1" 2>&1)
  [ -z "$warnings" ] || fail "pith.1: $warnings"
fi
for shell in bash zsh fish; do
  "$pith" completion $shell >"$dir/completion.$shell"
  if command -v $shell >/dev/null 2>&1; then
    $shell -n "$dir/completion.$shell" || fail "completion of $shell does not parse"
  fi
done

# What bash completes, asked as readline would.
complete_bash() {
  bash -c '
    source "$1"
    shift
    COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1))
    _pith
    printf "%s\n" "${COMPREPLY[@]}"' _ "$dir/completion.bash" "$@" 2>/dev/null
}
complete_bash pith ins | grep -qx inspect || fail "pith ins<tab>"
complete_bash pith calibrate '' | grep -qx tsp || fail "pith calibrate <tab>"
complete_bash pith run --top | grep -qx -e --top-k || fail "pith run --top<tab>"
complete_bash pith run --kv sn | grep -qx snapkv || fail "pith run --kv sn<tab>"
complete_bash pith perplexity -o '' | grep -qx csv || fail "pith perplexity -o <tab>"
complete_bash pith calibrate tsp --wi | grep -qx -e --window || fail "pith calibrate tsp --wi<tab>"
: >"$dir/some file.gguf"
complete_bash pith inspect "$dir/some" | grep -q 'some file.gguf' || fail "pith inspect FILE<tab>"

python3 - <<'PY' || fail "links"
import pathlib, re, sys
bad = 0
for page in [*pathlib.Path(".").glob("*.md"), *pathlib.Path("docs").rglob("*.md")]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target and not (page.parent / target).exists():
            print(f"{page}: {target} does not exist")
            bad = 1
sys.exit(bad)
PY

[ "$failures" = 0 ]
