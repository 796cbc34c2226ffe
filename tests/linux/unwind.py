#!/usr/bin/env python3
"""Stacks of a recorded kernel against the calls and returns that were executed (unwind_check).

unwind.py [KERNEL...]: without a kernel, a short part of a run of Debian's cloud kernel, for CI; with kernels, 10,000 positions of
everything from the boot to the end of each (minutes)."""
import os
import re
import subprocess
import sys
import tempfile

TOOL, CHECK, GUEST_DIR = os.environ["RETROVISOR"], os.environ["UNWIND_CHECK"], os.environ["GUEST_DIR"]
SHORT, POSITIONS = 80_000_000, 2000


def main():
    kernels = sys.argv[1:] or [os.path.join(GUEST_DIR, "vmlinuz-cloud")]
    initramfs = os.path.join(GUEST_DIR, "initramfs.cpio")
    for path in (*kernels, initramfs):
        if not os.path.exists(path):
            print(f"{path} is not there; ./run-tests fetches it")
            return 77
    with tempfile.TemporaryDirectory(prefix="retrovisor-unwind-") as folder:
        trace = os.path.join(folder, "t.trace")
        for kernel in kernels:
            recorded = subprocess.run([TOOL, "record", "-k", kernel, "-i", initramfs, "-a", "console=ttyS0 workload=work", "--deterministic", "-o", trace],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=600, check=True)
            end = int(re.search(r"at position (\d+)", recorded.stderr).group(1))
            words = [str(POSITIONS), "1", str(end - SHORT)] if len(sys.argv) == 1 else ["10000"]
            checked = subprocess.run([CHECK, trace, kernel, initramfs, *words], timeout=3000, check=False)
            if checked.returncode != 0:
                return checked.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
