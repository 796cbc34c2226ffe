#!/usr/bin/env python3
"""Runs that are the same run: --deterministic without a trace, and recordings with their replays."""
import os
import random
import subprocess
import time

import support
from support import ECHO, FINE, linux


def random_script(generator, steps):
    """Types letters at random moments, and in the end 'Q'."""
    lines = ['after "ready> "']
    for _ in range(steps):
        text = "".join(generator.choice("abcdefghijklmnopqrstuvwxyz 0123456789") for _ in range(generator.randrange(1, 24)))
        moment = generator.choice([f"wait {generator.randrange(1, 3_000_000)}ns", f"wait {generator.randrange(1, 2_000)}",
                                   f"wait {generator.randrange(1, 40)}ms", ""])
        lines.append(f'{moment} send "{text}"')
    lines.append('wait 5ms send "Q"')
    return "\n".join(lines) + "\n"


# How many recordings with random input; tests/replay/campaign asks for more of Linux.
RECORDINGS = int(os.environ.get("RETROVISOR_RECORDINGS", "50"))
LINUX_RECORDINGS = int(os.environ.get("RETROVISOR_LINUX_RECORDINGS", "2"))


def typist(generator, pieces, gap, last, again=None):
    """A process that types into a pipe at moments of the host's; returns the pipe's other end and its process id."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child != 0:
        os.close(write_end)
        return read_end, child
    os.close(read_end)
    try:
        for piece in pieces:
            time.sleep(generator.random() * gap)
            os.write(write_end, piece)
        os.write(write_end, last)
        while again is not None:  # until nobody reads any more
            time.sleep(0.5)
            os.write(write_end, again)
    except OSError:
        pass
    os._exit(0)


class Deterministic(support.Case):
    def test_two_deterministic_runs_are_the_same_run(self):
        generator = random.Random(support.seed())
        for i in range(5):
            script = self.file(f"{i}.script", random_script(generator, 30))
            one, two = (self.summary("run", *ECHO, "--deterministic", "--console", f"script:{script}") for _ in range(2))
            self.assertEqual(one["stop"], "debug exit")
            self.assertIn(b"bye", one["output"])
            self.assert_same_run(one, two)

    def test_a_deterministic_run_and_its_recording_are_the_same_run(self):
        script = self.file("s", random_script(random.Random(1), 30))
        how = [*ECHO, "--deterministic", "--console", f"script:{script}"]
        plain = self.summary("run", *how)
        self.assert_same_run(plain, self.record(*how))
        self.assert_same_run(plain, self.record(*how, "--journal", "full", "--digest-interval", "50k", trace="full.trace"))
        self.assert_replays(plain)
        self.assert_replays(plain, trace="full.trace")

    def test_clock_and_seed_change_the_run(self):
        script = self.file("s", random_script(random.Random(2), 3))
        how = ["run", *ECHO, "--deterministic", "--console", f"script:{script}"]
        plain = self.summary(*how)
        other = self.summary(*how, "--rtc", "2030-05-06T07:08:09")
        self.assertNotEqual(plain["state"], other["state"])
        self.assertNotEqual(plain["state"], self.summary(*how, "--seed", "2")["state"])

    def test_recordings_with_random_input_replay(self):
        generator = random.Random(support.seed())
        for i in range(RECORDINGS):
            journal = generator.choice(["default", "full", "none"])
            interval = generator.choice(["20k", "100k", "1M"])
            if i % 2 == 0:
                script = self.file("s", random_script(generator, 20))
                recorded = self.record(*ECHO, "--console", f"script:{script}", "--journal", journal,
                                       "--digest-interval", interval)
            else:
                recorded = self.record_typed(generator, journal, interval)
            self.assertEqual(recorded["stop"], "debug exit")
            self.assert_replays(recorded)

    def record_typed(self, generator, journal, interval):
        pieces = [b""] + [bytes(generator.choice(b"abcdefg 123") for _ in range(generator.randrange(1, 20)))
                          for _ in range(generator.randrange(3, 8))]
        read_end, child = typist(generator, pieces, 0.05, b"Q")
        try:
            return self.record(*ECHO, "--time", generator.choice(["real", "virtual"]), "--journal", journal,
                               "--digest-interval", interval, stdin=read_end)
        finally:
            os.close(read_end)
            os.waitpid(child, 0)

    def test_every_way_to_end_replays(self):
        for key, stop in ((b"Q", "debug exit"), (b"T", "triple fault"), (b"P", "guest panic"), (b"H", "halted for ever")):
            script = self.file("s", b'after "ready> " send "abc' + key + b'"')
            recorded = self.record(*ECHO, "--stop-on-panic", "--console", f"script:{script}")
            self.assertEqual(recorded["stop"], stop)
            self.assert_replays(recorded)
            if key == b"T":  # INT3 without an IDT
                self.assertEqual([fault["vector"] for fault in recorded["faults"]], [13, 13, 8, 13])
                self.assertEqual({fault["rip"] for fault in recorded["faults"]}, {recorded["faults"][0]["rip"]})
                told = "triple fault: #GP at RIP {:#x} (error code 0x1a), then #GP (error code 0x6b), then #DF (error code 0x0), then #GP (error code 0x43)"
                told = told.format(recorded["faults"][0]["rip"]).encode()
                for command in (["trace", "info"], ["trace", "dump"]):
                    output = self.tool(*command, self.path("t.trace"))
                    self.assertIn(told, output.stdout + output.stderr, command)
            else:
                self.assertNotIn("faults", recorded)

    def test_a_recording_names_its_processor_model_and_replays_with_it(self):
        script = self.file("s", 'after "ready> " send "abcQ"')
        for model in ("model", "intel", "amd-zen3"):
            options = [] if model == "model" else ["--processor-model", model]
            recorded = self.record(*ECHO, "--deterministic", "--console", f"script:{script}", *options)
            header = support.json.loads(self.tool("trace", "info", self.path("t.trace"), "--json").stdout)["header"]
            self.assertEqual(header["processor_model"], model)
            self.assert_replays(recorded)
        refused = self.tool("record", *ECHO, "--engine", "kvm", "--processor-model", "intel", "-o", self.path("u.trace"),
                            expect=support.BAD_ARGUMENTS)
        self.assertIn("--processor-model", refused.words)

    def test_a_recording_ended_by_position_replays(self):
        script = self.file("s", 'after "ready> " send "abcB"')
        recorded = self.record(*ECHO, "--console", f"script:{script}", "--stop-at", "12'345'678")
        self.assertEqual(recorded["instructions"], 12345678)
        self.assert_replays(recorded)

    def test_a_recording_ended_by_the_time_limit_replays(self):
        script = self.file("s", 'after "ready> " send "abcB"')
        recorded = self.record(*ECHO, "--console", f"script:{script}", "--timeout", "0.4", expect=support.TIME_LIMIT)
        self.assertEqual(recorded["host_cause"], "time limit reached")
        self.assert_replays(recorded)

    def test_a_recording_ended_by_a_signal_while_asleep_replays(self):
        trace, name = self.path("t.trace"), self.path("s.json")
        process = subprocess.Popen([support.TOOL, "record", *ECHO, "--time", "real", "-o", trace, "--json-summary", name],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdin.write(b"hello")
        process.stdin.flush()
        time.sleep(0.3)
        process.send_signal(support.signal.SIGINT)
        output, words = process.communicate(timeout=60)
        self.assertEqual(process.returncode, FINE, words)
        with open(name) as file:
            recorded = support.json.load(file)
        recorded["output"] = output
        self.assertEqual(recorded["stop"], "host request")
        self.assertEqual(recorded["host_cause"], "interrupted")
        self.assert_replays(recorded)

    def test_a_replay_stops_where_it_is_told(self):
        script = self.file("s", 'after "ready> " send "abcB"')
        how = [*ECHO, "--deterministic", "--console", f"script:{script}"]
        self.record(*how, "--stop-at", "5M")
        for position in ("1", "1234567", "4'999'999"):
            number = int(position.replace("'", ""))
            replayed = self.replay("--stop-at", position)
            self.assertEqual(replayed["instructions"], number)
            straight = self.summary("run", *how, "--stop-at", position)
            self.assertEqual(replayed["state"], straight["state"])


class KeyFrames(support.Case):
    def info(self, trace="t.trace"):
        return support.json.loads(self.tool("trace", "info", self.path(trace), "--json").stdout)

    def assert_replays_from(self, recorded, position, trace="t.trace"):
        """From the last key frame before `position`, to the same end; says where it started."""
        replayed = self.replay("--from", str(position), trace=trace)
        for what in ("state", "instructions", "guest_time_ns", "stop", "stop_detail"):
            self.assertEqual(recorded[what], replayed[what], what)
        self.assertTrue(recorded["output"].endswith(replayed["output"]))
        remarks = " ".join(replayed["remarks"])
        if "from the key frame at position" in remarks:
            return int(remarks.split("key frame at position ")[1].split()[0])
        self.assertIn("from the beginning", remarks)
        self.assertEqual(recorded["output"], replayed["output"])
        return 0

    def test_recordings_with_random_input_replay_from_anywhere(self):
        generator = random.Random(support.seed())
        for i in range(8):
            script = self.file("s", random_script(generator, 20))
            interval = generator.randrange(20_000, 3_000_000)
            recorded = self.record(*ECHO, "--console", f"script:{script}", "--key-frames", str(interval), "--journal",
                                   generator.choice(["default", "full", "none"]))
            self.assert_replays(recorded)
            end = recorded["instructions"]
            self.assertEqual(self.info()["key_frames"]["count"], (end - 1) // interval)
            for position in (0, min(interval - 1, end), min(interval, end), end, *(generator.randrange(end) for _ in range(4))):
                begin = self.assert_replays_from(recorded, position)
                self.assertEqual(begin, min(position, end - 1) // interval * interval)

    def test_a_recording_without_is_the_same_run_and_starts_at_the_beginning(self):
        how = [*ECHO, "--deterministic", "--console", "script:" + self.file("s", random_script(random.Random(3), 20))]
        plain = self.record(*how)
        self.assertEqual(self.info()["key_frames"]["count"], 0)
        self.assertEqual(self.assert_replays_from(plain, plain["instructions"]), 0)
        self.assert_same_run(plain, self.record(*how, "--key-frames", "0", trace="none.trace"))
        self.assert_same_run(plain, self.record(*how, "--key-frames", "70k", trace="many.trace"))
        dumps = [self.tool("trace", "dump", self.path(name), "--kind", "journal,boundary").stdout
                 for name in ("t.trace", "none.trace", "many.trace")]
        self.assertEqual(dumps[0], dumps[1])
        self.assertEqual(dumps[0], dumps[2])

    def test_a_boot_with_typed_input_replays_from_each_key_frame(self):
        script = self.file("s", 'after "ends it" after "# " send "ls -lR / | head -100\\n"\n'
                                'wait 20ms send "echo typed $((6*7))\\n"\n'
                                'after "typed 42" after "# " send "poweroff -f\\n"\n')
        recorded = self.record(*linux(), "--console", f"script:{script}", "--key-frames", "300M", "--timeout", "200")
        self.assertEqual(recorded["stop"], "power-off")
        info = self.info()["key_frames"]
        self.assertEqual(info["count"], recorded["instructions"] // 300_000_000)
        self.assertLess(info["file_size"], recorded["guest_memory_touched_bytes"] * info["count"])
        self.assert_replays(recorded)
        for i in range(info["count"] + 1):
            position = min((i + 1) * 300_000_000 - 1, recorded["instructions"])
            self.assertEqual(self.assert_replays_from(recorded, position), i * 300_000_000)

    def test_every_report_counts_digests_and_instructions_alike(self):
        recorded = self.record(*ECHO, "--deterministic", "--stop-at", "1M", "--key-frames", "300k", "--digest-interval", "70k")
        info = self.info()
        verified = support.json.loads(self.tool("trace", "verify", self.path("t.trace"), "--json").stdout)
        digests = recorded["trace"]["digests"]
        self.assertEqual((info["digests"], verified["digests"]), (digests, digests))
        def compared(*how):
            replayed = self.replay("--quiet", *how)
            return replayed, replayed["remarks"][-1]
        for how in ([], ["--jobs", "4"], ["--from", "100k"]):
            self.assertRegex(compared(*how)[1], rf"^the recorded run: {digests} digests and ")
        replayed, remark = compared("--from", "950k")
        self.assertEqual((replayed["begin"], replayed["instructions"]), (900_000, 1_000_000))
        dumped = self.tool("trace", "dump", self.path("t.trace"), "--kind", "digest", "--json").stdout.splitlines()
        self.assertEqual(len(dumped), digests)
        behind = sum(support.json.loads(line)["position"] > 900_000 for line in dumped)
        self.assertRegex(remark, rf"^the recorded run: {behind} digests and ")
        words = self.tool("replay", self.path("t.trace"), "--quiet", "--from", "950k").words
        self.assertIn("100 000 instructions from position 900000 on in ", words)
        rate = replayed["million_instructions_per_second"] * replayed["seconds"]
        self.assertAlmostEqual(rate, 0.1, delta=0.001)
        self.assertRegex(compared("--stop-at", "500k")[1], "^the recorded run, up to position 500000: ")
        self.assertIn("nothing was compared", compared("--no-checks")[1])
        # As far as it went: of a recording that was cut off alone.
        content = self.file_content("t.trace")
        self.file("cut.trace", content[:len(content) - 1])
        self.assertRegex(self.replay("--quiet", trace="cut.trace")["remarks"][-1], "^the recorded run, as far as it was recorded: ")

    def test_key_frames_are_not_counted_among_the_bytes_of_events(self):
        how = [*ECHO, "--deterministic", "--stop-at", "1M", "--digest-interval", "100k"]
        self.record(*how, trace="plain.trace")
        self.record(*how, "--key-frames", "100k")
        plain, framed = self.info("plain.trace"), self.info()
        self.assertEqual(framed["log_size"] + framed["key_frames"]["file_size"], framed["file_size"])
        self.assertEqual(plain["log_size"], plain["file_size"])
        rate = "bytes_per_million_instructions"
        self.assertEqual((plain[rate], framed[rate]), (plain["log_size"], framed["log_size"]), "of a million instructions")
        self.assertGreater(framed["key_frames"]["file_size"], 0)
        self.assertIn("without key frames", self.tool("trace", "info", self.path("t.trace")).stdout.decode())

    def test_parts_replayed_at_once_are_the_whole_run(self):
        script = self.file("s", random_script(random.Random(4), 60))
        recorded = self.record(*ECHO, "--console", f"script:{script}", "--key-frames", "200k", "--digest-interval", "90k")
        for jobs in ("1", "2", "3", "16"):
            replayed = self.replay("--quiet", "--jobs", jobs)
            for what in ("state", "instructions", "guest_time_ns", "stop", "stop_detail"):
                self.assertEqual(recorded[what], replayed[what], what)
            self.assertEqual(jobs != "1", "parts" in " ".join(replayed["remarks"]))
        self.record(*ECHO, "--console", f"script:{script}", trace="plain.trace")
        remarks = self.replay("--quiet", "--jobs", "4", trace="plain.trace")["remarks"]
        self.assertIn("in one part: the trace has no key frames", " ".join(remarks))
        subprocess.run([os.environ["FORGE_TRACE"], self.path("t.trace"), self.path("bad.trace"), "digest"], check=True)
        alone, parts = (self.tool("replay", self.path("bad.trace"), "--quiet", *how, expect=support.DIVERGENCE).words
                        for how in ([], ["--jobs", "3"]))
        found = [line for line in alone.splitlines() if "position" in line and "retrovisor" not in line]
        self.assertTrue(found)
        for line in found:
            if "after" not in line:
                self.assertIn(line, parts)

    def test_a_boot_of_two_vcpus_replays_from_the_middle(self):
        script = self.file("s", 'after "ends it" after "# " send "poweroff -f\\n"\n')
        recorded = self.record(*linux(), "--vcpus", "2", "--console", f"script:{script}", "--key-frames", "400M",
                               "--timeout", "250")
        self.assertEqual(recorded["stop"], "power-off")
        for position in ("500M", recorded["instructions"]):
            self.assertNotEqual(self.assert_replays_from(recorded, position), 0)


class Linux(support.Case):
    def test_two_deterministic_boots_with_typed_input_are_the_same_run(self):
        script = self.file("s", 'after "ends it" after "# " send "echo typed $((6*7))\\n"\n'
                                'after "typed 42" after "# " send "poweroff -f\\n"\n')
        how = [*linux(), "--deterministic", "--console", f"script:{script}"]
        one = self.summary("run", *how)
        self.assertEqual(one["stop"], "power-off")
        self.assertEqual(one["unknown_instructions"], {})
        self.assert_same_run(one, self.record(*how))
        self.assert_replays(one)

    def test_boots_with_random_input_replay(self):
        generator = random.Random(support.seed())
        for i in range(LINUX_RECORDINGS):
            recorded = self.record_scripted(generator) if i % 2 == 0 else self.record_typed(generator)
            self.assertEqual(recorded["stop"], "power-off", recorded["output"][-1000:])
            self.assert_replays(recorded)

    KEYS = "abcdefgh ;|$'0123456789"

    def record_scripted(self, generator):
        lines = ['after "ends it" after "# "']
        for _ in range(12):
            text = "".join(generator.choice(self.KEYS) for _ in range(generator.randrange(1, 30)))
            lines.append(f'wait {generator.randrange(1, 30)}ms send "{text}"')
        lines.append("wait 50ms send \"\\cC\\cU\" wait 50ms send \"'\\cC\" wait 50ms send \"poweroff -f\\n\"")
        script = self.file("s", "\n".join(lines))
        return self.record(*linux(), "--console", f"script:{script}", "--timeout", "200")

    def record_typed(self, generator):
        """Keys come while the kernel boots and after, at moments of the host's; in the end it is switched off by hand."""
        pieces = ["".join(generator.choices(self.KEYS, k=generator.randrange(1, 30))).encode() for _ in range(40)]
        read_end, child = typist(generator, pieces, 0.3, b"", b"\x03\x15'\x03poweroff -f\n")
        try:
            return self.record(*linux(), "--time", generator.choice(["real", "virtual"]), "--timeout", "200", stdin=read_end)
        finally:
            os.close(read_end)
            os.waitpid(child, 0)

    def test_the_generic_kernel_reaches_a_shell_and_reboots(self):
        script = self.file("s", 'after "ends it" after "# " send "reboot -f\\n"\n')
        run = self.summary("run", *linux("generic"), "--deterministic", "--console", f"script:{script}")
        self.assertEqual(run["stop"], "reset")
        self.assertEqual(run["unknown_instructions"], {})

    def test_a_crash_replays_to_the_same_panic(self):
        recorded = self.record(*linux(append="workload=crash"), "--stop-on-panic", "--console", "none")
        self.assertEqual(recorded["stop"], "guest panic")
        self.assertIn(b"sysrq triggered crash", recorded["output"])
        replayed = self.assert_replays(recorded)
        self.assertEqual(replayed["stop"], "guest panic")
        self.replay("--fail-on-crash", expect=support.GUEST_CRASH)


if __name__ == "__main__":
    support.main()
