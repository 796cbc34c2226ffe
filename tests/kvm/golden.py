#!/usr/bin/env python3
"""Small traces that were recorded under KVM on hosts of either vendor, traces/golden/VENDOR/: each replays on the soft engine
of any host, with every digest equal. From the environment: RETROVISOR; to record, KVM_GUESTS (the folder with the guests of
guests/, assembled).

`golden.py record` records those of the vendor of the host at hand anew, which a new machine model makes necessary. Without
arguments it checks what is there."""
import json
import os
import re
import shutil
import subprocess
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "..", "traces", "golden")
TOOL = os.path.abspath(os.environ["RETROVISOR"])
GUEST = ["--flat-address", "0x7c00", "--flat-mode", "real16", "--memory", "64M", "--console", "none"]
VENDORS = ("amd", "intel")
LIMIT = 64 * 1024  # bytes of a trace: golden traces are small

# What is recorded, with what, and what a replay prints. mini_kernel's ends in the middle of the run.
GUESTS = {
    "mini_kernel": (["--digest-interval", "400", "--stop-at", "1260"], rb"two tasks\nAABB"),
    "spin": (["--digest-interval", "100", "--digest-detail", "sums"], rb"^spin: ticks 0000000000000028"),
    "vendor_flags": (["--digest-detail", "full"], rb"^vendor_flags: faults 0000000000000018 state "),
    "vendor_x87": (["--digest-detail", "full"], rb"^vendor_x87: faults 000000000000000a state "),
}


def traces():
    """(vendor, guest, trace, kernel) of all that are there."""
    for vendor in VENDORS:
        for guest in GUESTS:
            path = os.path.join(GOLDEN, vendor, guest)
            if os.path.exists(path + ".trace"):
                yield vendor, guest, path + ".trace", path + ".bin"


def run(*words):
    return subprocess.run([TOOL, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=120)


class Golden(unittest.TestCase):
    def test_each_replays_on_the_soft_engine(self):
        found = list(traces())
        self.assertTrue(found)
        for vendor, guest, trace, kernel in found:
            with self.subTest(vendor=vendor, guest=guest):
                replayed = run("replay", trace, "-k", kernel, "--engine", "soft")
                self.assertEqual(replayed.returncode, 0, replayed.stderr.decode(errors="replace"))
                self.assertRegex(replayed.stdout, GUESTS[guest][1])

    def test_each_is_small_and_names_its_vendor(self):
        for vendor, guest, trace, kernel in traces():
            with self.subTest(vendor=vendor, guest=guest):
                self.assertLess(os.path.getsize(trace) + os.path.getsize(kernel), LIMIT)
                info = run("trace", "info", trace, "--json")
                self.assertEqual(info.returncode, 0)
                self.assertTrue(json.loads(info.stdout)["header"].get("processor_model", vendor).startswith(vendor))

    def test_the_readme_says_which_are_there(self):
        with open(os.path.join(GOLDEN, "README.md")) as file:
            readme = file.read()
        there = {(vendor, guest) for vendor, guest, _, _ in traces()}
        for vendor in VENDORS:
            for guest in GUESTS:
                said = re.search(rf"^\| `{guest}` \|.*$", readme, re.MULTILINE)
                self.assertIsNotNone(said, guest)
                columns = [column.strip() for column in said.group(0).split("|")]
                self.assertEqual(columns[2 + VENDORS.index(vendor)] != "missing", (vendor, guest) in there, (vendor, guest))


def host_vendor():
    with open("/proc/cpuinfo") as file:
        name = re.search(r"vendor_id\s*:\s*(\S+)", file.read()).group(1)
    return {"AuthenticAMD": "amd", "HygonGenuine": "amd", "GenuineIntel": "intel"}.get(name)


def record():
    vendor = host_vendor()
    if vendor is None:
        sys.exit("this host is neither AMD nor Intel")
    folder = os.path.join(GOLDEN, vendor)
    os.makedirs(folder, exist_ok=True)
    # A trace names its kernel by its path: one that says nothing of the machine it was recorded on.
    scratch = "/tmp/retrovisor-golden"
    os.makedirs(scratch, exist_ok=True)
    failed = []
    for guest, (options, printed) in GUESTS.items():
        kernel, trace = (os.path.join(folder, guest + ending) for ending in (".bin", ".trace"))
        shutil.copy(os.path.join(os.environ["KVM_GUESTS"], guest + ".bin"), scratch)
        recorded = subprocess.run([TOOL, "record", "--engine", "kvm", "--kernel", guest + ".bin", *GUEST, "-o", guest + ".trace", *options],
                                  stdin=subprocess.DEVNULL, capture_output=True, cwd=scratch, timeout=60)
        if recorded.returncode not in (0, 1) or not re.search(printed, recorded.stdout):
            sys.exit(f"{guest}: {recorded.stderr.decode(errors='replace')}")
        for path in (kernel, trace):
            shutil.move(os.path.join(scratch, os.path.basename(path)), path)
        replayed = run("replay", trace, "-k", kernel, "--engine", "soft")
        print(f"{vendor}/{guest}: {os.path.getsize(trace)} bytes, {'replays' if replayed.returncode == 0 else 'DOES NOT REPLAY: taken away'}")
        if replayed.returncode != 0:
            failed.append(guest)
            print(replayed.stderr.decode(errors="replace"))
            os.unlink(trace)
            os.unlink(kernel)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    if sys.argv[1:] == ["record"]:
        record()
    unittest.main()
