#!/bin/sh
# Runs the tests of both environments side by side, and fails if one of them does. Those of the NPU
# take what the others leave of the processors, and are printed after them.
#
#     sh scripts/test_both.sh MAKE
set -u
make=$1
log=$(mktemp)
nice "$make" test-npu > "$log" 2>&1 &
npu=$!
trap 'kill "$npu" 2> /dev/null; rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
failed=0
"$make" test-most || failed=1
wait "$npu" || failed=1
cat "$log"
exit "$failed"
