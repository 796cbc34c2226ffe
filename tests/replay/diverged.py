#!/usr/bin/env python3
"""Replays that are not the recorded run: exit code 3, and a report that says what differs and where."""
import os
import re

import support
from support import BAD_TRACE, DIVERGENCE, ECHO, FINE


class Diverged(support.Case):
    def setUp(self):
        super().setUp()
        script = self.file("s", 'after "ready> " send "abc" wait 150ms send "def" wait 150ms send "Q"')
        self.recorded = self.record(*ECHO, "--deterministic", "--console", f"script:{script}", "--digest-interval", "100k")

    def forged(self, what):
        forged = self.path("forged.trace")
        support.subprocess.run([os.environ["FORGE_TRACE"], self.path("t.trace"), forged, what], check=True)
        return forged

    def report(self, what):
        return self.tool("replay", self.forged(what), "--quiet", expect=DIVERGENCE).words

    def test_a_copy_without_a_lie_replays(self):
        self.forged("nothing")
        self.assert_replays(self.recorded, trace="forged.trace")

    def test_another_byte_typed_is_seen_in_the_guests_registers_or_memory(self):
        words = self.report("input")
        self.assertIn("divergence", words)
        good, bad = (int(n) for n in re.search(r"same at position (\d+) and differ at position (\d+)", words).groups())
        self.assertLess(good, bad)
        self.assertLessEqual(bad - good, 200_000)

    def test_another_clock_is_seen_in_the_first_digest(self):
        self.assertRegex(self.report("clock"), r"(?i)rtc")

    def test_a_missing_and_a_late_interrupt_are_named(self):
        for what in ("interrupt", "late"):
            words = self.report(what)
            self.assertIn("interrupt", words)
            self.assertIn("vector", words)

    def test_another_digest_names_memory_and_the_position(self):
        words = self.report("digest")
        self.assertIn("memory", words)
        self.assertRegex(words, r"position [1-9]\d+")

    def test_another_end_is_told(self):
        self.assertIn("position", self.report("end"))

    def test_bisect_gives_the_interval_of_what_only_the_recording_knows(self):
        result = self.tool("replay", self.forged("input"), "--bisect", expect=DIVERGENCE)
        self.assertIn(b"position", result.stdout)

    def test_bisect_of_a_good_trace_finds_nothing(self):
        self.tool("replay", self.path("t.trace"), "--bisect", expect=FINE)

    def test_without_checks_only_the_input_is_replayed(self):
        self.tool("replay", self.forged("digest"), "--quiet", "--no-checks", expect=FINE)

    def test_kvm_on_the_other_vendors_host_says_why_not(self):
        refused = []
        for processor in ("amd", "intel"):
            result = self.tool("replay", self.forged(processor), "--engine", "kvm", "--quiet", expect=None)
            if f"recorded on a processor of model {processor}, and this host's is of model" in result.words:
                self.assertEqual(result.returncode, support.UNSUPPORTED)
                self.assertIn("--engine=soft", result.words)
                refused.append(processor)
            self.assertIn(f"processor model {processor}\n", self.tool("trace", "info", self.path("forged.trace")).stdout.decode())
        self.assertTrue(refused, "this host can be of one vendor only")

    def test_an_unknown_machine_model_is_refused_by_its_number_and_still_shown(self):
        trace = self.forged("model")
        for command in (["replay", trace, "--quiet"], ["trace", "verify", trace]):
            words = self.tool(*command, expect=BAD_TRACE).words
            self.assertIn("4000000", words)
            self.assertIn("machine model", words)
        self.assertIn(b"4000000", self.tool("trace", "info", trace).stdout)


if __name__ == "__main__":
    support.main()
