#!/usr/bin/env python3
"""Bad input gives a clear message and its exit code, never a crash."""
import os
import random
import struct

import support
from support import BAD_ARGUMENTS, BAD_IMAGE, BAD_TRACE, ECHO, FAILED, FINE, UNSUPPORTED, linux


class BadArguments(support.Case):
    def test_each_bad_argument_is_named(self):
        kernel = ECHO[1]
        run = ["run", *ECHO]
        for arguments, word in (
            ([], "subcommand"),
            (["fly"], "subcommand"),
            (["run"], "--kernel"),
            (["record", *ECHO], "--output"),
            (["replay"], "trace"),
            (["trace"], "subcommand"),
            ([*run, "--memory", "lots"], "--memory"),
            ([*run, "--memory", "1M"], "--memory"),
            ([*run, "--memory", "99999999999G"], "--memory"),
            ([*run, "--engine", "tcg"], "--engine"),
            ([*run, "--console", "pigeon"], "--console"),
            ([*run, "--time", "later"], "--time"),
            ([*run, "--rtc", "noon"], "--rtc"),
            ([*run, "--seed", "0xgg"], "--seed"),
            ([*run, "--stop-at", "soon"], "--stop-at"),
            ([*run, "--timeout", "0"], "--timeout"),
            ([*run, "--deterministic", "--console", "stdio"], "--console"),
            ([*run, "--deterministic", "--time", "real"], "--time"),
            (["run", "--kernel", kernel, "--flat-address", "here"], "--flat-address"),
            (["run", "--kernel", kernel, "--flat-address", "0", "--flat-mode", "vm86"], "--flat-mode"),
            (["record", *ECHO, "-o", self.path("t"), "--journal", "some"], "--journal"),
            (["record", *ECHO, "-o", self.path("t"), "--key-frames", "often"], "--key-frames"),
            (["replay", self.path("t"), "--from", "there"], "--from"),
            (["replay", self.path("t"), "--from", "1M", "--bisect"], "--from"),
            (["trace", "dump", self.path("t"), "--kind", "nothing"], "nothing"),
        ):
            with self.subTest(arguments=arguments):
                self.assertIn(word, self.tool(*arguments, expect=BAD_ARGUMENTS).words)

    def test_a_misspelt_word_names_those_it_is_near_to(self):
        for arguments, words in (
            (["recrod", *ECHO], ("'recrod' is no subcommand", "did you mean record?")),
            (["rec"], ("did you mean record?",)),
            (["replya", "t"], ("did you mean replay?",)),
            (["trace", "vrify", "t"], ("'vrify' is no subcommand of trace", "did you mean verify?")),
            (["run", "--kernal", "k"], ("'--kernal' is no option of run", "did you mean --kernel?")),
            (["fly"], ("'fly' is no subcommand", "there are run, record, replay")),
        ):
            with self.subTest(arguments=arguments):
                said = self.tool(*arguments, expect=BAD_ARGUMENTS).words
                for word in words:
                    self.assertIn(word, said)
        self.assertNotIn("did you mean", self.tool("fly", expect=BAD_ARGUMENTS).words)

    def test_engines_are_listed_so_that_names_with_a_comma_can_be_told(self):
        names = "auto|soft|kvm|kvm,soft|kvm,step"
        self.assertIn(names, self.tool("run", *ECHO, "--engine", "tcg", expect=BAD_ARGUMENTS).words)
        for command in ("run", "record", "replay"):
            said = self.tool(command, "--help").stdout.decode()
            self.assertIn(names, said)
            self.assertNotIn("{auto,s", said)

    def test_memory_without_a_unit_is_in_mebibytes(self):
        how = ["--deterministic", "--stop-at", "1000"]
        guest = [*ECHO[:-2], *how]
        one, other = (self.summary("run", *guest, "-m", size)["state"] for size in ("16", "16M"))
        self.assertEqual(one, other)
        self.assertIn("a number alone counts MiB", " ".join(self.tool("run", "--help").stdout.decode().split()))

    def test_what_kvm_cannot_do_is_refused_before_anything_starts(self):
        self.assertIn("--deterministic", self.tool("run", *ECHO, "--engine", "kvm", "--deterministic", expect=BAD_ARGUMENTS).words)
        self.assertIn("convert", self.tool("run", *ECHO, "--engine", "kvm", "--gdb", ":0", expect=UNSUPPORTED).words)

    def test_a_script_with_an_error_names_the_line(self):
        script = self.file("s", 'send "a"\nsend b\n')
        self.assertIn("line 2", self.tool("run", *ECHO, "--console", f"script:{script}", expect=BAD_ARGUMENTS).words)
        self.assertIn("nowhere", self.tool("run", *ECHO, "--console", "script:/nowhere", expect=FAILED).words)


