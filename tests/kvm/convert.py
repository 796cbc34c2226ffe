#!/usr/bin/env python3
"""Traces recorded under KVM, and what `retrovisor trace convert` makes of them. Golden: those of traces/golden, without KVM.
Recorded: fresh ones of every guest; SKIPPED without /dev/kvm. From the environment: RETROVISOR, KVM_GUESTS (the folder with
the guests, assembled), TIMELINE_CHECK."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
os.environ.setdefault("GDB_GUESTS", os.environ["KVM_GUESTS"])
sys.path.insert(0, os.path.join(HERE, "..", "gdb"))
sys.path.insert(0, HERE)
import golden  # noqa: E402
import recordings  # noqa: E402
import support  # noqa: E402

TOOL = os.environ["RETROVISOR"]
GUEST = ["--flat-address", "0x7c00", "--flat-mode", "real16", "--memory", "64M"]
FINE, FAILED, BAD_ARGUMENTS, DIVERGENCE, BAD_TRACE, BAD_IMAGE, UNSUPPORTED = 0, 1, 2, 3, 4, 6, 7


class Case(support.Case):
    def tool(self, *words, expect=FINE, **options):
        result = subprocess.run([TOOL, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, **options)
        result.words = result.stderr.decode(errors="replace")
        self.assertEqual(result.returncode, expect, f"{' '.join(words)}\n{result.words}")
        return result

    def summary(self, *words):
        name = self.path("summary.json")
        output = self.tool(*words, "--json-summary", name).stdout
        with open(name) as file:
            summary = json.load(file)
        return {**{k: summary[k] for k in ("stop", "stop_detail", "state", "guest_time_ns")}, "output": output}, summary

    def info(self, trace):
        return json.loads(self.tool("trace", "info", trace, "--json").stdout)

    def convert(self, trace, kernel, name="exact.trace"):
        """Converts; the result says that it is the same run."""
        out = self.path(name)
        words = self.tool("trace", "convert", trace, "-k", kernel, "-o", out).words
        self.assertRegex(words, r"instructions, all [\d ]+ digests and [\d ]+ journal events were equal")
        before, after = self.info(trace), self.info(out)
        self.assertEqual((before["header"]["positions"], after["header"]["positions"]), ("events", "instructions"))
        self.assertEqual((before["header"]["time_source"], after["header"]["time_source"]), ("events", "events"))
        self.assertEqual(after["header"]["options"]["converted-from"], before["header"]["engine"])
        self.assertEqual(after["events"], before["events"])
        self.assertTrue(after["complete"])
        self.tool("trace", "verify", "--complete", out)
        one, _ = self.summary("replay", trace, "-k", kernel, "--engine", "soft")
        two, whole = self.summary("replay", out, "-k", kernel)
        # A run that was stopped behind a landing is, to the instruction, one that the host has stopped.
        if (one["stop"], two["stop"]) == ("position reached", "host request"):
            two["stop"] = one["stop"]
        self.assertEqual(one, two)
        self.assertGreater(whole["instructions"], before["instructions"])
        return out

    def content(self, path):
        with open(path, "rb") as file:
            return file.read()


class Golden(Case):
    def each(self):
        for vendor, name, trace, kernel in golden.traces():
            if name in ("mini_kernel", "spin"):  # those with landings
                with self.subTest(name, vendor=vendor):
                    yield name, trace, kernel

    def test_replays_on_the_soft_engine_with_every_digest_equal(self):
        for name, trace, kernel in self.each():
            info = self.info(trace)
            replayed, summary = self.summary("replay", trace, "-k", kernel)
            self.assertRegex(replayed["output"], golden.GUESTS[name][1])
            self.assertGreater(info["events"]["landing"], 10)
            self.assertRegex(summary["remarks"][-1], rf"the recorded run: {info['digests']} digests")

    def test_converts_to_the_same_bytes_each_time(self):
        for _, trace, kernel in self.each():
            one, two = self.convert(trace, kernel), self.convert(trace, kernel, "again.trace")
            self.assertEqual(self.content(one), self.content(two))

    def test_every_position_of_the_converted_trace_has_one_state(self):
        for name, trace, kernel in self.each():
            exact = self.convert(trace, kernel)
            result = subprocess.run([os.environ["TIMELINE_CHECK"], exact, kernel, os.devnull, "12", "8"],
                                    capture_output=True, timeout=60)
            self.assertEqual(result.returncode, 0, f"{name}: {result.stdout}{result.stderr}")

    def test_gdb_walks_the_converted_trace_in_both_directions(self):
        trace, kernel = next((trace, kernel) for _, name, trace, kernel in golden.traces() if name == "mini_kernel")
        server = self.serve(self.convert(trace, kernel), "-k", kernel)
        # In the timer's handler: INC [ticks]; MOV RAX, [RSP + SAVED_RIP].
        found = re.search(rb"\xff\x04\x25(....)\x48\x8b[\x44\x84]\x24", self.content(kernel), re.DOTALL)
        handler, ticks = 0x7c00 + found.start(), int.from_bytes(found.group(1), "little")
        out = self.gdb(server, "stepi", "stepi", "p/x $pc", "reverse-stepi", "p/x $pc", "reverse-stepi",
                       f"hbreak *{handler:#x}", "continue", "p/x $pc", "continue", f"p *(int*){ticks:#x}",
                       "reverse-continue", f"p *(int*){ticks:#x}", "monitor position", "delete", "monitor seek end",
                       "maintenance flush register-cache", "monitor position", f"watch *(int*){ticks:#x}",
                       "reverse-continue", "monitor position", f"monitor last-write {ticks:#x} 4",
                       "monitor events interrupt", "delete", "monitor seek begin", "maintenance flush register-cache",
                       "monitor position", "p/x $pc")
        self.assert_order(out, r"\$1 = 0x7c02", r"\$2 = 0x7c01", rf"breakpoint 1 at {handler:#x}", r"\$3 = " + hex(handler),
                          r"\$4 = 1\n", r"\$5 = 0\n", r"position [\d']+ of", r"position ([\d']+) of 0\.\.\1",
                          r"watchpoint 2", r"Old value = (\d+)", r"New value = \d+", r"position [\d']+ of",
                          rf"wrote 4 bytes to {ticks:#x}", r"interrupt vector 0x20 from PIC", r"position 0 of",
                          r"\$6 = 0x7c00")
        old, new = (int(re.search(rf"{word} value = (\d+)", out).group(1)) for word in ("Old", "New"))
        self.assertEqual({abs(old - new)}, {1})

    def test_a_debugger_is_told_to_convert_first(self):
        for _, trace, kernel in self.each():
            self.assertIn("retrovisor trace convert", self.tool("gdb", trace, "-k", kernel, expect=UNSUPPORTED).words)

    def test_what_cannot_be_converted_is_refused_and_leaves_nothing_behind(self):
        trace, kernel = next((trace, kernel) for _, name, trace, kernel in golden.traces() if name == "spin")
        exact, out = self.convert(trace, kernel), self.path("out.trace")

        def refuse(source, code, words, output=out, image=kernel):
            said = self.tool("trace", "convert", source, "-k", image, "-o", output, expect=code).words
            self.assertRegex(said, words)
            self.assertFalse(os.path.exists(out) or os.path.exists(out + ".partial"))

        refuse(exact, BAD_ARGUMENTS, "exact to the instruction already")
        refuse(trace, BAD_IMAGE, "does not belong to this kernel", image=kernel.replace("spin", "mini_kernel"))
        refuse(trace, FAILED, "cannot write .*: No such file or directory", output=self.path("nowhere/out.trace"))
        refuse(trace, FAILED, "cannot write .*: Is a directory", output=self.folder)
        refuse(trace, FAILED, "No space left on device", output="/dev/full")
        refuse(self.path("missing.trace"), FAILED, "cannot open the trace")
        copy = shutil.copy(trace, self.path("copy.trace"))
        os.symlink(copy, self.path("link.trace"))
        for output in (copy, self.path("link.trace")):
            refuse(copy, BAD_ARGUMENTS, "--output and TRACE are the same file", output=output)
        self.assertEqual(self.content(copy), self.content(trace))
        damaged = bytearray(self.content(trace))
        damaged[len(damaged) // 2] ^= 1
        with open(copy, "wb") as file:
            file.write(damaged)
        refuse(copy, BAD_TRACE, "damaged chunk.*file offset")

    def test_incomplete_trace_becomes_an_incomplete_one(self):
        trace, kernel = next((trace, kernel) for _, name, trace, kernel in golden.traces() if name == "spin")
        cut, out = self.path("cut.trace"), self.path("out.trace")
        with open(cut, "wb") as file:
            file.write(self.content(trace)[:-1])
        self.assertIn("incomplete (no end marker)", self.tool("trace", "convert", cut, "-k", kernel, "-o", out).words)
        self.tool("trace", "verify", "--complete", out, expect=BAD_TRACE)
        self.tool("replay", out, "-k", kernel)


class Recorded(Case):
    def setUp(self):
        super().setUp()
        reason = recordings.unusable()
        if reason:
            self.skipTest(reason)

    def record_kvm(self, guest, *options, codes=(FINE,), console="none"):
        trace, kernel = self.path("t.trace"), os.path.join(recordings.GUESTS, guest + ".bin")
        words = [TOOL, "record", "--engine", "kvm", "--kernel", kernel, *GUEST, "--console", console, "-o", trace, *options]
        result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        self.assertIn(result.returncode, codes, result.stderr.decode(errors="replace"))
        return trace, kernel, result.stdout

    def test_each_guest_converts_to_the_same_run(self):
        with open(self.path("script"), "w") as file:
            file.write('after "ready> " send "abc"\nwait 3ms send "dpi"\nwait 2ms send "Q"\n')
        for guest, printed in recordings.ALWAYS.items():
            # A digest behind every event: landings, too.
            full = ["--journal", "full", "--digest-interval", "1", "--digest-detail", "sums"]
            for options in (full, ["--journal", "none"]):
                with self.subTest(guest, options=options):
                    console = "script:" + self.path("script") if guest == "input" else "none"
                    trace, kernel, output = self.record_kvm(guest, *options, console=console)
                    self.assertRegex(output, printed)
                    self.assertEqual(self.tool("replay", self.convert(trace, kernel)).stdout, output)

    def test_recording_that_was_cut_short_converts(self):
        for guest, options in (("spin", ["--stop-at", "40"]), ("spin", ["--stop-at", "41"]), ("spin", ["--stop-at", "42"]),
                               ("mini_kernel", ["--timeout", "0.1"]), ("spin_user", ["--timeout", "0.05"])):
            with self.subTest(guest, options=options):
                trace, kernel, _ = self.record_kvm(guest, *options, codes=(FINE, 124))
                self.convert(trace, kernel)

    def test_interrupted_conversion_leaves_a_trace_without_an_end(self):
        trace, _, _ = self.record_kvm("mini_kernel")
        out = self.path("out.trace")
        for delay in (0.002, 0.005, 0.01, 0.02):
            for name in (out, out + ".partial"):
                if os.path.exists(name):
                    os.unlink(name)
            process = subprocess.Popen([TOOL, "trace", "convert", trace, "-o", out], stderr=subprocess.PIPE)
            while not os.path.exists(out + ".partial") and process.poll() is None:
                time.sleep(0.0005)
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            words = process.communicate(timeout=30)[1].decode(errors="replace")
            if process.returncode == FINE:  # it was faster
                self.tool("trace", "verify", "--complete", out)
                continue
            self.assertIn(process.returncode, (FAILED, -signal.SIGINT), words)
            self.assertFalse(os.path.exists(out))
            if process.returncode == FAILED:
                self.assertIn("without an end", words)
            self.assertNotEqual(subprocess.run([TOOL, "trace", "verify", "--complete", out], capture_output=True,
                                               timeout=60).returncode, FINE)


if __name__ == "__main__":
    support.main()
