#!/usr/bin/env bash
# build.sh [DIR]: builds the module against the headers of the kernel in build/guest, and an initramfs that loads it.
# DIR is build/examples/stray-write unless given.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../tools/common.sh"
dir=${1:-$top/build/examples/stray-write}

headers=$(realpath "$("$top/tools/get-headers" cloud)")
mkdir -p "$dir/module"
dir=$(cd "$dir" && pwd -P)
cp "$here/Makefile" "$here/stray_write.c" "$dir/module/"   # the kernel's build writes beside the sources
# Debug information without this machine's paths: the same module and with it the same recording comes out everywhere.
# symbols.gdb tells gdb where the source is.
flags="-fdebug-prefix-map=$dir/module=. -fdebug-prefix-map=${headers%/*}=linux"
make -C "$headers" M="$dir/module" KCFLAGS="$flags" modules > "$dir/build.log" 2>&1 ||
  { cat "$dir/build.log" >&2; die "the module's build failed"; }
# The guest gets it without debug information, as a distribution's kernel would; gdb reads the other one.
strip --strip-debug -o "$dir/module/guest.ko" "$dir/module/stray_write.ko"
"$top/tools/make-initramfs" "$dir/initramfs.cpio" \
  --add "$dir/module/guest.ko:/stray_write.ko" --add "$here/workload:/workload"