class BadImages(support.Case):
    def expect(self, word, *arguments, code=BAD_IMAGE):
        for command in (["run"], ["record", "-o", self.path("t.trace")]):
            result = self.tool(*command, *arguments, "--console", "none", "--timeout", "30", expect=code)
            self.assertIn(word, result.words)
            self.assertFalse(os.path.exists(self.path("t.trace")), "a trace of nothing was begun")

    def test_files_that_cannot_be_read(self):
        self.expect("/nowhere", "--kernel", "/nowhere", code=FAILED)
        self.expect(self.folder, "--kernel", self.folder)

    def test_not_a_kernel(self):
        self.expect("", "--kernel", self.file("empty", b""))
        self.expect("", "--kernel", self.file("text", b"#!/bin/sh\necho hello\n" * 1000))
        self.expect("", "--kernel", self.file("noise", random.Random(1).randbytes(100_000)))
        self.expect("", "--kernel", "/bin/sh")

    def test_a_truncated_kernel(self):
        arguments = linux()
        with open(arguments[1], "rb") as file:
            kernel = file.read()
        for size in (100, 0x1f1, 0x202, 0x260, 1024, 20_000, len(kernel) // 2, len(kernel) - 1_000_000):
            self.expect("", "--kernel", self.file("cut", kernel[:size]))

    def test_an_initrd_larger_than_ram(self):
        arguments = linux(memory="96M")
        initrd = self.path("big")
        with open(initrd, "wb") as file:
            file.truncate(97 << 20)
        arguments[3] = initrd
        self.expect("initrd", *arguments)
        arguments = linux(memory="96M")
        with open(initrd, "wb") as file:
            file.truncate(90 << 20)
        arguments[3] = initrd
        self.expect("initrd", *arguments)

    def test_a_bad_image_leaves_an_older_trace_alone(self):
        self.file("t.trace", "precious")
        self.tool("record", "--kernel", self.file("empty", b""), "-o", self.path("t.trace"), expect=BAD_IMAGE)
        self.assertEqual(self.file_content("t.trace"), b"precious")


class BadTraces(support.Case):
    def make(self):
        script = self.file("s", 'after "ready> " send "hello" wait 2ms send "Q"')
        recorded = self.record(*ECHO, "--console", f"script:{script}", "--digest-interval", "100k")
        return recorded, self.file_content("t.trace")

    def expect(self, content, code=BAD_TRACE):
        name = self.file("bad.trace", content)
        words = self.tool("trace", "verify", name, expect=code).words
        self.tool("trace", "info", name, expect=code)
        self.tool("trace", "dump", name, "--limit", "5", expect=(code, FINE))
        replay = self.tool("replay", name, "--quiet", expect=code).words
        return words + replay

    def test_what_is_no_trace(self):
        for content in (b"", b"x", b"\x7fELF", b"\0" * 4096, random.Random(1).randbytes(5000), b"a text\n" * 100):
            self.expect(content)
        self.assertIn("/nowhere", self.tool("trace", "verify", "/nowhere", expect=FAILED).words)
        self.tool("trace", "verify", self.folder, expect=(FAILED, BAD_TRACE))

    def test_any_flipped_byte_is_seen(self):
        _, good = self.make()
        generator = random.Random(support.seed())
        # All of the header's beginning, then a sample; the reader's own unit tests flip every byte of a trace.
        for offset in [*range(64), *(generator.randrange(len(good)) for _ in range(150))]:
            bad = bytearray(good)
            bad[offset] ^= 1 << generator.randrange(8)
            name = self.file("bad.trace", bytes(bad))
            result = self.tool("trace", "verify", name, expect=(BAD_TRACE, UNSUPPORTED))
            self.assertNotEqual(result.words, "")

    def test_a_damaged_key_frame_is_named_with_its_offset(self):
        self.record(*ECHO, "--deterministic", "--stop-at", "1M", "--key-frames", "300k")
        good = self.file_content("t.trace")
        frames = [support.json.loads(line) for line in
                  self.tool("trace", "dump", self.path("t.trace"), "--kind", "key-frame", "--json").stdout.splitlines()]
        self.assertEqual([frame["position"] for frame in frames], [300_000, 600_000, 900_000])
        self.assertFalse(frames[0]["delta"])
        for frame in frames:
            begin, size = frame["file_offset"], frame["file_size"]
            for offset in (begin + 40, begin + size // 2, begin + size - 1):
                bad = bytearray(good)
                bad[offset] ^= 8
                words = self.expect(bytes(bad))
                self.assertIn("file offset", words)
                self.assertIn("damaged", words)
                name = self.path("bad.trace")
                for arguments in (["--from", "1M"], ["--from", "100k"], ["--no-checks"]):
                    self.assertIn("file offset", self.tool("replay", name, "--quiet", *arguments, expect=BAD_TRACE).words)

    def test_cut_at_every_byte_of_the_last_chunk_it_is_whole_up_to_there(self):
        recorded, good = self.make()
        whole = support.json.loads(self.tool("trace", "verify", self.path("t.trace"), "--json").stdout)
        self.assertTrue(whole["complete"])
        sizes = set()
        for size in range(len(good) - 1, 0, -1):
            name = self.file("cut.trace", good[:size])
            verified = support.json.loads(self.tool("trace", "verify", name, "--json").stdout)
            self.assertFalse(verified["complete"])
            sizes.add(verified["whole_size"])
            if len(sizes) > 1:  # the last chunk is gone altogether
                break
            self.tool("trace", "verify", "--complete", name, expect=BAD_TRACE)
        cut = self.summary("replay", name, "--quiet")
        self.assertLessEqual(cut["instructions"], recorded["instructions"])

    def test_a_trace_of_another_kernel_file(self):
        self.make()
        other = self.file("other", self.read_guest() + b"\0")
        for command in (["replay"], ["gdb", "--stdio"], ["dev", "block", "--at", "7"], ["symbols", "-o", self.path("s")]):
            words = self.tool(*command, self.path("t.trace"), "--kernel", other, expect=BAD_IMAGE).words
            self.assertIn("does not belong to this kernel", words)
            self.assertIn(f"({other})", words, "the file that was read, not the one that was recorded")
            words = self.tool(*command, self.path("t.trace"), "--kernel", "/nowhere", expect=FAILED).words
            self.assertIn("cannot open /nowhere: No such file or directory (--kernel)", words)
            self.assertNotIn("say with", words, "it was said")
        self.assertIn("6 bad kernel or initrd", self.tool("replay", "--help").stdout.decode())

    def test_an_image_that_the_recording_had_not_is_no_image_of_it(self):
        self.make()
        for option, words in (("--initrd", "was recorded without an initrd (--initrd)"), ("--module", "was recorded with 0 modules (--module)")):
            self.assertIn(words, self.tool("replay", self.path("t.trace"), option, ECHO[1], expect=BAD_ARGUMENTS).words)

    def test_a_replay_cannot_begin_behind_the_end(self):
        recorded, good = self.make()
        end = recorded["instructions"]
        def refused(name, last):
            for position in (last + 1, 10 ** 12):
                result = self.tool("replay", self.path(name), "--from", str(position), expect=BAD_ARGUMENTS)
                self.assertIn(f" ends at {last:,} (--from {position})".replace(",", " "), result.words)
                self.assertEqual(result.stdout, b"", "nothing was replayed")
        refused("t.trace", end)
        self.tool("replay", self.path("t.trace"), "--from", str(end))
        self.file("cut.trace", good[:len(good) - 1])
        refused("cut.trace", support.json.loads(self.tool("trace", "info", self.path("cut.trace"), "--json").stdout)["instructions"])
        words = self.tool("replay", self.path("t.trace"), "--from", "1k", "--stop-at", "999", expect=BAD_ARGUMENTS).words
        self.assertIn("behind --stop-at 999 (--from 1k)", words)

    def test_a_kernel_that_moved_is_taken_from_where_it_is_said_to_be(self):
        self.make()
        self.tool("replay", self.path("t.trace"), "--quiet", "--kernel", self.file("moved", self.read_guest()))

    def read_guest(self):
        with open(ECHO[1], "rb") as file:
            return file.read()


class Streams(support.Case):
    def test_closed_standard_descriptors_do_not_end_up_in_the_trace(self):
        script = self.file("s", 'after "ready> " send "hello" wait 2ms send "Q"')
        how = [*ECHO, "--deterministic", "--console", f"script:{script}", "--digest-interval", "100k"]
        expected = self.record(*how)
        for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
            command = f'exec "$0" "$@" {closed}'
            trace = self.path("closed.trace")
            done = support.subprocess.run(["sh", "-c", command, support.TOOL, "record", *how, "-o", trace], capture_output=True)
            self.assertEqual(done.returncode, FINE, closed)
            replayed = self.replay(trace="closed.trace")
            self.assert_same_run(expected, replayed)

    def test_a_reader_that_goes_away_ends_the_recording_cleanly(self):
        trace = self.path("t.trace")
        script = self.file("s", 'after "ready> " ' + 'wait 50ms send "hello world" ' * 100 + 'send "B"')
        command = [support.TOOL, "record", *ECHO, "--time", "real", "--console", f"script:{script}", "-o", trace]
        process = support.subprocess.Popen(command, stdout=support.subprocess.PIPE, stderr=support.subprocess.PIPE)
        process.stdout.read(5)
        process.stdout.close()
        with process.stderr:
            words = process.stderr.read().decode()
        self.assertEqual(process.wait(60), FINE, words)
        self.assertIn("output closed", words)
        self.tool("trace", "verify", "--complete", trace)
        self.tool("replay", trace, "--quiet")

    def test_reports_are_json(self):
        self.record(*ECHO, "--deterministic", "--stop-at", "1M")
        trace = self.path("t.trace")
        info = support.json.loads(self.tool("trace", "info", trace, "--json").stdout)
        self.assertEqual(info["instructions"], 1_000_000)
        self.assertTrue(info["complete"])
        for line in self.tool("trace", "dump", trace, "--json").stdout.splitlines():
            self.assertIn("position", support.json.loads(line))
        doctor = support.json.loads(self.tool("doctor", "--json").stdout)
        self.assertEqual(doctor["auto"], "soft")
        self.assertGreater(doctor["engines"]["soft"]["million_instructions_per_second"], 1)
        self.assertIn(b"retrovisor 0.", self.tool("--version").stdout)


if __name__ == "__main__":
    support.main()
