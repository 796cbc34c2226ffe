"""What the end-to-end tests share: running retrovisor, its exit codes, its guests. The programs come from the environment:
RETROVISOR (the tool), ECHO_GUEST (echo.asm, assembled), FORGE_TRACE (forge_trace.cc), GUEST_DIR (kernels and initramfs, made
by run-tests)."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

FINE, FAILED, BAD_ARGUMENTS, DIVERGENCE, BAD_TRACE, GUEST_CRASH, BAD_IMAGE, UNSUPPORTED = range(8)
TIME_LIMIT = 124

TOOL = os.environ["RETROVISOR"]
ECHO = ["--kernel", os.environ["ECHO_GUEST"], "--flat-address", "0x100000", "--flat-mode", "protected32", "--memory", "16M"]
GUEST_DIR = os.environ.get("GUEST_DIR", "")
SKIPPED = 77  # CTest's SKIP_RETURN_CODE


def seed():
    """A fresh seed, printed, or the one of the environment: RETROVISOR_SEED=n repeats a run's choices."""
    value = int(os.environ.get("RETROVISOR_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {value} (RETROVISOR_SEED={value} repeats it)", flush=True)
    return value


def linux(flavour="cloud", append="", memory="256M"):
    kernel = os.path.join(GUEST_DIR, f"vmlinuz-{flavour}")
    initramfs = os.path.join(GUEST_DIR, "initramfs.cpio")
    for path in (kernel, initramfs):
        if not os.path.exists(path):
            raise unittest.SkipTest(f"{path} is not there; ./run-tests fetches it")
    return ["--kernel", kernel, "--initrd", initramfs, "--memory", memory, "--append", ("console=ttyS0 " + append).strip()]


class Case(unittest.TestCase):
    """A test with a folder of its own and short words for what the tool does."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="retrovisor-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.count = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def file(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return self.path(name)

    def tool(self, *arguments, expect=FINE, stdin=subprocess.DEVNULL, timeout=300, **options):
        """Runs the tool; the exit code must be `expect` (a number or several; None: anything but a crash)."""
        result = subprocess.run([TOOL, *arguments], stdin=stdin, capture_output=True, timeout=timeout, **options)
        words = f"{' '.join(arguments)}\nexit code {result.returncode}\n{result.stderr.decode(errors='replace')}"
        self.assertGreaterEqual(result.returncode, 0, "killed by a signal: " + words)
        self.assertLess(result.returncode, 128, words)
        if expect is not None:
            expected = expect if isinstance(expect, (tuple, list, set)) else (expect,)
            self.assertIn(result.returncode, expected, words)
        result.words = result.stderr.decode(errors="replace")
        return result

    def summary(self, command, *arguments, expect=FINE, **options):
        """As tool(), and what it wrote as --json-summary; `.stdout` is in "output"."""
        self.count += 1
        name = self.path(f"summary-{self.count}.json")
        result = self.tool(command, *arguments, "--json-summary", name, expect=expect, **options)
        with open(name) as file:
            summary = json.load(file)
        summary["output"] = result.stdout
        return summary

    def record(self, *arguments, trace="t.trace", **options):
        return self.summary("record", *arguments, "-o", self.path(trace), **options)

    def replay(self, *arguments, trace="t.trace", **options):
        return self.summary("replay", self.path(trace), *arguments, **options)

    def assert_same_run(self, one, other):
        for what in ("state", "instructions", "guest_time_ns", "stop", "stop_detail", "output"):
            self.assertEqual(one[what], other[what], what)

    def assert_replays(self, recorded, trace="t.trace", **options):
        replayed = self.replay(trace=trace, **options)
        self.assert_same_run(recorded, replayed)
        return replayed

    def file_content(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()


def main():
    """Runs the module's tests. A run in which a test was skipped is CTest's SKIPPED, so that it shows."""
    result = unittest.main(exit=False, verbosity=2).result
    for test, reason in result.skipped:
        print(f"SKIPPED: {test}: {reason}")
    sys.exit(1 if not result.wasSuccessful() else SKIPPED if result.skipped else 0)
