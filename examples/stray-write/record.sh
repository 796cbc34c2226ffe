#!/usr/bin/env bash
# record.sh [DIR]: records the crash, after build.sh [DIR], and writes what gdb is to read:
#   stray-write.trace   the recording
#   console.txt         what the guest printed
#   vmlinux.sym         names of the kernel's functions, where they were in the recorded run
#   symbols.gdb         where the module lay in the recorded run and where its source is, as commands for gdb
# RETROVISOR names another retrovisor than build/release/retrovisor.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../tools/common.sh"
dir=$(cd "${1:-$top/build/examples/stray-write}" && pwd)
retrovisor=${RETROVISOR:-$top/build/release/retrovisor}

"$retrovisor" record --kernel "$("$top/tools/get-kernel" cloud)" --initrd "$dir/initramfs.cpio" --memory 256M \
  --append "console=ttyS0 oops=panic" --stop-on-panic --deterministic -o "$dir/stray-write.trace" > "$dir/console.txt"

# "guest: section .text 0xffffffffc0000000": the workload prints what /sys/module tells it. The symbol table is no section for gdb.
sections=$(tr -d '\r' < "$dir/console.txt" |
  sed -n -e '/ \.\(symtab\|strtab\) /d' -e 's/^guest: section \(\.[A-Za-z0-9._-]*\) \(0x[0-9a-f]*\)$/ -s \1 \2/p' | tr -d '\n')
[ -n "$sections" ] || die "the guest did not say where its module lies: $dir/console.txt"
cat > "$dir/symbols.gdb" <<END
set confirm off
add-symbol-file $dir/module/stray_write.ko$sections
directory $dir/module
END
"$retrovisor" symbols "$dir/stray-write.trace" -o "$dir/vmlinux.sym"
