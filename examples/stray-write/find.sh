#!/usr/bin/env bash
# find.sh [DIR]: from the recorded crash to the store that caused it, in gdb. After record.sh [DIR].
# RETROVISOR names another retrovisor than build/release/retrovisor.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../tools/common.sh"
dir=$(cd "${1:-$top/build/examples/stray-write}" && pwd)
retrovisor=${RETROVISOR:-$top/build/release/retrovisor}
# What the server says comes on standard error: unbuffered, so that it stands where it belongs.
exec stdbuf -o0 "$retrovisor" debug "$dir/stray-write.trace" -- -nx -batch -x "$dir/symbols.gdb" \
  -x "$here/find-the-writer.gdb" 2>&1
