#!/usr/bin/env python3
"""What this host's KVM cannot do is told before a recording begins: a guest that meets it either replays equal on the soft
engine, or `record` has named the hole; and where programs are the soft engine's, they replay in any case. From the environment:
RETROVISOR; KVM_GUESTS: the folder with the guests, assembled."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77  # CTest's SKIP_RETURN_CODE
TOOL = os.environ["RETROVISOR"]
GUESTS = os.environ["KVM_GUESTS"]
GUEST = ["--flat-address", "0x7c00", "--flat-mode", "real16", "--memory", "64M", "--console", "none"]


def doctor():
    out = subprocess.run([TOOL, "doctor", "--json"], capture_output=True, timeout=60, check=True).stdout
    return json.loads(out)["kvm"]


class Told(unittest.TestCase):
    def record_and_replay(self, guest, engine):
        """What `record` said, and whether the soft engine's replay is the run."""
        with tempfile.TemporaryDirectory(prefix="retrovisor-told-") as folder:
            trace = os.path.join(folder, "t.trace")
            recorded = subprocess.run([TOOL, "record", "--engine", engine, "--kernel", os.path.join(GUESTS, guest + ".bin"), *GUEST,
                                       "-o", trace, "--digest-detail", "full"],
                                      stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
            replayed = subprocess.run([TOOL, "replay", trace, "--engine", "soft"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
            return recorded.stderr.decode(), replayed.returncode == 0, replayed.stdout.decode()

    def test_int_n(self):
        works = doctor()["findings"]["int_n_ring3"]["answer"] == "yes"
        said, equal, printed = self.record_and_replay("int_n", "kvm")
        self.assertEqual("INT n in programs" in said, not works, said)
        self.assertTrue(equal or not works, said)
        if equal:
            self.assertIn("calls 0000000000000001", printed)

    def test_int_n_where_programs_are_the_soft_engines(self):
        for engine in ("kvm,soft", "kvm,step"):
            with self.subTest(engine):
                said, equal, printed = self.record_and_replay("int_n", engine)
                self.assertNotIn("in programs", said)
                self.assertTrue(equal, said)
                self.assertIn("calls 0000000000000001", printed)

    def test_holes_of_doctor_are_those_of_record(self):
        said, _, _ = self.record_and_replay("int_n", "kvm")
        holes = doctor()["holes"]
        self.assertTrue(holes)
        for hole in holes:
            self.assertIn(hole["what"], said)


if __name__ == "__main__":
    if doctor()["problem"]:
        print("SKIPPED:", doctor()["problem"])
        sys.exit(SKIPPED)
    unittest.main()
