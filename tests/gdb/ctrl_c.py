"""Ctrl-C through real gdb at random moments of every kind of long operation: each gets the prompt back, none is lost, and
the answers fit the questions afterwards.

  RETROVISOR=... GDB_GUESTS=... tests/gdb/ctrl_c.py 500     prints the distribution of the answers' times
"""
import os
import pty
import random
import re
import select
import signal
import statistics
import subprocess
import sys
import time
import tty

from support import GDB, GUESTS, RDTSC, SPIN, Case, main

PROMPT = "(gdb) "
BOUND = 20  # seconds for one answer: a noisy machine does not fail this test, a lost interrupt does


class Terminal:
    """gdb at a terminal of its own."""

    def __init__(self, *arguments):
        master, slave = pty.openpty()
        tty.setraw(slave)
        self.process = subprocess.Popen([GDB, "-nx", "-q", *arguments], stdin=slave, stdout=slave, stderr=slave,
                                        start_new_session=True, env=dict(os.environ, TERM="dumb"))
        os.close(slave)
        self.master = master
        self.text = ""

    def read(self, timeout):
        """Until the prompt; what came before it."""
        end = time.monotonic() + timeout
        while not self.text.endswith(PROMPT):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                raise AssertionError(f"no prompt in {timeout} s behind:\n{self.text[-3000:]}")
            try:
                self.text += os.read(self.master, 65536).decode(errors="replace")
            except OSError as e:
                raise AssertionError(f"gdb has ended: {self.text[-3000:]}") from e
        text, self.text = self.text[:-len(PROMPT)], ""
        return text

    def send(self, line):
        os.write(self.master, line.encode() + b"\n")

    def ask(self, line, timeout=60):
        self.send(line)
        return self.read(timeout)

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def close(self):
        if self.master is None:
            return
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        self.master = None


