#!/usr/bin/env bash
# Build what an Android phone needs to run bundles: TVM's runtime with OpenCL, its RPC server, and
# mbv3c_run, for arm64-v8a, with the NDK. docs/android.md says what for.
#
# NOT RUN by this project's tests: they have neither an NDK nor a phone. shellcheck passes, and the
# options are those of TVM's CMakeLists.txt. Please report what fails.
#
# Usage: ANDROID_NDK=/path/to/android-ndk-r27 build_android_runtime.sh OUTPUT
#   ANDROID_NDK    the NDK's folder, r25 or newer
#   TVM_SOURCE     a checkout of TVM with its submodules; otherwise it is cloned to OUTPUT/tvm
#   TVM_TAG        what to clone; otherwise the tag of the wheel that mbv3c compiles with
#   ANDROID_LEVEL  least Android API level, 28 or more; otherwise 28 (Android 9)
#
# Leaves in OUTPUT: bin/ (push this folder to the phone), and build/ and tvm/, which may go.
set -euo pipefail

# The same as in pyproject.toml: generated code and runtime must be of one version.
tag=${TVM_TAG:-v0.27.0.post1}
level=${ANDROID_LEVEL:-28}
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "build_android_runtime.sh: $*" >&2
    exit 1
}

# step WHAT COMMAND...: run a command that must succeed
step() {
    local what=$1
    shift
    echo "== $what"
    "$@" || fail "$what failed (status $?): $*"
}

[ $# -eq 1 ] || fail "usage: ANDROID_NDK=/path/to/ndk $0 OUTPUT"
[ -n "${ANDROID_NDK:-}" ] || fail "set ANDROID_NDK to the NDK's folder"
for tool in git cmake ninja; do
    command -v "$tool" >/dev/null || fail "$tool is missing; install it with your system's packages"
done
case $level in
    *[!0-9]* | '') fail "ANDROID_LEVEL must be a number, not '$level'" ;;
esac
[ "$level" -ge 28 ] || fail "ANDROID_LEVEL $level is too low: mbv3c_run needs aligned_alloc, of 28"
toolchain=$ANDROID_NDK/build/cmake/android.toolchain.cmake
[ -f "$toolchain" ] || fail "$ANDROID_NDK is no NDK: it has no build/cmake/android.toolchain.cmake"
prebuilt=
for folder in "$ANDROID_NDK"/toolchains/llvm/prebuilt/*; do
    [ -x "$folder/bin/clang++" ] && prebuilt=$folder
done
[ -n "$prebuilt" ] || fail "$ANDROID_NDK has no toolchain for this machine"

step "making $1" mkdir -p "$1/bin"
output=$(cd "$1" && pwd)
source=${TVM_SOURCE:-$output/tvm}
if [ ! -f "$source/CMakeLists.txt" ]; then
    [ -z "${TVM_SOURCE:-}" ] || fail "$source is no checkout of TVM"
    step "cloning TVM $tag" git clone --depth 1 --branch "$tag" --recurse-submodules \
        --shallow-submodules https://github.com/apache/tvm "$source"
fi
[ -f "$source/3rdparty/tvm-ffi/CMakeLists.txt" ] \
    || fail "$source lacks its submodules; run: git -C $source submodule update --init --recursive"
[ -d "$source/3rdparty/OpenCL-Headers/CL" ] \
    || fail "$source lacks 3rdparty/OpenCL-Headers; run: git -C $source submodule update --init"
found=$(git -C "$source" describe --tags --exact-match 2>/dev/null || echo "no tag")
[ "$found" = "$tag" ] || echo "warning: $source is at $found, and bundles are made with $tag" >&2

# With USE_OPENCL=ON TVM opens the phone's libOpenCL.so when it runs. The libraries pass C++
# objects to each other, so they share one C++ library.
step "configuring" cmake -S "$source" -B "$output/build" -G Ninja \
    -DCMAKE_TOOLCHAIN_FILE="$toolchain" \
    -DANDROID_ABI=arm64-v8a \
    -DANDROID_PLATFORM="android-$level" \
    -DANDROID_STL=c++_shared \
    -DCMAKE_BUILD_TYPE=Release \
    -DUSE_OPENCL=ON \
    -DUSE_CPP_RPC=ON \
    -DUSE_LLVM=OFF \
    -DUSE_Z3=OFF \
    -DUSE_GTEST=OFF
step "building TVM's runtime" cmake --build "$output/build" --parallel \
    --target tvm_runtime tvm_runtime_extra tvm_runtime_opencl tvm_rpc

for name in libtvm_ffi.so libtvm_runtime.so libtvm_runtime_extra.so libtvm_runtime_opencl.so \
    tvm_rpc; do
    file=$(find "$output/build" -name "$name" -type f | head -n 1)
    [ -n "$file" ] || fail "the build made no $name"
    step "taking $name" cp "$file" "$output/bin/"
done
shared=$prebuilt/sysroot/usr/lib/aarch64-linux-android/libc++_shared.so
[ -f "$shared" ] || fail "the NDK has no $shared"
step "taking libc++_shared.so" cp "$shared" "$output/bin/"

dlpack=$source/3rdparty/tvm-ffi/3rdparty/dlpack/include
[ -d "$dlpack" ] || fail "$source lacks the submodules of 3rdparty/tvm-ffi"
step "building mbv3c_run" "$prebuilt/bin/clang++" --target="aarch64-linux-android$level" \
    -O2 -std=c++17 -fno-exceptions -fno-rtti -nostdlib++ \
    "$here/../mbv3c/execution/emulator/mbv3c_run.cc" -o "$output/bin/mbv3c_run" \
    -I "$source/3rdparty/tvm-ffi/include" -I "$dlpack" -L "$output/bin" \
    -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi -Wl,--allow-shlib-undefined -ldl -lm
step "stripping" "$prebuilt/bin/llvm-strip" --strip-unneeded "$output/bin/mbv3c_run" \
    "$output/bin/tvm_rpc" "$output"/bin/libtvm*.so
echo "done: $output/bin; next: $here/android_selfcheck.sh BUNDLE $output/bin"
