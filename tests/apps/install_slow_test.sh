#!/bin/sh
# What `cmake --install` leaves can be used: the program, its manual page, and the library through
# find_package and through pkg-config. Usage: install_slow_test.sh PITH BUILD_DIR
set -eu
build=$2
if ! grep -q '^PITH_SANITIZE:STRING=$' "$build/CMakeCache.txt"; then
  echo "skipped: a library with sanitizers is not for installing"
  exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cmake --build "$build" --target pith_texts >/dev/null  # the page and the completions
cmake --install "$build" --prefix "$dir/usr" >/dev/null

"$dir/usr/bin/pith" --version
grep -q '^.TH PITH 1' "$dir/usr/share/man/man1/pith.1"
bash -n "$dir/usr/share/bash-completion/completions/pith"
test -s "$dir/usr/share/zsh/site-functions/_pith"
test -s "$dir/usr/share/fish/vendor_completions.d/pith.fish"
test -s "$dir/usr/share/doc/pith/LICENSE"

mkdir "$dir/consumer"
cat >"$dir/consumer/CMakeLists.txt" <<'EOF'
cmake_minimum_required(VERSION 3.24)
project(consumer CXX)
find_package(pith 0.1 REQUIRED)
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE pith::pith)
EOF
cat >"$dir/consumer/main.cpp" <<'EOF'
#include <cstdio>
#include <string>

#include "policy/registry.h"
#include "runtime/engine.h"

// Lists the methods; given a model, also continues a prompt.
int main(int argc, char** argv) {
  for (const pith::Method& method : pith::methods())
    std::printf("%s\n", std::string(method.name).c_str());
  if (argc < 2) return 0;
  pith::Engine engine(pith::Model::load(argv[1]), {});
  const auto session = engine.open("snapkv:budget=0.5");
  engine.prefill(*session, engine.tokenizer().encode_prompt("Once upon a time", true));
  engine.generate(*session, 8, [&](int32_t token) {
    std::printf("%s", std::string(engine.tokenizer().piece(token)).c_str());
    return true;
  });
}
EOF
cmake -S "$dir/consumer" -B "$dir/consumer/build" -DCMAKE_PREFIX_PATH="$dir/usr" >/dev/null
cmake --build "$dir/consumer/build" >/dev/null
"$dir/consumer/build/consumer" | grep -qx snapkv

pc=$(dirname "$(find "$dir/usr" -name pith.pc)")
flags=$(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs pith)
# shellcheck disable=SC2086 # flags are words
c++ "$dir/consumer/main.cpp" $flags -o "$dir/by_pkg_config"
"$dir/by_pkg_config" | grep -qx fastkv
