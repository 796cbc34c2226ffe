#!/usr/bin/env python3
"""Guests that wait: for input that cannot come any more, and without a word."""
import concurrent.futures
import gzip
import struct
import subprocess
import time

import support
from support import BAD_ARGUMENTS, ECHO, FINE

IDLE = 8
# echo.asm's timer ticks 100 times a second and gives it little to do.
LIMIT = ["--idle-limit", "6s", "--timeout", "200"]


class Waiting(support.Case):
    def assert_ended(self, run, seconds, words):
        self.assertEqual((run["stop"], run["host_cause"]), ("host request", "idle"))
        self.assertGreaterEqual(run["guest_time_ns"], seconds * 10**9)
        self.assertLess(run["guest_time_ns"], (2 * seconds + 3) * 10**9)
        self.assertIn(words, self.words)

    def tool(self, *arguments, **options):
        result = super().tool(*arguments, **options)
        self.words = result.words
        return result

    def test_when_no_input_can_come_an_idle_guest_is_ended(self):
        script = self.file("s", 'after "ready> " wait 2s send "abc"')
        one = self.record(*ECHO, "--deterministic", "--console", f"script:{script}", *LIMIT, expect=IDLE)
        self.assert_ended(one, 8, "the script " + script + " is over and the guest waits")
        two = self.summary("run", *ECHO, "--deterministic", "--console", f"script:{script}", *LIMIT, expect=IDLE)
        self.assert_same_run(one, two)
        self.assert_replays(one)
        self.assert_ended(self.summary("run", *ECHO, "--console", "none", *LIMIT, expect=IDLE), 6, "there is no input")
        self.assert_ended(self.summary("run", *ECHO, *LIMIT, expect=IDLE), 6, "standard input is at its end")
        script = self.file("s", '\nafter "never said" send "abc"')
        waits = self.summary("run", *ECHO, "--console", f"script:{script}", *LIMIT, expect=IDLE)
        self.assert_ended(waits, 6, "waits in line 2")

    def test_what_is_still_to_come_is_waited_for(self):
        script = self.file("s", 'after "ready> " wait 20s send "Q"')
        run = self.summary("run", *ECHO, "--console", f"script:{script}", *LIMIT)
        self.assertEqual(run["stop"], "debug exit")
        script = self.file("s", 'after "ready> " wait 60_000_000 send "Q"')  # instructions: some 16 s of an idle guest's time
        run = self.summary("run", *ECHO, "--console", f"script:{script}", *LIMIT)
        self.assertEqual(run["stop"], "debug exit")

    def test_a_guest_that_computes_is_not_idle(self):
        script = self.file("s", 'after "ready> " send "B"')
        run = self.summary("run", *ECHO, "--console", f"script:{script}", "--idle-limit", "1s", "--stop-at", "1500M")
        self.assertEqual(run["stop"], "position reached")

    def test_none_means_none(self):
        run = self.summary("run", *ECHO, "--console", "none", "--idle-limit", "none", "--stop-at", "300M")
        self.assertEqual(run["stop"], "position reached")
        self.assertGreater(run["guest_time_ns"], 30 * 10**9)
        for bad in ("", "5", "0s", "1.5h", "-1s", "forever", "99999999999d"):
            self.assertIn("--idle-limit", self.tool("run", *ECHO, "--idle-limit", bad, expect=BAD_ARGUMENTS).words)

    def test_while_the_host_may_type_an_idle_guest_keeps_to_real_time(self):
        name = self.path("s.json")
        process = subprocess.Popen([support.TOOL, "record", *ECHO, "--time", "virtual", "--idle-limit", "10s", "-o", self.path("t.trace"),
                                    "--json-summary", name, "--timeout", "200"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        line = process.stderr.readline()
        self.assertIn(b"idle waits take as long as they say", line)
        time.sleep(2)
        process.stdin.write(b"Q")
        process.stdin.flush()
        output, words = process.communicate(timeout=100)
        self.assertEqual(process.returncode, FINE, words)
        with open(name) as file:
            run = support.json.load(file)
        self.assertEqual(run["stop"], "debug exit")
        self.assertLess(run["guest_time_ns"], 60 * 10**9, "two seconds of the host were far more of the guest's")
        run["output"] = output
        self.assert_replays(run)

    def test_silence_without_a_console_is_explained_once(self):
        silent = self.file("silent", bytes([0xeb, 0xfe]))  # jmp $
        elf = self.pvh(silent)
        words = self.tool("run", "--kernel", elf, "--memory", "64M", "--console", "none", "--timeout", "8",
                          expect=support.TIME_LIMIT).words
        self.assertEqual(words.count("--append console=ttyS0"), 1)
        for arguments in (["--kernel", elf, "--memory", "64M", "--append", "console=ttyS0"],
                          ["--kernel", silent, "--flat-address", "0x100000", "--flat-mode", "protected32", "--memory", "16M"]):
            words = self.tool("run", *arguments, "--console", "none", "--timeout", "7", expect=support.TIME_LIMIT).words
            self.assertNotIn("console=ttyS0", words)

    def test_silence_is_explained_by_what_the_guest_is(self):
        multiboot = struct.pack("<8I", 0x1badb002, 0x10000, -0x1badb002 - 0x10000 & 0xffffffff, 0x100000, 0x100000, 0, 0, 0x100020)
        sector = bytes([0xeb, 0xfe]).ljust(510, b"\0") + b"\x55\xaa"
        cases = (("sector", sector, "takes no command line", "--append"),
                 ("multiboot", multiboot + bytes([0xeb, 0xfe]), "if it is Linux", "the command line has no console="),
                 ("packed", gzip.compress(multiboot + bytes([0xeb, 0xfe])), "if it is Linux", "the command line has no console="))

        def words_of(case):
            return self.tool("run", "--kernel", self.file(case[0], case[1]), "--memory", "64M", "--console", "none", "--timeout", "8",
                             expect=support.TIME_LIMIT).words

        with concurrent.futures.ThreadPoolExecutor() as pool:
            for (name, _, said, not_said), words in zip(cases, pool.map(words_of, cases)):
                with self.subTest(name):
                    self.assertEqual(words.count("no output so far"), 1)
                    self.assertIn(said, words)
                    self.assertNotIn(not_said, words)

    def pvh(self, code):
        """The code as an ELF kernel with a PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY)."""
        with open(code, "rb") as file:
            text = file.read()
        note = struct.pack("<III4sII", 4, 4, 18, b"Xen\0", 0x100000, 0)[:20]
        header_size, segment = 64, 56
        note_at = header_size + 2 * segment
        text_at = 0x1000
        elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0x100000, header_size, 0, 0, header_size, segment,
                          2, 64, 0, 0)
        elf += struct.pack("<IIQQQQQQ", 1, 5, text_at, 0x100000, 0x100000, len(text), len(text), 0x1000)
        elf += struct.pack("<IIQQQQQQ", 4, 4, note_at, 0, 0, len(note), len(note), 4)
        elf += note
        return self.file("elf", elf.ljust(text_at, b"\0") + text)


if __name__ == "__main__":
    support.main()
