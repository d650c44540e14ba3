# What test scripts share; each is called with PITH and BUILD_DIR in the project's folder.
set -u
pith=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failures=0

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# refused CODE TEXT WORDS... : exits with CODE, says one line that holds TEXT and prints nothing.
refused() {
  want=$1
  text=$2
  shift 2
  "$@" >"$dir/out" 2>"$dir/err" </dev/null
  code=$?
  [ "$code" = "$want" ] || fail "$* ended with $code, not $want: $(cat "$dir/err")"
  [ "$(wc -l <"$dir/err")" = 1 ] || fail "$* said: $(cat "$dir/err")"
  grep -qF -e "$text" "$dir/err" || fail "$* said: $(cat "$dir/err")"
  [ ! -s "$dir/out" ] || fail "$* printed: $(head -c 200 "$dir/out")"
}

# json FILE EXPRESSION: the expression, over the parsed file as j, holds.
json() {
  python3 -c 'import json, sys; j = json.load(open(sys.argv[1])); assert eval(sys.argv[2]), j' \
    "$1" "$2" || fail "$2"
}
