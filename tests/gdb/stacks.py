"""Backtraces of a stock kernel, by its own unwind tables, in gdb as `retrovisor debug` starts it, and in monitor bt."""
import os
import re
import signal
import subprocess
import time
import unittest

from support import GDB, TOOL, Case, linux, main

# Who calls whom from the write to /proc/sysrq-trigger to the serial port, by the sources of Linux 6.1; what the compiler may inline is left
# out of the comparison.
CALLED = ["panic", "sysrq_handle_crash", "__handle_sysrq", "write_sysrq_trigger", "proc_reg_write", "vfs_write", "ksys_write",
          "do_syscall_64", "entry_SYSCALL_64_after_hwframe"]


def functions(backtrace):
    """The functions of gdb's or monitor's lines, without what the compiler has put behind their names."""
    lines = re.findall(r"^#\d+ +(?:0x[0-9a-f]+ (?:in )?)?([\w.?()]+)", backtrace, re.MULTILINE)
    return [re.sub(r"\.(cold|constprop|part|isra).*|\+0x.*", "", line) for line in lines]


def processes_about(trace):
    """The command lines of other processes that name this trace."""
    found = []
    for process in os.listdir("/proc"):
        try:
            with open(f"/proc/{int(process)}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
        except (OSError, ValueError):
            continue
        if int(process) != os.getpid() and trace in words:
            found.append(words)
    return found


class Stacks(Case):
    def debug(self, trace, at, *commands, timeout=300):
        if GDB is None:
            raise unittest.SkipTest("there is no gdb here")
        words = [TOOL, "debug", trace, "--at", at, "--gdb", GDB, "--", "-nx", "-batch", "-ex", "set width 0"]
        for command in commands:
            words += ["-ex", command]
        result = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
        self.assertEqual(result.returncode, 0, result.stdout.decode(errors="replace"))
        return result.stdout.decode(errors="replace")

    def crash(self):
        return self.record(*linux("workload=crash"), "--stop-on-panic")

    def test_the_panic_s_stack_is_what_was_called(self):
        trace = self.crash()
        out = self.debug(trace, "end", "echo FIRST\\n", "bt", "echo SECOND\\n", "monitor bt", "echo THIRD\\n",
                         "break vfs_write", "reverse-continue", "bt", "stepi 4", "echo FOURTH\\n", "bt", "monitor bt",
                         "monitor seek -100k", "echo FIFTH\\n", "bt", "echo SIXTH\\n", "monitor bt")
        first, second, third, fourth, fifth, sixth = (re.split(r"^(?:FIRST|SECOND|THIRD|FOURTH|FIFTH|SIXTH)$", out, flags=re.MULTILINE))[1:]
        for text in (first, second):
            names = functions(text)
            self.assertEqual([n for n in names if n in CALLED], CALLED, text)
            # The last is the program's; nothing stands below it, and nothing went wrong.
            self.assertEqual(names.index(CALLED[-1]), len(names) - 2, text)
            self.assertNotIn("Backtrace stopped", text)
        self.assertEqual(functions(first)[:-1], functions(second)[:-1])
        # At a function's first instruction, and in the middle of its prologue.
        tail = CALLED[CALLED.index("vfs_write"):]
        self.assertEqual(functions(third)[:4], tail)
        self.assertEqual(functions(fourth)[:4], tail)
        # Somewhere else, without a stop between: the same on both ways.
        self.assertEqual(functions(fifth.split("SIXTH")[0])[:-1], functions(sixth)[:-1])
        self.assertTrue(os.path.getsize(trace + ".sym") > 1_000_000, "the symbols are kept beside the trace")

    def test_finish_and_reverse_finish_from_the_middle_of_a_function(self):
        out = self.debug(self.crash(), "end", "break __fget_light", "reverse-continue", "stepi 3", "finish", "print $_exitcode == 0 || 1",
                         "stepi", "delete", "reverse-stepi", "reverse-stepi", "bt 1", "reverse-finish", "x/i $pc")
        self.assert_order(out, r"Breakpoint 1, 0x\w+ in __fget_light \(fd=1", r"0x\w+ in __fget_light", r"0x\w+ in __fdget_pos",
                          r"Value returned is \$1 = \d+", r"#0  0x\w+ in __fget_light",
                          r"=> 0x\w+ <__fdget_pos\+\d+>:\s+call")

    def test_a_debugger_that_is_not_there_and_a_trace_that_is_none(self):
        trace = self.path("no.trace")
        with open(trace, "wb") as file:
            file.write(b"no trace")
        for words, code, said in (([trace, "--symbols", "x"], 4, "no.trace"), (["/nosuch"], 1, "/nosuch")):
            result = subprocess.run([TOOL, "debug", *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
            self.assertEqual(result.returncode, code, result.stderr.decode())
            self.assertIn(said, result.stderr.decode())
        trace = self.record(*linux("workload=poweroff"))
        result = subprocess.run([TOOL, "debug", trace, "--gdb", "/nosuch/gdb"], stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
        self.assertEqual(result.returncode, 7, result.stderr.decode())
        self.assertIn("cannot be started: No such file or directory (/nosuch/gdb)", result.stderr.decode())
        self.assertEqual(processes_about(trace), [], "the server has ended with it")

    def test_ctrl_c_before_gdb_is_there_leaves_nothing_behind(self):
        trace = self.record(*linux("workload=poweroff"))
        for wanted in ("symbols", "gdb"):
            if wanted == "symbols" and os.path.exists(trace + ".sym"):
                os.unlink(trace + ".sym")
            process = subprocess.Popen([TOOL, "debug", trace, "--at", "end", "--gdb", "/nosuch/gdb"], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            self.addCleanup(process.stderr.close)
            until = time.monotonic() + 60
            while not any(words[1] == wanted for words in processes_about(trace)) and time.monotonic() < until:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1].decode()
            self.assertEqual(process.returncode, 1, said)
            self.assertNotIn("/nosuch/gdb", said)
            self.assertEqual(processes_about(trace), [])
            if wanted == "symbols":
                made = subprocess.run([TOOL, "symbols", trace, "-o", trace + ".sym"], capture_output=True, timeout=300)
                self.assertEqual(made.returncode, 0, made.stderr.decode())


if __name__ == "__main__":
    main()
