#!/usr/bin/env python3
"""examples/stray-write: builds the module, records its crash, replays it, and lets gdb walk from the oops back to the store
that caused it. Then the same in the language that development environments speak with gdb."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "replay"))
os.environ.setdefault("ECHO_GUEST", "")  # support.py's own guest; not used here
import support  # noqa: E402  pylint: disable=wrong-import-position

EXAMPLE = os.path.join(TOP, "examples", "stray-write")
SCRIPT = os.path.join(EXAMPLE, "find-the-writer.gdb")
CORRUPTOR = "calibration_done"
VICTIM = "raise_alarm"
GARBAGE = 7210  # what the module's sensor reads


def run(*command, timeout=300, **options):
    """Exit code, output and errors together, as text."""
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            timeout=timeout, check=False, **options)
    return result.returncode, result.stdout.decode(errors="replace").replace("\r", "")


def setUpModule():
    """Builds and records once, in a folder of its own, so that nothing here depends on what build/ holds."""
    if not os.path.exists(os.path.join(TOP, "build", "guest", "vmlinuz-cloud")):
        raise unittest.SkipTest("there is no kernel; tools/get-kernel cloud fetches it")
    if shutil.which("gdb") is None:
        raise unittest.SkipTest("there is no gdb")
    code, words = run(os.path.join(TOP, "tools", "get-headers"), "cloud")
    if code != 0:
        raise unittest.SkipTest("no headers to build the module against: " + words.strip().splitlines()[-1])
    # From here on everything is there, and no failure is taken for something missing.
    Example.dir = tempfile.mkdtemp(prefix="retrovisor-test-")
    unittest.addModuleCleanup(shutil.rmtree, Example.dir, ignore_errors=True)
    for script in ("build.sh", "record.sh"):
        code, words = run(os.path.join(EXAMPLE, script), Example.dir)
        if code != 0:
            raise AssertionError(f"{script} failed:\n{words}")
    Example.trace = os.path.join(Example.dir, "stray-write.trace")
    with open(os.path.join(Example.dir, "console.txt"), "rb") as file:
        Example.console = file.read()


class Example(support.Case):
    dir = trace = console = None

    def serve(self):
        """A server on a free port, which ends with this test; its address."""
        server = subprocess.Popen([support.TOOL, "gdb", self.trace, "--listen", "0", "--once"], stdin=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True)
        self.addCleanup(server.stderr.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        words = server.stderr.readline()
        found = re.search(r"target remote (\S+)$", words)
        self.assertTrue(found, words)
        return found[1]


class StrayWrite(Example):
    def test_the_crash_is_in_the_victim_and_replays(self):
        text = self.console.decode(errors="replace")
        self.assertRegex(text, rf"page fault for address: 0*{GARBAGE:x}\b")
        self.assertRegex(text, rf"RIP: 0010:{VICTIM}\+0x")
        self.assertIn("Kernel panic - not syncing: Fatal exception", text)
        self.assertNotIn(CORRUPTOR, text, "an oops that names the culprit is no example")
        replayed = self.summary("replay", self.trace)
        self.assertEqual(replayed["stop"], "guest panic")
        self.assertEqual(replayed["output"], self.console)

    def test_gdb_walks_back_from_the_oops_to_the_store(self):
        code, words = run(os.path.join(EXAMPLE, "find.sh"), self.dir)
        self.assertEqual(code, 0, words)
        self.check(words)

    def test_gdb_walks_back_over_tcp(self):
        code, words = run("stdbuf", "-o0", "gdb", "-q", "-nx", "-batch", "-ex", f"target remote {self.serve()}",
                          "-x", os.path.join(self.dir, "symbols.gdb"), "-x", SCRIPT)
        self.assertEqual(code, 0, words)
        self.check(words)

    def check(self, words):
        parts = re.split(r"^== .*$", words, flags=re.MULTILINE)
        self.assertEqual(len(parts), 6, words)
        _, end, fault, watch, store, closed = parts
        self.assertIn("the recording ends here: guest panic", end, words)
        # The fault: the victim reads through what should be a pointer.
        self.assertRegex(fault, rf"=> 0x[0-9a-f]+ <{VICTIM}\+\d+>:\s+mov\s+\(%rax\),%rax", words)
        self.assertIn(f"ops = {GARBAGE:#x}", fault, words)
        # Backwards, what gdb calls the new value is the earlier one.
        self.assertRegex(watch, rf"Old value = .*{GARBAGE:#x}\s+New value = .*<printing>", words)
        line = r"stray_write\.c:\d+\n\d+\s+meter->zero = read_sensor\(\);"
        self.assertRegex(watch, rf"in {CORRUPTOR} \(.*\) at .*{line}", words)
        # The store, not yet done: in a function that believes to write to a meter.
        self.assertRegex(store, rf"=> 0x[0-9a-f]+ <{CORRUPTOR}\+\d+>:\s+movq\s+\${GARBAGE:#x},0x[0-9a-f]+\(%rax\)", words)
        self.assertRegex(store, rf"(?m)^{CORRUPTOR} \+ \d+ in section \.text", words)
        # One piece of memory is the listener, the meter that is written to, and the meter that was closed.
        pointer = re.compile(r"^\$\d+ = \(struct \w+ \*\) (0x[0-9a-f]+)", re.MULTILINE)
        same = [pointer.search(part) for part in (fault, store, closed)]
        self.assertTrue(all(same), words)
        self.assertEqual(len({found[1] for found in same}), 1, words)
        self.assertRegex(closed, r"Breakpoint \d+, meter_close \(.*\"boiler\"\)", words)
        # Long before the crash.
        (crashed, crashed_at), (written, written_at), (freed, _) = (self.when(part) for part in (fault, store, closed))
        self.assertGreater(crashed - written, 10_000_000)
        self.assertGreater(crashed_at - written_at, 0.2)
        self.assertLess(freed, written)

    def test_stacks_lead_through_the_module_to_where_the_kernel_was_entered(self):
        """By the module's own unwind table: from its code, through the kernel's, in a system call and in an interrupt."""
        words = [support.TOOL, "debug", self.trace, "--at", "end", "--", "-nx", "-batch", "-ex", "set width 0",
                 "-x", os.path.join(self.dir, "symbols.gdb")]
        for function in (VICTIM, CORRUPTOR):
            for command in (f"break {function}", "reverse-continue", "stepi", f"echo STACKS OF {function}\n", "bt", "monitor bt", "delete"):
                words += ["-ex", command]
        code, said = run(*words)
        self.assertEqual(code, 0, said)
        for function, callers in ((VICTIM, ["meter_write", "proc_reg_write", "vfs_write", "ksys_write", "do_syscall_64",
                                            "entry_SYSCALL_64_after_hwframe"]),
                                  (CORRUPTOR, ["call_timer_fn", "run_timer_softirq", "asm_sysvec_apic_timer_interrupt"])):
            stacks = said.partition(f"STACKS OF {function}\n")[2].partition("STACKS OF")[0]
            names = re.findall(r"^#\d+ +(?:0x[0-9a-f]+ in )?([\w.]+) \(", stacks, re.MULTILINE)
            self.assertEqual(names[0], function, stacks)
            self.assertEqual([n for n in names if n in callers], callers, stacks)
            self.assertNotIn("Backtrace stopped", stacks)
            # gdb and the server tell of the same places, in the same order; inlined functions are gdb's alone.
            in_gdb = re.findall(r"^#\d+ +0x([0-9a-f]+) in ", stacks, re.MULTILINE)
            server = re.findall(r"^#\d+ +0x([0-9a-f]+) (?!in )", stacks, re.MULTILINE)
            self.assertGreaterEqual(len(in_gdb), len(callers), stacks)
            self.assertEqual(in_gdb, server[-len(in_gdb):], stacks)
            self.assertRegex(stacks, r"in \?\? \(\)\n" if function == VICTIM else r"\(interrupted\)", stacks)

    def test_gdb_knows_every_function_of_the_module_where_it_was(self):
        """Those of .text.unlikely, .init.text and .exit.text, too: left out, they would all seem to lie at 0."""
        module = os.path.join(self.dir, "module", "stray_write.ko")
        code, words = run("nm", module)
        self.assertEqual(code, 0, words)
        names = [line.split()[2] for line in words.splitlines() if line.split()[-2] in "tT"]
        self.assertIn("print_alarm", names)
        asked = [word for name in names for word in ("-ex", f"info address {name}")]
        code, words = run("gdb", "-q", "-nx", "-batch", "-x", os.path.join(self.dir, "symbols.gdb"), *asked)
        self.assertEqual(code, 0, words)
        self.assertNotIn("warning: section", words)
        where = dict(re.findall(r'^Symbol "([\w.]+)" is .*?(?:address|at) (0x[0-9a-f]+)', words, re.MULTILINE))
        self.assertEqual(sorted(where), sorted(set(names)), words)
        self.assertTrue(all(int(address, 16) > 0xffffffffc0000000 for address in where.values()), words)

    def test_a_breakpoint_in_the_init_part_hits(self):
        code, words = run("gdb", "-q", "-nx", "-batch", "-ex", f"target remote {self.serve()}",
                          "-x", os.path.join(self.dir, "symbols.gdb"), "-ex", "break init_module", "-ex", "continue",
                          "-ex", "print $pc == (unsigned long)&stray_write_init")
        self.assertEqual(code, 0, words)
        self.assertRegex(words, r"Breakpoint 1, stray_write_init \(\)")
        self.assertIn("$1 = 1", words)

    def when(self, text):
        """Position and guest time, in seconds."""
        found = re.search(r"^position ([0-9']+) of .*, guest time ([0-9.]+) s", text, re.MULTILINE)
        self.assertTrue(found, text)
        return int(found[1].replace("'", "")), float(found[2])


class MachineInterface:
    """gdb as a development environment runs it: gdb/MI on pipes."""

    def __init__(self, case):
        self.case = case
        self.gdb = subprocess.Popen(["gdb", "-nx", "-q", "-i=mi"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True)
        case.addCleanup(self.gdb.stdout.close)
        case.addCleanup(self.gdb.stdin.close)
        case.addCleanup(self.gdb.wait)
        case.addCleanup(self.gdb.kill)
        self.token = 0
        self.lines = []

    def until(self, pattern):
        for line in self.gdb.stdout:
            self.lines.append(line.rstrip())
            if re.match(pattern, line):
                return line.rstrip()
        raise AssertionError(f"gdb said no {pattern}:\n" + "\n".join(self.lines))

    def command(self, text, expect=r"\^(done|connected|running)"):
        self.token += 1
        self.gdb.stdin.write(f"{self.token}{text}\n")
        self.gdb.stdin.flush()
        answer = self.until(rf"{self.token}\^")
        self.case.assertRegex(answer, rf"^{self.token}{expect}", text)
        return answer

    def run(self, text):
        """A command that lets the target run; where it stopped."""
        self.command(text)
        return self.until(r"\*stopped")


class DevelopmentEnvironment(Example):
    def test_the_example_configurations_are_json_and_name_what_the_recording_makes(self):
        with open(os.path.join(TOP, "docs", "vscode-launch.json"), encoding="utf-8") as file:
            configurations = json.load(file)["configurations"]
        self.assertTrue(configurations)
        for name in re.findall(r"build/examples/stray-write/([\w.-]+)", json.dumps(configurations)):
            self.assertTrue(os.path.exists(os.path.join(self.dir, name)), name)

    def test_gdb_offers_reverse_execution_over_mi_and_runs_to_the_store(self):
        address = self.serve()
        mi = MachineInterface(self)
        mi.command("-gdb-set mi-async on")
        # The order in which the C/C++ extension does it: its setupCommands first.
        mi.command(f"-interpreter-exec console \"source {os.path.join(self.dir, 'symbols.gdb')}\"")
        mi.command(f"-file-exec-and-symbols {os.path.join(self.dir, 'vmlinux.sym')}")
        mi.command(f"-target-select remote {address}")
        # This is what tells a front end that it may show its buttons for going back.
        self.assertIn('"reverse"', mi.command("-list-target-features"))
        self.assertIn(f'func="{VICTIM}"', mi.command(f"-break-insert {VICTIM}"))
        self.assertIn(f'func="{VICTIM}"', mi.run("-exec-continue"))
        here = mi.command('-data-evaluate-expression "$pc"')
        mi.run("-exec-step-instruction")
        mi.run("-exec-step-instruction --reverse")
        self.assertEqual(here.partition("^")[2], mi.command('-data-evaluate-expression "$pc"').partition("^")[2])
        # Backwards a source line at a time, out of the function: into whoever called it.
        self.assertRegex(mi.run("-exec-step --reverse"), r'func="(run_command|meter_write)"')
        mi.command(f"-break-insert {CORRUPTOR}")
        stopped = mi.run("-exec-continue --reverse")
        self.assertIn(f'func="{CORRUPTOR}"', stopped)
        self.assertRegex(stopped, r'fullname="[^"]*/stray_write\.c"')
        self.assertIn(CORRUPTOR, mi.command("-stack-list-frames"))
        self.assertIn(f'func="{VICTIM}"', mi.run("-exec-continue"))
        # Words typed into the console, as `-exec reverse-continue` in Visual Studio Code.
        mi.command('-interpreter-exec console "reverse-continue"')
        self.assertIn(f'func="{CORRUPTOR}"', mi.until(r"\*stopped"))


if __name__ == "__main__":
    support.main()
