#!/usr/bin/env bash
# Push a bundle and TVM's runtime to an Android phone over adb, and have the bundle check itself
# there against its golden output.
#
# NOT RUN on a phone by this project's tests; they run it with an adb that is a folder of this
# machine.
#
# Usage: android_selfcheck.sh BUNDLE RUNTIME [OPTIONS of mbv3c_run, such as --repeat 50]
#   BUNDLE   made for a target that ends in -android
#   RUNTIME  the folder bin/ of build_android_runtime.sh
#   ADB      the adb to use, otherwise adb; ANDROID_SERIAL chooses one of several phones
#   KEEP=1   leaves the files on the phone
#
# Exit status: that of mbv3c_run (0 passed, 1 failed, 3 parity missed); 2 for wrong usage.
set -euo pipefail

adb=${ADB:-adb}

fail() {
    echo "android_selfcheck.sh: $2" >&2
    exit "$1"
}

[ $# -ge 2 ] || fail 2 "usage: $0 BUNDLE RUNTIME [OPTIONS of mbv3c_run]"
bundle=${1%/} runtime=${2%/}
shift 2
for file in manifest.json model.so golden/input.npy golden/output.npy golden/tolerance.txt; do
    [ -f "$bundle/$file" ] || fail 2 "$bundle is no bundle for this: it has no $file"
done
for file in mbv3c_run libtvm_runtime.so libtvm_ffi.so; do
    [ -f "$runtime/$file" ] || fail 2 "$runtime has no $file; build_android_runtime.sh makes it"
done
options=
if grep -q '"mobile_gpu:' "$bundle/manifest.json"; then
    opencl=libtvm_runtime_opencl.so
    [ -f "$runtime/$opencl" ] || fail 2 "$bundle is for a GPU, and $runtime has no $opencl"
    options="--load runtime/$opencl"
fi
for option in "$@"; do # adb gives them to a shell
    case $option in
        *[!A-Za-z0-9_./=-]*) fail 2 "option '$option' cannot be passed through adb" ;;
    esac
    options="$options $option"
done

command -v "$adb" >/dev/null || fail 1 "$adb is missing; install Android's platform tools"
"$adb" get-state >/dev/null || fail 1 "no phone: connect one with USB debugging, see \`adb devices\`"
place=/data/local/tmp/mbv3c-selfcheck-$$
"$adb" shell "mkdir -p $place/bundle" || fail 1 "cannot write to $place on the phone"
[ -n "${KEEP:-}" ] || trap '"$adb" shell "rm -rf $place" || echo "left on the phone: $place"' EXIT
"$adb" push "$runtime" "$place/runtime" >/dev/null || fail 1 "pushing $runtime failed"
for file in manifest.json model.so golden; do
    "$adb" push "$bundle/$file" "$place/bundle/$file" >/dev/null || fail 1 "pushing $file failed"
done

status=0
"$adb" shell "cd $place && chmod 755 runtime/mbv3c_run && \
    LD_LIBRARY_PATH=$place/runtime\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} ./runtime/mbv3c_run $options bundle" \
    || status=$?
case $status in
    0) echo "passed on the phone" ;;
    3) echo "parity MISSED on the phone" >&2 ;;
    *) echo "failed on the phone with status $status" >&2 ;;
esac
exit "$status"
