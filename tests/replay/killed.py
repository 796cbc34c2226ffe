#!/usr/bin/env python3
"""Recordings that were cut off: by SIGKILL, by a full disk, by losing bytes. What is left verifies and replays."""
import os
import random
import resource
import signal
import subprocess
import time

import support
from support import BAD_TRACE, ECHO, FAILED, FINE


class Killed(support.Case):
    # CTest runs 100; a campaign may ask for more.
    KILLS = int(os.environ.get("RETROVISOR_KILLS", "100"))

    def test_killed_at_random_instants_it_replays_to_its_last_whole_chunk(self):
        generator = random.Random(support.seed())
        script = self.file("s", 'after "ready> " send "hello, machine" wait 3ms send "xyzB"')
        trace = self.path("t.trace.partial")
        lengths = []
        for _ in range(self.KILLS):
            if os.path.exists(trace):
                os.unlink(trace)
            journal = generator.choice(["default", "full"])
            key_frames = generator.choice(["0", "3M", "20M"])
            command = [support.TOOL, "record", *ECHO, "--console", f"script:{script}", "-o", self.path("t.trace"), "--journal", journal,
                       "--digest-interval", "200k", "--key-frames", key_frames]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not os.path.exists(trace) or os.path.getsize(trace) == 0:
                time.sleep(0.0005)
                self.assertIsNone(process.poll(), "the recorder ended by itself")
            time.sleep(generator.random() ** 2 * 0.8)
            process.send_signal(signal.SIGKILL)
            process.wait()
            verified = support.json.loads(self.tool("trace", "verify", trace, "--json").stdout)
            self.assertTrue(verified["ok"])
            self.assertFalse(verified["complete"])
            self.assertFalse(os.path.exists(self.path("t.trace")), "it has the name of a whole trace")
            replayed = self.replay("--quiet")  # by the name it was to have
            self.assertEqual(replayed["instructions"], verified["instructions"])
            if key_frames != "0":
                middle = self.replay("--quiet", "--from", str(verified["instructions"]))
                self.assertEqual(middle["instructions"], replayed["instructions"])
                self.assertEqual(middle["state"], replayed["state"])
            lengths.append(verified["instructions"])
        self.assertGreater(len(set(lengths)), 1, "every recording was cut off at the same place")

    def test_a_full_disk_stops_the_recording_and_the_rest_replays(self):
        script = self.file("s", 'after "ready> " send "abcB"')
        for kib in (1, 4, 16, 64, 200):
            name = self.path(f"{kib}.trace")
            trace = name + ".partial"
            limit = (kib * 1024, kib * 1024)
            result = self.tool("record", *ECHO, "--console", f"script:{script}", "-o", name, "--journal", "full",
                               "--digest-interval", "20k", "--timeout", "60", expect=FAILED,
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
            self.assertIn("File too large", result.words)
            self.assertLessEqual(os.path.getsize(trace), kib * 1024)
            if self.tool("trace", "verify", trace, expect=(FINE, BAD_TRACE) if kib == 1 else FINE).returncode == FINE:
                self.tool("replay", trace, "--quiet")

    def test_a_disk_that_fills_up_within_a_key_frame_leaves_a_trace_that_replays(self):
        script = self.file("s", 'after "ready> " send "abcB"')
        for kib in (2, 8, 12, 16, 40):
            trace = self.path(f"{kib}.trace.partial")
            limit = (kib * 1024, kib * 1024)
            result = self.tool("record", *ECHO, "--console", f"script:{script}", "-o", self.path(f"{kib}.trace"), "--key-frames", "100k",
                               "--timeout", "60", expect=FAILED,
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
            self.assertIn("File too large", result.words)
            verified = support.json.loads(self.tool("trace", "verify", trace, "--json").stdout)
            whole = self.replay("--quiet", trace=f"{kib}.trace")
            middle = self.replay("--quiet", "--from", str(whole["instructions"]), trace=f"{kib}.trace")
            self.assertEqual(whole["instructions"], verified["instructions"])
            self.assertEqual(whole["state"], middle["state"])

    def test_an_older_trace_stays_until_the_new_one_is_whole(self):
        script = self.file("s", 'after "ready> " send "abcB"')
        how = [*ECHO, "--console", f"script:{script}"]
        self.record(*how, "--stop-at", "1M")
        old = self.file_content("t.trace")
        limit = (4096, 4096)
        words = self.tool("record", *how, "-o", self.path("t.trace"), "--journal", "full", "--timeout", "60", expect=FAILED,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)).words
        self.assertIn("t.trace.partial", words)
        self.assertEqual(self.file_content("t.trace"), old)
        self.assertIn("t.trace.partial is newer and unfinished", self.tool("replay", self.path("t.trace"), "-q").words)
        self.tool("replay", self.path("t.trace.partial"), "-q")
        self.record(*how, "--stop-at", "2M")
        self.assertNotEqual(self.file_content("t.trace"), old)
        self.assertFalse(os.path.exists(self.path("t.trace.partial")))

    def test_a_device_that_takes_nothing_is_an_error(self):
        result = self.tool("record", *ECHO, "-o", "/dev/full", "--timeout", "20", expect=(FAILED, support.BAD_ARGUMENTS))
        self.assertIn("/dev/full", result.words)


if __name__ == "__main__":
    support.main()
