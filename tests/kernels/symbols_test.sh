#!/bin/sh
# The files compiled for an instruction set define their kernel table and nothing else. An inline
# function of a shared header, compiled there, would be a weak symbol, and the linker may keep that
# copy for everybody: an illegal instruction on older CPUs.
#
# symbols_test.sh PITH BUILD_FOLDER; exit status 77: cannot be tested here.
build=$2
command -v nm >/dev/null 2>&1 || { echo "skipped: nm is not installed"; exit 77; }
objects=$(find "$build" -name 'target_*.cpp.o')
[ -n "$objects" ] || { echo "skipped: no kernel objects under $build"; exit 77; }
bad=0
for object in $objects; do
  isa=$(basename "$object" .cpp.o | sed 's/^target_//')
  # Defined and visible to the linker, but for what sanitizers add.
  found=$(nm --demangle --defined-only --extern-only "$object" |
    awk '$3 !~ /^(__odr_asan|DW\.ref\.)/ && NF > 2 { print $2, $3 }')
  case $found in
    "D pith::kernels_$isa" | "R pith::kernels_$isa") ;;
    *)
      echo "$object defines more or less than pith::kernels_$isa:"
      echo "$found"
      bad=1
      ;;
  esac
done
exit $bad
