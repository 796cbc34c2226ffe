#!/usr/bin/env python3
"""The interactive console: recordings made by typing on a terminal replay; the terminal is given back on every way out."""
import os
import pty
import select
import signal
import subprocess
import termios
import time
import unittest

import support
from support import ECHO, FINE, linux


class Terminal:
    """The tool on a pseudo terminal of its own, with standard output on it too."""

    def __init__(self, *arguments):
        try:
            self.master, self.slave = pty.openpty()
        except OSError as error:
            raise unittest.SkipTest(f"this host gives no pseudo terminals: {error}")
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen([support.TOOL, *arguments], stdin=self.slave, stdout=self.slave, stderr=self.slave,
                                        start_new_session=True)
        self.seen = b""

    def wait_for(self, text, seconds=120):
        """Reads on until `text` has come after what was waited for before."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            if not self.read(end - time.monotonic()):
                raise AssertionError(f"{text!r} did not come; the last was {self.seen[-2000:]!r}")
        self.seen = self.seen[self.seen.index(text) + len(text):]

    def read(self, seconds):
        ready, _, _ = select.select([self.master], [], [], max(seconds, 0))
        if not ready:
            return False
        self.seen += os.read(self.master, 65536)
        return True

    def type(self, keys):
        os.write(self.master, keys)

    def end(self, seconds=60):
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.05)
        if self.process.poll() is None:
            self.process.kill()
            raise AssertionError(f"the tool did not end; the last was {self.seen[-2000:]!r}")
        while self.read(0):
            pass
        return self.process.returncode

    def is_raw(self):
        return termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG) == 0

    def given_back(self):
        return termios.tcgetattr(self.slave) == self.before

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


class OnTerminal(support.Case):
    def terminal(self, *arguments):
        terminal = Terminal(*arguments)
        self.addCleanup(terminal.close)
        return terminal


class Interactive(OnTerminal):
    def record_on_terminal(self, *guest):
        self.name = self.path("s.json")
        return self.terminal("record", *guest, "-o", self.path("t.trace"), "--json-summary", self.name)

    def recorded(self):
        with open(self.name) as file:
            return support.json.load(file)

    def assert_replays_state(self, recorded):
        replayed = self.replay()
        for what in ("state", "instructions", "guest_time_ns", "stop"):
            self.assertEqual(recorded[what], replayed[what], what)

    def test_a_typed_recording_replays(self):
        terminal = self.record_on_terminal(*ECHO)
        terminal.wait_for(b"ready> ")
        self.assertTrue(terminal.is_raw())
        for key in b"hello world":
            terminal.type(bytes([key]))
            terminal.wait_for(bytes([key]))
            time.sleep(0.01)
        terminal.type(b"Q")
        terminal.wait_for(b"bye")
        self.assertEqual(terminal.end(), FINE)
        self.assertTrue(terminal.given_back())
        recorded = self.recorded()
        self.assertEqual(recorded["stop"], "debug exit")
        self.assert_replays_state(recorded)

    def test_real_time_passes_while_the_guest_sleeps(self):
        terminal = self.record_on_terminal(*ECHO)
        terminal.wait_for(b"ready> ")
        time.sleep(1.0)
        terminal.type(b"Q")
        self.assertEqual(terminal.end(), FINE)
        seconds = self.recorded()["guest_time_ns"] / 1e9
        self.assertGreater(seconds, 0.7)
        self.assertLess(seconds, 3.0)

    def test_control_c_goes_to_the_guest_and_the_escape_key_ends_the_run(self):
        terminal = self.record_on_terminal(*ECHO)
        terminal.wait_for(b"ready> ")
        terminal.type(b"\x03")
        terminal.wait_for(b"\x03")  # the guest echoes it
        terminal.type(b"\x01h")
        terminal.wait_for(b"end the run")
        terminal.type(b"\x01x")
        self.assertEqual(terminal.end(), FINE)
        self.assertTrue(terminal.given_back())
        recorded = self.recorded()
        self.assertEqual((recorded["stop"], recorded["host_cause"]), ("host request", "escape key"))
        self.assert_replays_state(recorded)

    def test_signals_give_the_terminal_back(self):
        for number, twice in ((signal.SIGTERM, False), (signal.SIGHUP, False), (signal.SIGABRT, False)):
            terminal = self.record_on_terminal(*ECHO)
            terminal.wait_for(b"ready> ")
            terminal.process.send_signal(number)
            code = terminal.end()
            self.assertEqual(code, -number if number == signal.SIGABRT else FINE)
            self.assertTrue(terminal.given_back(), number)

    def test_insisting_on_a_terminal_without_one_is_an_error(self):
        self.tool("run", *ECHO, "--console", "tty", expect=support.FAILED)

    def test_a_replay_shows_progress_on_a_terminal_and_none_in_a_pipe(self):
        script = self.file("s", 'after "ready> " send "B"')
        self.record(*ECHO, "--console", f"script:{script}", "--stop-at", "800M")
        terminal = self.terminal("replay", self.path("t.trace"), "--quiet")
        self.assertEqual(terminal.end(), FINE)
        self.assertRegex(terminal.seen.decode(), r"replay: [0-9 ]+, [0-9.]+ %, [0-9]+ M/s, .* left")
        self.assertNotIn("left", self.tool("replay", self.path("t.trace"), "--quiet").words)

    def test_a_shell_on_linux_is_recorded_and_replays(self):
        terminal = self.record_on_terminal(*linux())
        terminal.wait_for(b"ends it")
        terminal.wait_for(b"# ")
        terminal.type(b"echo $((6*7))-typed\n")
        terminal.wait_for(b"42-typed")
        terminal.wait_for(b"# ")
        time.sleep(0.2)
        terminal.type(b"ls /bin/busybo\t\n")
        terminal.wait_for(b"/bin/busybox")
        terminal.type(b"poweroff -f\n")
        self.assertEqual(terminal.end(), FINE)
        recorded = self.recorded()
        self.assertEqual(recorded["stop"], "power-off")
        self.assert_replays_state(recorded)


# What terminals answer to, and what they do not; each as one kind of sequence.
QUERIES = [b"\x1b[6n", b"\x1b[c", b"\x1b[>0c", b"\x1b[?2026$p", b"\x1b]11;?\x07", b"\x1b]52;c;?\x1b\\", b"\x1bP$qm\x1b\\", b"\x1b[18t",
           b"\x05", b"\x1bZ"]


def printing(text, last=bytes([0xb0, 0x00, 0xe6, 0xf4, 0xf4])):
    """A flat 32-bit guest that prints `text` on port 0xe9 and then does `last`: ends through the debug-exit port."""
    code = bytes([0xbe, 0x10 + len(last), 0x00, 0x10, 0x00,  # mov esi, text
                  0xac, 0x84, 0xc0, 0x74, 0x04, 0xe6, 0xe9, 0xeb, 0xf7, 0x90, 0x90]) + last
    return code + text + b"\0"


FLAT = ["--flat-address", "0x100000", "--flat-mode", "protected32", "--memory", "16M"]


class Answers(OnTerminal):
    """Nothing that a terminal answers is left for the shell that reads it next."""

    def guest(self, text):
        return ["--kernel", self.file("guest", printing(text)), *FLAT]

    def left_over(self, terminal):
        """What the next reader of the terminal would get."""
        attributes = termios.tcgetattr(terminal.slave)
        attributes[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(terminal.slave, termios.TCSANOW, attributes)
        ready, _, _ = select.select([terminal.slave], [], [], 0.2)
        return os.read(terminal.slave, 4096) if ready else b""

    def test_a_replay_asks_the_terminal_nothing(self):
        text = b"a" + b"b".join(QUERIES) + b"\x1b[1mz\x1b]0;title\x07end\x1b[6"
        self.record(*self.guest(text))
        self.assertEqual(self.replay()["output"], text, "what is no terminal gets every byte")
        terminal = self.terminal("replay", self.path("t.trace"), "--no-summary")
        terminal.type(b"\x1b[5;110R")  # an answer all the same
        self.assertEqual(terminal.end(), FINE)
        self.assertEqual(terminal.seen.replace(b"\x1b[5;110R", b"").replace(b"^[[5;110R", b""),
                         b"a" + b"b" * (len(QUERIES) - 1) + b"\x1b[1mz\x1b]0;title\x07end")
        self.assertEqual(self.left_over(terminal), b"")

    def test_without_input_a_run_asks_the_terminal_nothing(self):
        for console in ("none", "script:" + self.file("s", 'after "never" send "x"')):
            terminal = self.terminal("run", *self.guest(b"a\x1b[6nb"), "--console", console, "--no-summary")
            self.assertEqual(terminal.end(), FINE)
            self.assertEqual(terminal.seen, b"ab")

    def test_a_late_answer_does_not_reach_the_shell(self):
        for command in (["run"], ["record", "-o", self.path("t.trace")]):
            terminal = self.terminal(*command, *self.guest(b"where? \x1b[6n"), "--no-summary")
            terminal.wait_for(b"\x1b[6n")
            terminal.type(b"\x1b[5;110R")
            self.assertEqual(terminal.end(), FINE)
            self.assertTrue(terminal.given_back())
            self.assertEqual(self.left_over(terminal), b"")


if __name__ == "__main__":
    support.main()
