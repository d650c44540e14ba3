#!/bin/sh
# tools/check_layers.py finds what it is there to find: each wrong tree is a right one with one file
# more, and the sentence names the file.
. tests/support/common.sh

# A repository in which every arrow is used once.
file() {
  mkdir -p "$dir/tree/$(dirname "$1")"
  printf '%s\n' "$2" >"$dir/tree/$1"
}
right() {
  rm -rf "$dir/tree"
  file src/main.cpp '#include "apps/apps.h"'
  file src/apps/apps.h '#include "calibrate/calibrate.h"'
  file src/kernels/table.h '#include "base/error.h"'
  file src/backend/cuda/cuda.cpp '#include "kernels/table.h"'
  file src/methods/full.cpp '#include "policy/roles.h"'
  file bench/speed.cpp '#include "runtime/engine.h"'
  file tests/kernels/table_test.cpp '#include "support/rows.h"'
  file tests/support/rows.h '#include "tensor/view.h"'
  file tests/scripts/some_test.sh '#include "nothing/here.h"'
}
check() {
  python3 tools/check_layers.py "$dir/tree" >"$dir/out" 2>&1
}

right
check || fail "a right tree is refused: $(cat "$dir/out")"

# refused FILE TEXT SENTENCE: the tree with that file too.
refused() {
  right
  file "$1" "$2"
  if check; then
    fail "$1 with '$2' passes"
  elif ! grep -qF "$3" "$dir/out" || [ "$(wc -l <"$dir/out")" != 1 ]; then
    fail "$1 with '$2' is refused with: $(cat "$dir/out")"
  fi
}

refused src/kernels/wrong.cpp '#include "backend/backend.h"' \
  'src/kernels/wrong.cpp:1: kernels may not know backend'
refused src/runtime/wrong.h '  #  include "methods/full.h"' \
  'src/runtime/wrong.h:1: runtime may not know methods'
refused src/attic/old.txt 'nothing' 'src/attic: no room of this name is known; give it a line in'
refused src/kv/wrong.h '#include "attic/old.h"' "src/kv/wrong.h:1: 'attic' is no room that kv may"
refused src/kv/wrong.h '#include "store.h"' 'src/kv/wrong.h:1: "store.h" names no room'
refused src/kv/deep/store.h '// nothing' 'src/kv/deep/store.h: rooms have no subfolders'
refused src/kv/wrong.h '#include "support/rows.h"' "'support' is no room that kv may include"
refused src/other.cpp '#include "runtime/engine.h"' 'src/other.cpp:1: the program may not know runtime'
refused bench/wrong.cpp '#include "apps/apps.h"' 'bench/wrong.cpp:1: bench may not know apps'
refused tests/kernels/wrong_test.cpp '#include "policy/roles.h"' \
  'tests/kernels/wrong_test.cpp:1: a test of kernels may not know policy'
refused tests/support/rows.h '#include "policy/roles.h"' \
  'tests/kernels/table_test.cpp: a test of kernels may not know policy, which tests/support/rows.h'
refused tests/attic/old_test.cpp '// nothing' 'tests/attic: tests lie in a folder named like the room'

[ "$failures" = 0 ]
