# What the scripts of this folder share. Sourced from the repository root.

step() {
  printf '\n==== %s ====\n' "$*"
}

# Installs the packages of packages.txt that are missing: "build" those above the line that says
# "tests", "all" every one.
install_packages() {
  if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "This is not Debian: the libraries of packages.txt must be here already."
    return 0
  fi
  case $1 in
    build) wanted=$(sed '/---- tests/,$d; s/#.*//' packages.txt) ;;
    *) wanted=$(sed 's/#.*//' packages.txt) ;;
  esac
  missing=
  for package in $wanted; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
      missing="$missing $package"
  done
  if [ -z "$missing" ]; then
    return 0
  fi
  step "installing$missing"
  as_root=
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
      echo "These packages are missing and neither root nor sudo is here:$missing" >&2
      return 1
    fi
    as_root=sudo
  fi
  $as_root apt-get update -q
  # shellcheck disable=SC2086 # one word per package
  $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends $missing
}
