#!/usr/bin/env python3
"""Recordings under KVM, some of them step by step, with random console input, each replayed the same way and by the soft
engine: every digest and event must be equal, and so must the output. `recordings.py COUNT` makes that many and prints a table.
RETROVISOR: the tool; KVM_GUESTS: the folder with the guests of guests/, assembled. RETROVISOR_SEED=n repeats a run's choices
(not its moments: those are the host's)."""
import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

SKIPPED = 77  # CTest's SKIP_RETURN_CODE
TOOL = os.environ["RETROVISOR"]
GUESTS = os.environ["KVM_GUESTS"]
DEFAULT_COUNT = 16
KEEP = os.environ.get("RETROVISOR_KEEP")  # a folder for traces that fail

# What each guest prints in every run, whatever the timing.
ALWAYS = {
    "input": rb"bye: bytes",
    "int3_user": rb"int3_user: lost 0000000000000000 ",
    "mini_kernel": rb"tasks 5f5e13f2b03bdc54 f04d872bf7c18f87 traps 0000000000800020\n",
    "spin": rb"spin: ticks 00000000000000",
    "spin_user": rb"spin_user: ticks 00000000000000",
    "strings": rb"PASS, checks: cc\n",
    "tsc": rb"tsc: backwards 0000000000000000 ",
    "user_tsc": rb"user_tsc: wrong 0000000000000000 faults 000000000000001d refused 0000000000000014 ",
    "x87_pointers": rb"x87_pointers: rounds 0000000000000014\n",
    "vendor_flags": rb"^vendor_flags: faults 0000000000000018 state ",
}


class Failed(Exception):
    pass


def unusable():
    """Why KVM cannot be tested here, or None."""
    doctor = subprocess.run([TOOL, "doctor", "--json"], capture_output=True, timeout=60, check=True)
    return json.loads(doctor.stdout)["kvm"]["problem"] or None


def script(generator):
    """Types for input.asm: text and switches between its two ways of reading; in the end 'Q'."""
    lines = ['after "ready> "']
    for _ in range(generator.randrange(3, 25)):
        text = "".join(generator.choice("abcdefghp0123 ipxyz") for _ in range(generator.randrange(1, 20)))
        moment = generator.choice([f"wait {generator.randrange(1, 5_000_000)}ns", f"wait {generator.randrange(1, 40)}ms",
                                   f"wait {generator.randrange(1, 900)}us", ""])
        lines.append(f'{moment} send "{text}"')
    lines.append(f'wait {generator.randrange(1, 20)}ms send "Q"')
    return "\n".join(lines) + "\n"


def run(words, timeout=120):
    result = subprocess.run([TOOL, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    if result.returncode != 0:
        raise Failed(f"{' '.join(words)}: exit code {result.returncode}\n{result.stderr.decode(errors='replace')}")
    return result.stdout


def summary_of(folder, words):
    name = os.path.join(folder, "summary.json")
    output = run([*words, "--json-summary", name])
    with open(name) as file:
        summary = json.load(file)
    summary["output"] = output
    return summary


def record(folder, generator, guest):
    trace = os.path.join(folder, "t.trace")
    engine = generator.choice(["kvm", "kvm", "kvm", "kvm,step"])
    words = ["record", "--engine", engine, "--kernel", os.path.join(GUESTS, guest + ".bin"), "--flat-address", "0x7c00",
             "--flat-mode", "real16", "--memory", "64M", "--time", generator.choice(["real", "virtual"]), "-o", trace,
             "--journal", generator.choice(["default", "full", "none"]), "--digest-interval", generator.choice(["50", "700", "16k"])]
    with open(os.path.join(folder, "script"), "w") as file:
        file.write(script(generator))
    words += ["--console", f"script:{file.name}" if guest == "input" or generator.random() < 0.3 else "none"]
    return trace, engine, summary_of(folder, words)


def compare(guest, recorded, replayed, engine):
    for what in ("state", "instructions", "guest_time_ns", "stop", "stop_detail", "output"):
        if recorded[what] != replayed[what]:
            raise Failed(f"{guest}, replayed by {engine}: {what}: {recorded[what]} became {replayed[what]}")


def one(generator, guest, figures):
    folder = tempfile.mkdtemp(prefix="retrovisor-kvm-")
    try:
        trace, engine, recorded = record(folder, generator, guest)
        if recorded["stop"] != "debug exit" or recorded["stop_detail"] != 1:
            raise Failed(f"{guest}: {recorded['stop']} {recorded['stop_detail']}\n{recorded['output'].decode(errors='replace')}")
        if not re.search(ALWAYS[guest], recorded["output"]):
            raise Failed(f"{guest} has printed\n{recorded['output'].decode(errors='replace')}")
        for replayed in (engine, "soft"):
            compare(guest, recorded, summary_of(folder, ["replay", trace, "--engine", replayed]), replayed)
        info = json.loads(run(["trace", "info", trace, "--json"]))
        figures["recordings"] += 1
        figures["events"] += recorded["instructions"]
        figures["landings"] += info["events"].get("landing", 0)
        figures["interrupts"] += info["events"].get("deliver", 0)
        figures["input"] += info["events"].get("console-input", 0)
        figures["digests"] += info["digests"]
    except (Failed, subprocess.TimeoutExpired):
        if KEEP:
            shutil.copytree(folder, os.path.join(KEEP, os.path.basename(folder)))
            print("kept as", os.path.join(KEEP, os.path.basename(folder)))
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    reason = unusable()
    if reason:
        print("SKIPPED:", reason)
        return SKIPPED
    count = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_COUNT
    seed = int(os.environ.get("RETROVISOR_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"{count} recordings, seed {seed}", flush=True)
    generator = random.Random(seed)
    guests = sorted(ALWAYS)
    figures = {guest: collections.Counter() for guest in guests}
    failures = 0
    for i in range(count):
        guest = guests[i % len(guests)]
        try:
            one(generator, guest, figures[guest])
        except (Failed, subprocess.TimeoutExpired) as failure:
            failures += 1
            figures[guest]["failed"] += 1
            print(f"recording {i} FAILED: {failure}", flush=True)
    columns = ["recordings", "failed", "events", "interrupts", "landings", "input", "digests"]
    print(f"{'guest':<14}" + "".join(f"{c:>12}" for c in columns))
    for guest in guests:
        print(f"{guest:<14}" + "".join(f"{figures[guest][c]:>12}" for c in columns))
    total = sum(figures.values(), collections.Counter())
    print(f"{'all':<14}" + "".join(f"{total[c]:>12}" for c in columns))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
