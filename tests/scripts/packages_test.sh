#!/bin/sh
# scripts/common.sh installs what is missing, once, and nothing else. dpkg-query, apt-get, sudo and
# id are stand-ins that write down how they were called.
. tests/support/common.sh

mkdir "$dir/bin" "$dir/here"
cat >"$dir/bin/dpkg-query" <<EOF
#!/bin/sh
for last; do :; done
[ -e "$dir/here/\$last" ] || exit 1
cat "$dir/here/\$last"
EOF
cat >"$dir/bin/apt-get" <<EOF
#!/bin/sh
echo "apt-get \$*" >>"$dir/calls"
EOF
cat >"$dir/bin/sudo" <<EOF
#!/bin/sh
echo sudo >>"$dir/calls"
"\$@"
EOF
cat >"$dir/bin/id" <<EOF
#!/bin/sh
cat "$dir/uid"
EOF
chmod +x "$dir"/bin/*

install() {
  : >"$dir/calls"
  (
    PATH=$dir/bin:$PATH
    . scripts/common.sh
    install_packages "$1"
  ) >/dev/null
}

everything=$(sed 's/#.*//' packages.txt)
for package in $everything; do echo installed >"$dir/here/$package"; done

echo 0 >"$dir/uid"
install all
[ ! -s "$dir/calls" ] || fail "installs although nothing is missing: $(cat "$dir/calls")"

rm "$dir/here/cmake"
install build
grep -q '^apt-get install .* cmake$' "$dir/calls" || fail "cmake: $(cat "$dir/calls")"
grep -q sudo "$dir/calls" && fail "root needs no sudo"

# Removed but configured packages are not installed.
echo config-files >"$dir/here/cmake"
install build
grep -q '^apt-get install .* cmake$' "$dir/calls" || fail "removed cmake: $(cat "$dir/calls")"
echo installed >"$dir/here/cmake"

# What only tests need is not installed for the demo.
rm "$dir/here/libgtest-dev"
install build
[ ! -s "$dir/calls" ] || fail "the demo installs $(cat "$dir/calls")"
echo 1000 >"$dir/uid"
install all
grep -q '^apt-get install .* libgtest-dev$' "$dir/calls" || fail "gtest: $(cat "$dir/calls")"
grep -q '^sudo$' "$dir/calls" || fail "a user needs sudo"

# One package per line, each with what it is for or plain.
sed 's/#.*//' packages.txt | grep -vE '^([a-z0-9.+-]+)? *$' && fail "packages.txt has odd lines"

[ "$failures" = 0 ]
