#!/bin/sh
# Holds the C11 sources of a bundle (compile --artifact c-source) to what they promise: no warning of
# gcc and clang in both spellings of vectors, nothing found by clang's static analysis and gcc's, and
# nothing by AddressSanitizer and UndefinedBehaviorSanitizer while they compute the golden input and
# the example in C++ runs four threads.
#
#     sh scripts/analyse_c.sh BUNDLE [PYTHON]
#
# PYTHON has ziglang, whose clang it takes; gcc and g++ are the system's.
set -eu
bundle=$1
zig="${2:-python3} -m ziglang"
examples=$(dirname "$0")/../examples
prefix=$(basename "$bundle"/c/include/*.h .h)
macro=$(printf %s "$prefix" | tr '[:lower:]' '[:upper:]')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
strict="-std=c11 -Wall -Wextra -pedantic -Werror"
include="-I $bundle/c/include -I $bundle/c/test"
input=$(sed -n 's/^extern const [a-z0-9_]* \([a-z0-9_]*\)\[.*/\1/p' "$bundle/c/test/${prefix}_golden.h")
output=$(sed -n "s/^#define ${macro}_OUTPUT_[A-Z0-9_]*_ELEMENTS //p" "$bundle/c/include/$prefix.h")
cat > "$work/main.c" << END
#include "${prefix}_golden.h"
static ${prefix}_output_t out[$output];
static _Alignas(${macro}_ARENA_ALIGNMENT) unsigned char arena[${macro}_ARENA_BYTES];
int main(void) {
  if (${prefix}_run($input, out, arena) != ${macro}_OK) return 100;
  return ${prefix}_golden_check(out);
}
END
for spelling in "" "-D${macro}_PLAIN"; do
  # shellcheck disable=SC2086 # these are lists of options
  for source in "$bundle"/c/src/*.c; do
    gcc $strict $include $spelling -O1 -c -o "$work/none.o" "$source"
    $zig cc $strict $include $spelling -O1 -c -o "$work/none.o" "$source"
    $zig cc --analyze $include $spelling -o "$work/none" "$source" > "$work/said" 2>&1 || true
    if grep -E '\.[ch]:[0-9]+:[0-9]+: (warning|error):' "$work/said"; then exit 1; fi
  done
  # In loops gcc 12 takes what memcpy has filled for uninitialized.
  # shellcheck disable=SC2086
  [ -n "$spelling" ] || gcc $strict $include -O1 -fanalyzer -c -o "$work/none.o" "$bundle/c/src/${prefix}_kernels.c"
  # shellcheck disable=SC2086
  gcc $strict $include $spelling -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all \
    -o "$work/main" "$work/main.c" "$bundle"/c/src/*.c "$bundle"/c/test/*.c -lm
  "$work/main"
done
if [ "$prefix" = network ]; then # as the example is written
  mkdir "$work/objects"
  make -s -C "$bundle/c" O="$work/objects" CC=gcc \
    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
  # shellcheck disable=SC2086
  g++ -std=c++17 -O1 -g -Wall -Wextra -pedantic -Werror $include -fsanitize=undefined \
    -fsanitize=address -fno-sanitize-recover=all -o "$work/frames" "$examples/cpp/frames.cpp" \
    "$work/objects/libnetwork.a" -lpthread -lm
  "$work/frames"
fi
echo "nothing found in $bundle/c"
