"""Sessions over recordings of machines with several vCPUs, which run in turns of 100000 instructions."""
import os
import re
import subprocess

from support import GUESTS, TOOL, Case, Remote, Server, linux, main

SMP = ["--kernel", os.path.join(GUESTS, "smp.bin"), "--flat-address", "0x100000", "--flat-mode", "protected32", "--vcpus", "2"]
FIRST, SECOND = "*0x100100", "*0x100200"  # the loops of the two


class Smp(Case):
    def setUp(self):
        super().setUp()
        self.trace = self.record(*SMP)

    def test_replay_takes_the_number_of_vcpus_from_the_trace(self):
        result = subprocess.run([TOOL, "replay", self.trace], capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("compared equal", result.stderr)

    def test_impossible_numbers_of_vcpus_are_refused(self):
        for number in ("0", "17", "-1", "two"):
            result = subprocess.run([TOOL, "run", *SMP[:-1], number], capture_output=True, text=True, timeout=60)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn("--vcpus", result.stderr)

    def test_breakpoints_are_reported_for_the_thread_that_meets_them(self):
        out = self.gdb(self.serve(self.trace), "info threads", f"break {SECOND}", "continue", "info threads", f"break {FIRST}",
                       "delete 1", "continue", "info threads", "reverse-continue", "monitor position", "reverse-continue",
                       "reverse-continue", "delete", f"break {SECOND}", "continue", "monitor position")
        self.assert_order(out, r"\* 1 .*vCPU 0 \(32-bit, CPL 0\)", r"  2 .*vCPU 1 \(not started\)",
                          r"Switching to Thread 2", r"Thread 2 hit Breakpoint 1, 0x0*100200", r"\* 2 .*vCPU 1 \(32-bit, CPL 0\)",
                          r"Switching to Thread 1", r"Thread 1 hit Breakpoint 2, 0x0*100100", r"\* 1 ",
                          r"Thread 1 hit Breakpoint 2", r"position 99'99[0-9] of",
                          r"Thread 1 hit Breakpoint 2", r"Thread 1 hit Breakpoint 2",
                          r"Thread 2 hit Breakpoint 3", r"position 100'015 of")

    def test_breakpoint_of_one_thread_alone(self):
        out = self.gdb(self.serve(self.trace), "break *0x100200 thread 2", "break *0x100100 thread 2", "continue", "continue")
        self.assertEqual(out.count("Thread 2 hit Breakpoint 1"), 2, out)

    def test_steps_of_a_thread_are_its_own(self):
        out = self.gdb(self.serve(self.trace, "--at", "150000"), "info threads", "thread 1", "p/x $pc", "stepi", "p/x $pc",
                       "monitor position", "reverse-stepi", "p/x $pc", "monitor position", "reverse-stepi", "p/x $pc",
                       "monitor position", "thread 2", "p/x $pc", "stepi", "p/x $pc", "monitor position", "reverse-stepi",
                       "p/x $pc", "monitor position", "reverse-stepi", "reverse-stepi")
        self.assert_order(out, r"\* 2 ", r"position 200'001 of", r"position 200'000 of", r"position 99'999 of",
                          r"position 100'001 of", r"position 100'000 of", r"No more reverse-execution history")
        values = re.findall(r"^\$\d+ = (\S+)", out, re.MULTILINE)
        self.assertEqual(values[0], values[2])
        self.assertNotEqual(values[0], values[1])
        self.assertNotEqual(values[0], values[3])
        self.assertEqual(values[4], "0xfffffff0")  # it has been sent to 0x6000, and has not come there yet
        self.assertEqual(values[5], "0x6001")
        self.assertEqual(values[6], "0xfffffff0")

    def test_scheduler_locking_changes_nothing(self):
        out = self.gdb(self.serve(self.trace, "--at", "150000"), "set scheduler-locking on", "thread 1", "stepi",
                       "monitor position", "thread 2", "reverse-stepi", "monitor position")
        self.assert_order(out, r"position 200'001 of", r"position 199'999 of")

    def test_watchpoints_name_the_writer(self):
        out = self.gdb(self.serve(self.trace, "--at", "250000"), "set can-use-hw-watchpoints 1", "watch *(int*)0x180008",
                       "continue", "reverse-continue", "reverse-continue", "monitor position", "delete",
                       "watch *(int*)0x180000", "reverse-continue", "monitor position")
        self.assert_order(out, r"Thread 2 hit Hardware watchpoint 1", r"Thread 2 hit Hardware watchpoint 1",
                          r"Thread 2 hit Hardware watchpoint 1", r"position 199'99\d of",
                          r"Thread 1 hit Hardware watchpoint 2", r"position 99'99\d of")

    def test_stops_at_turns(self):
        out = self.gdb(self.serve(self.trace), "monitor break-on vcpu", "continue", "continue", "reverse-continue",
                       "monitor position")
        self.assert_order(out, r"vcpu-switch to vCPU 1", r"Thread 2 ", r"vcpu-switch to vCPU 0", r"Thread 1 ",
                          r"Thread 1 ", r"position 200'000 of")

    def test_seek_of_the_init_file_shows_the_place(self):
        server = self.serve(self.trace, "--init", self.path("init.gdb"))
        out = self.gdb(None, f"source {self.path('init.gdb')}", "stepi", "seek 150000", "p/x $pc", "thread 2", "seek 100016",
                       "p/x $pc", "seek event 4", "p/x $pc", "seek", connect=False)
        self.assert_order(out, r"position 150'000 of", r"#0 +0x0*1001\w\w in", r"\$1 = 0x1001\w\w", r"position 100'016 of",
                          r"#0 +0x0*100201 in", r"\$2 = 0x100201", r"position 300'000 of", r"\$3 = 0x", r"Usage: seek")
        self.assertNotIn("rror", out)
        self.assertTrue(server.alive())

    def test_every_step_back_undoes_a_step(self):
        remote = Remote(self.serve(self.trace))
        registers = {}

        def state(thread):
            remote.ask(f"Hg{thread}")
            return remote.ask("g")

        for where in (99998, 100000, 150000, 199999, 200000, 300000):
            for thread in (1, 2):
                remote.monitor(f"seek {where}")
                before = state(thread)
                self.assertEqual(remote.ask("s"), f"T05thread:{thread};")
                after = state(thread)
                self.assertNotEqual(before, after)
                self.assertEqual(remote.ask("bs"), f"T05thread:{thread};")
                self.assertEqual(state(thread), before, f"thread {thread} at {where}")
                self.assertEqual(remote.ask("s"), f"T05thread:{thread};")
                self.assertEqual(state(thread), after, f"thread {thread} at {where}")
        for where in (100000, 150000, 200000):  # the same however it is reached
            remote.monitor(f"seek {where}")
            registers[where] = (remote.ask("?"), state(1), state(2))
        for where in (150000, 200000, 100000, 150000):
            remote.monitor(f"seek {where + 50001}")
            remote.monitor(f"seek {where}")
            self.assertEqual((remote.ask("?"), state(1), state(2)), registers[where])
        self.assertEqual([registers[w][0] for w in sorted(registers)], ["T05thread:2;", "T05thread:2;", "T05thread:1;"])


class LiveSmp(Case):
    """Machines that run for the first time go forward by the same rules."""

    def test_steps_and_breakpoints_name_their_thread(self):
        trace = self.path("live.trace")
        server = Server(["record", *SMP, "--gdb", "0", "--no-summary", "-o", trace])
        self.addCleanup(server.stop)
        out = self.gdb(server, "info threads", f"break {SECOND}", "continue", "stepi", "thread 1", "delete", "stepi",
                       "monitor position", "thread 2", "stepi", "monitor position", f"break {FIRST}", "continue", "detach")
        self.assert_order(out, r"  2 .*\(not started\)", r"Thread 2 hit Breakpoint 1", r"position 200'001, ",
                          r"position 300'001, ", r"Thread 1 hit Breakpoint 2")
        self.assertEqual(server.process.wait(timeout=30), 0)
        replay = subprocess.run([TOOL, "replay", trace], capture_output=True, text=True, timeout=60)
        self.assertEqual(replay.returncode, 0, replay.stderr)


class LinuxSmp(Case):
    def test_secondary_processor_of_linux(self):
        trace = self.record(*linux(""), "--vcpus", "2", "--stop-at", "500M")
        symbols = self.path("vmlinux.sym")
        subprocess.run([TOOL, "symbols", trace, "-o", symbols], check=True, timeout=300, capture_output=True)
        out = self.gdb(self.serve(trace), "break *start_secondary", "continue", "info threads", "bt 1", "stepi", "p/x $rip",
                       "reverse-stepi", "p/x $rip", "reverse-stepi", "reverse-stepi", "thread 1", "stepi", "reverse-stepi",
                       "thread 2", "continue", "p/x $rip", "p/x &start_secondary", elf=symbols)
        self.assert_order(out, r"Thread 2 hit Breakpoint 1.*start_secondary", r"\* 2 .*vCPU 1 ")
        values = re.findall(r"^\$\d+ = (\S+)", out, re.MULTILINE)
        self.assertEqual(values[1], values[3])
        self.assertEqual(values[2], values[3])
        self.assertNotEqual(values[0], values[1])


if __name__ == "__main__":
    main()