class CtrlC(Case):
    # What takes long, from the middle of the recording: what is said before, the operation, and how long a moment may be chosen in.
    # Each takes several times as long. (What has been run through once is near a checkpoint from then on: the moments of those that
    # go through all of the recording are short, so that they never come to its end.)
    OPERATIONS = {
        "continue": ([], "continue", 0.4),
        "continue with a condition that is false": (["enable 1"], "continue", 0.6),
        "reverse-continue": (["break *0x100000"], "reverse-continue", 0.2),
        "reverse-continue with a condition that is false": (["enable 1"], "reverse-continue", 0.6),
        "watchpoint": (["watch *(long*)0x180000 if $rcx == 1"], "continue", 0.6),
        "physical watch": (["monitor watch phys 0x180100 8"], "continue", 0.6),
        "stepi": ([], "stepi 1000000", 0.6),
        "reverse-stepi": ([], "reverse-stepi 1000000", 0.6),
        "next": ([f"symbol-file {os.path.join(GUESTS, 'spin.elf')}"], "next", 0.6),
        "until": ([], "until *0x100000", 0.4),
        "live": (["monitor go-live"], "continue", 0.3),
        "monitor last-write": ([], "monitor last-write 0x180100", 0.6),
        "monitor last-write --linear": ([], "monitor last-write 0x180100 8 --linear", 0.6),
        "monitor checkpoints make": ([], "monitor checkpoints make", 0.1),
        "monitor seek": ([], "monitor seek end", 0.1),
        "monitor kaslr": ([], "monitor kaslr", 0.3),
        "monitor events": ([], "monitor events around end", 0.1),
    }
    COUNT = 60
    ATTEMPTS_OF_A_SERVER = 100

    def setUp(self):
        super().setUp()
        if GDB is None:
            self.skipTest("there is no gdb here")
        seed = int(os.environ.get("STRESS_SEED", random.randrange(1 << 32)))
        print("STRESS_SEED =", seed)
        self.random = random.Random(seed)

    def test_each_interrupt_ends_what_runs_and_none_is_lost(self):
        spin = self.record(*SPIN, "--stop-at", os.environ.get("CTRL_C_LENGTH", "3000M"))
        # Of events alone: looking through the trace takes long, not running it.
        events = self.record(*RDTSC, "--journal", "full", "--stop-at", "10M", name="events.trace")
        times = {name: [] for name in self.OPERATIONS}
        attempts = dict.fromkeys(self.OPERATIONS, 0)
        done = attempt = 0
        while done < self.COUNT:
            name = list(self.OPERATIONS)[attempt % len(self.OPERATIONS)]
            if attempt % self.ATTEMPTS_OF_A_SERVER == 0:
                terminals = [self.connected(spin), self.connected(events)]
            self.terminal = terminals[name == "monitor events"]
            attempts[name] += 1
            attempt += 1
            self.assertLess(attempt, 4 * self.COUNT + 40, "most operations are over before they are interrupted")
            took = self.one(*self.OPERATIONS[name], name)
            if took is not None:  # else it was over before
                times[name].append(took)
                done += 1
            if attempt % self.ATTEMPTS_OF_A_SERVER == 0 or done == self.COUNT:
                for gdb in terminals:
                    self.assertIn("position", gdb.ask("monitor position"))
                    self.assertIn("detach", gdb.ask("detach").lower())
                    gdb.close()
        self.tell(times, attempts)
        if self.COUNT >= 3 * len(self.OPERATIONS):
            self.assertEqual([name for name, some in times.items() if not some], [], "never interrupted")

    def connected(self, trace):
        server = self.serve(trace, "--checkpoint-memory", "64M")
        gdb = Terminal()
        self.addCleanup(gdb.close)
        gdb.read(60)
        for line in ("set pagination off", "set confirm off", "set width 0", "set debuginfod enabled off",
                     f"target remote {server.address}", "break *0x100002 if $rcx == 1", "disable"):
            gdb.ask(line)
        return gdb

    def one(self, before, command, longest, name):
        gdb = self.terminal
        middle = self.random.randrange(400_000_000, 600_000_000) if name != "monitor events" else self.random.randrange(5_000_000)
        gdb.ask(f"monitor seek {middle}")
        gdb.ask("maintenance flush register-cache")
        for line in before:
            gdb.ask(line)
        gdb.send(command)
        time.sleep(self.random.random() * longest + 0.02)
        if gdb.text == "" and select.select([gdb.master], [], [], 0)[0]:
            gdb.text += os.read(gdb.master, 65536).decode(errors="replace")
        over = gdb.text.endswith(PROMPT)
        begin = time.monotonic()
        if not over:
            gdb.interrupt()
        said = gdb.read(BOUND)
        took = time.monotonic() - begin
        if not over and not re.search("SIGINT|Quit|interrupted", said):
            over = True  # it ended at that moment, by itself
            self.settle(gdb)
        gdb.ask("disable")
        gdb.ask("delete 2-10000")
        for line in ("monitor go-live off", "monitor watch off", "symbol-file"):
            gdb.ask(line)
        self.in_step(gdb, name, said)
        return None if over else took

    def settle(self, gdb):
        """An interrupt may be on its way still: the next run ends by it."""
        gdb.ask("stepi")

    def in_step(self, gdb, name, said):
        """Answers fit their questions."""
        where = self.random.randrange(1000, 2_000_000)
        answers = [gdb.ask(f"monitor seek {where}"), gdb.ask("monitor break-on"), gdb.ask("monitor position")]
        grouped = f"{where:,}".replace(",", "'")
        for answer, wanted in zip(answers, (f"position {grouped} of", "stops on breakpoints", f"position {grouped} of")):
            self.assertIn(wanted, answer, f"after {name}: {said[-500:]!r}, {answers}")
        gdb.ask("maintenance flush register-cache")
        self.assertRegex(gdb.ask("stepi"), r"0x0*1000[01]")
        gdb.ask("maintenance flush register-cache")
        self.assertRegex(gdb.ask("print/x $pc"), r"= 0x1000[01]")
        grouped = f"{where + 1:,}".replace(",", "'")
        self.assertIn(f"position {grouped} of", gdb.ask("monitor position"), f"after {name}: {said[-500:]!r}")

    @staticmethod
    def tell(times, attempts):
        all_times = sorted(t for some in times.values() for t in some)
        for name, some in times.items():
            if some:
                print(f"{name:<50}{len(some):4}  median {statistics.median(some) * 1e3:5.0f} ms, longest {max(some) * 1e3:5.0f} ms, "
                      f"{len(some)} of {attempts[name]} attempts")
        ranks = ", ".join(f"{p} %: {all_times[min(len(all_times) * p // 100, len(all_times) - 1)] * 1e3:.0f} ms" for p in (50, 90, 99))
        print(f"{len(all_times)} interrupts, none lost: {ranks}, longest {all_times[-1] * 1e3:.0f} ms")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[-1].isdigit():
        CtrlC.COUNT = int(sys.argv.pop())
    main()
