"""Sessions of real debuggers over recordings of small guests."""
import os
import subprocess
import time
import unittest

from support import GUESTS, KERNEL, LLDB, MODES, SLEEPER, TOOL, Case, Remote, Server, main

ELF = os.path.join(GUESTS, "kernel.elf")
SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel.c")


def line(text):
    """The number of the only line of kernel.c that holds `text`."""
    with open(SOURCE) as file:
        numbers = [n for n, l in enumerate(file, 1) if text in l]
    assert len(numbers) == 1, (text, numbers)
    return numbers[0]


class Assembly(Case):
    """Addresses and instructions only."""

    def setUp(self):
        super().setUp()
        self.server = self.serve(self.record(*KERNEL))

    def test_connects_and_shows_registers_by_name(self):
        out = self.gdb(self.server, "info registers", "p $cr0", "p/x $cr3", "p $efer", "p/x $fs_base", "p/x $k_gs_base",
                       "p $st0", "p $xmm0.v2_int64", "p/x $mxcsr", "info registers eflags", "info all-registers")
        self.assert_order(out, r"rip +0x100000", r"\$1 = \[ .*PE.* \]", r"\$2 = 0x", r"\$3 = \[ LME LMA \]", r"\$4 = 0x0",
                          r"\$5 = 0x0", r"\$6 = 0", r"\$7 = \{0, 0\}", r"\$8 = 0x1f80", r"eflags +0x", r"xmm15", r"cr8")
        self.assertNotIn("rror", out)

    def test_steps_back_and_forth(self):
        out = self.gdb(self.server, "stepi", "stepi", "p/x $pc", "reverse-stepi", "p/x $pc", "stepi", "p/x $pc",
                       "reverse-stepi",
                       "reverse-stepi", "p/x $pc", "reverse-stepi")
        values = [line.split(" = ")[1] for line in out.splitlines() if line.startswith("$")]
        self.assertEqual(values[0], values[2])
        self.assertNotEqual(values[0], values[1])
        self.assertEqual(values[3], "0x100000")
        self.assertIn("No more reverse-execution history", out)

    def test_breakpoints_by_address_leave_memory_alone(self):
        out = self.gdb(self.server, "x/8xb &twice", "break *&twice", "continue", "x/8xb $pc", "hbreak *&square", "delete 1",
                       "reverse-continue", "p $_siginfo", elf=ELF)
        lines = [line.split(":")[1] for line in out.splitlines() if "0x" in line and ":\t" in line]
        self.assertEqual(lines[0], lines[1])
        self.assert_order(out, r"Breakpoint 1, .*twice", r"Breakpoint 2, .*square")

    def test_disconnects_and_reconnects_where_it_was(self):
        self.gdb(self.server, "stepi", "stepi", "stepi", "detach")
        out = self.gdb(self.server, "monitor position")
        self.assertIn("position 3 of", out)
        out = self.gdb(self.server, "disconnect")
        self.assertIn("position 3 of", self.gdb(self.server, "monitor position"))

    def test_kill_starts_from_the_beginning_and_run_does_too(self):
        self.gdb(self.server, "stepi", "stepi", "kill")
        self.assertIn("position 0 of", self.gdb(self.server, "monitor position"))
        out = self.gdb(self.server, f"target extended-remote {self.server.address}", "stepi", "stepi", "starti",
                       "monitor position",
                       elf=ELF, connect=False)
        self.assertIn("position 0 of", out)

    def test_ends_of_history_are_told(self):
        out = self.gdb(self.server, "continue", "reverse-continue")
        self.assertEqual(out.count("No more reverse-execution history"), 2, out)
        self.assertIn("the recording ends here: debug exit", out)

    def test_breakpoint_at_the_end_of_history(self):
        for command in ("stepi", "continue", "step", "next", "until"):
            out = self.gdb(self.server, "monitor seek 0", "continue", "break *$pc", command, "reverse-stepi", "monitor position",
                           "delete", "set can-use-hw-watchpoints 0", "watch *(int *)0x8ff00", "continue", "reverse-stepi",
                           elf=ELF, timeout=60)
            self.assert_order(out, r"the recording ends here: debug exit", r"No more reverse-execution history", r"Breakpoint 1 at",
                              r"the recording ends here", r"position 842 of", r"Watchpoint 2", r"No more reverse-execution history")

    def test_threads_are_vcpus(self):
        out = self.gdb(self.server, "info threads", "thread 1", "thread apply all p/x $pc")
        self.assert_order(out, r"\* 1 .*vCPU 0 \(64-bit, CPL 0\)", r"Switching to thread 1", r"= 0x100000")

    def test_serves_a_pipe(self):
        trace = self.record(*KERNEL, name="pipe.trace")
        tool = os.environ["RETROVISOR"]
        out = self.gdb(None, f"target remote | {tool} gdb --stdio {trace} 2>/dev/null", "stepi", "p/x $pc", connect=False)
        self.assertIn("$1 = 0x100005", out)

    def test_serves_a_unix_socket(self):
        server = Server(["gdb", self.record(*KERNEL, name="u.trace"), "--listen", "unix:" + self.path("socket")])
        self.addCleanup(server.stop)
        self.assertIn("$1 = 0x100000", self.gdb(server, "p/x $pc"))
        server.stop()
        self.assertFalse(os.path.exists(self.path("socket")))


class Source(Case):
    """A C guest with debug information."""

    def setUp(self):
        super().setUp()
        self.server = self.serve(self.record(*KERNEL))

    def test_steps_backwards_by_lines(self):
        out = self.gdb(self.server, "tbreak twice", "continue", "finish", "next", "next", "reverse-next", "reverse-step",
                       "reverse-step", "bt", elf=ELF)
        self.assert_order(out, r"breakpoint 1, twice \(x=0\)", r"main \(\)", r"for \(int i = 0; i < 20", r"trail\[i\] = ",
                          r"for \(int i = 0; i < 20", r"trail\[i\] = |twice \(x=0\)", r"#0 .*(twice \(x=0\)|main)")

    def test_reverse_step_enters_the_function_from_its_end(self):
        out = self.gdb(self.server, f"break {line('stray(box')}", "continue", "reverse-step", "reverse-step", "bt",
                       elf=ELF)  # the line has two parts: the assignment, and the call before it
        self.assert_order(out, r"Breakpoint 1, main", r"sum \(node=", r"#0 +sum", r"#1 .*main")

    def test_reverse_next_steps_over_calls(self):
        out = self.gdb(self.server, f"break {line('stray(box')}", "continue", "reverse-next", "bt", elf=ELF)
        self.assert_order(out, r"Breakpoint 1, main", r"\d+\s+total = sum", r"#0 +main")

    def test_reverse_finish_goes_to_the_call(self):
        out = self.gdb(self.server, "break square", "continue", "reverse-finish", "p node->value", "bt", elf=ELF)
        self.assert_order(out, r"Breakpoint 1, square", r"s \+= square", r"\$1 = 8", r"#0 .*sum")

    def test_next_and_step_and_until_go_forward(self):
        out = self.gdb(self.server, "break main", "continue", "next", "step", "info args", "finish", "tbreak sum",
                       "continue",
                       "next", "next", "step", "up", "info locals", elf=ELF)
        self.assert_order(out, r"Breakpoint 1, main", r"push \(value=1", r"value = 1", r"Temporary breakpoint",
                          r"square \(x=8\)",
                          r"s = 0")

    def test_watchpoint_backwards_finds_the_stray_write(self):
        out = self.gdb(self.server, f"break {line('if (box.victim')}", "continue", "p/x box.victim", "watch -l box.victim",
                       "reverse-continue", "p box.victim", "bt",
                       "p i", elf=ELF)
        self.assert_order(out, r"\$1 = 0x\w*5a", r"Hardware watchpoint", r"Old value = ", r"New value = 1234", r"stray",
                          r"\$2 = 1234", r"#0 .*stray", r"#1 .*main", r"\$3 = 4")

    def test_watchpoints_forward_and_backward_agree(self):
        out = self.gdb(self.server, "watch total", "continue", "p total", "continue", "p total", "reverse-continue",
                       "p total",
                       "reverse-continue", "p total", elf=ELF)
        self.assert_order(out, r"\$1 = 204", r"\$2 = -1", r"Old value = -1", r"New value = 204", r"\$3 = 204",
                          r"Old value = 204", r"New value = 0", r"\$4 = 0")

    def test_read_and_access_watchpoints(self):
        out = self.gdb(self.server, "rwatch box.victim", "continue", "delete", "awatch box.victim", "reverse-continue",
                       "reverse-continue",
                       elf=ELF)
        self.assert_order(out, r"Hardware read watchpoint 1: box.victim", r"Value = ", r"main",
                          r"Hardware access \(read/write\) watchpoint 2",
                          r"stray")

    def test_conditional_breakpoint_backwards(self):
        out = self.gdb(self.server, "break twice if x == 13", "continue", "p x",
                       "break twice if x == 4", "reverse-continue", "p x", elf=ELF)
        self.assert_order(out, r"\$1 = 13", r"\$2 = 4")

    def test_calls_of_guest_functions_and_changes_are_undone(self):
        out = self.gdb(self.server, "tbreak twice", "continue", "print twice(21)", "print square(twice(3))", "p x",
                       "set var box.victim = 7", "p box.victim", "set var $rax = 5", "p $rax", "stepi", "p box.victim == 7",
                       "reverse-stepi",
                       "p x", "bt", elf=ELF)
        self.assert_order(out, r"\$1 = 42", r"\$2 = 36", r"\$3 = 0", r"\$4 = 7", r"\$5 = 5",
                          r"back in the recorded run at position", r"\$6 = 0", r"\$7 = 0", r"#0 .*twice", r"#1 .*main")

    def test_breakpoint_in_a_called_function(self):
        out = self.gdb(self.server, "break push", "continue", "break square",
                       "python\ntry:\n  gdb.execute('print square(9)')\n"
                       "except gdb.error as e:\n  print('stopped:', e)\nend", "p x", "finish", "p $rip", elf=ELF)
        self.assert_order(out, r"Breakpoint 2, square \(x=9\)", r"\$\d+ = 9", r"Value returned is \$\d+ = 81")


class MonitorCommands(Case):
    def setUp(self):
        super().setUp()
        self.trace = self.record(*KERNEL, "--journal", "full")
        self.server = self.serve(self.trace)

    def test_commands_answer(self):
        out = self.gdb(self.server, "monitor help", "monitor position", "monitor events", "monitor checkpoints make",
                       "monitor info devices pit", "monitor regs", "monitor pt $rip", "monitor phys 0x100000 16",
                       "monitor disassemble $rip 2", "monitor nonsense")
        self.assert_order(out, r"last-write ADDR", r"position 0 of", r"wall-clock", r"checkpoints, ", r"pit8254\.",
                          r"rip 0000000000100000",
                          r"PML4E", r"physical 0x100000", r"000000100000  bc", r"mov esp, 0x90000",
                          r"no command 'nonsense'")

    def test_last_write_names_the_writer(self):
        out = self.gdb(self.server, "monitor seek end", "maintenance flush register-cache", "p/x (long)&box.victim",
                       elf=ELF)
        address = out.split("$1 = ")[1].split()[0]
        out = self.gdb(self.server, f"monitor last-write {address} 4", "monitor position", elf=ELF)
        self.assert_order(out, r"position [0-9']+: vCPU 0 at 0x\w+ wrote 1 bytes to", r"0x000004d2 -> 0x0000045a")

    def test_seek_and_break_on(self):
        out = self.gdb(self.server, "monitor break-on io 0xf4", "continue", "monitor break-on off", "monitor seek end",
                       "monitor break-on io", "reverse-continue", "monitor disassemble $rip 1")
        self.assert_order(out, r"port-write 0xf4", r"port-write 0xf4", r"out 0xf4, al")

    def test_go_live_and_back(self):
        out = self.gdb(self.server, "break twice", "continue", "monitor go-live", "set var box.victim = 1234", "delete",
                       f"tbreak {line('return total')}",
                       "continue", "p total", "monitor go-live off", "maintenance flush register-cache", "p total", "bt 1",
                       elf=ELF)
        self.assert_order(out, r"goes on by itself", r"\$1 = 204", r"\$2 = 204")

    def test_init_file_connects(self):
        server = self.serve(self.trace, "--init", self.path("init.gdb"))
        out = self.gdb(server, f"source {self.path('init.gdb')}", "monitor seek 5", "p/x $pc", connect=False)
        self.assertIn("position 5 of", out)
        self.assertNotIn("rror", out)


class TripleFault(Case):
    """lidt of nothing, ud2: with the default journal, which has no exceptions."""

    CODE = bytes([0x0f, 0x01, 0x1d, 0x10, 0x00, 0x10, 0x00, 0x0f, 0x0b]).ljust(32, b"\0")
    CHAIN = r"triple fault: #UD at RIP 0x100007, then #GP \(error code 0x33\), then #GP \(error code 0x6b\), then #DF \(error code 0x0\), then #GP \(error code 0x43\)\n"
    FIRST = r"at position 1 on vCPU 0: exception-lost 6 \(#UD\)\n"

    def setUp(self):
        super().setUp()
        with open(self.path("kernel"), "wb") as file:
            file.write(self.CODE)
        self.trace = self.record("--kernel", self.path("kernel"), "--flat-address", "0x100000", "--flat-mode", "protected32")

    def test_events_at_the_end_name_the_chain(self):
        for where in ("monitor seek end", "monitor seek begin"):
            out = self.gdb(self.serve(self.trace), where, "monitor events")
            self.assert_order(out, rf" 1  the recording ends: {self.CHAIN}")
        out = self.gdb(self.serve(self.trace), "monitor events around 99M")
        self.assert_order(out, r"the recording ends at 1: there is no position 99'000'000", self.CHAIN, r"<- position 99'000'000")

    def test_going_back_from_the_end_stops_where_the_chain_begins(self):
        server = self.serve(self.trace, "--at", "end")
        out = self.gdb(server, "monitor break-on exception", "reverse-continue", "print $pc", "monitor position",
                       "reverse-continue", "monitor position", "continue", "print $pc", "continue", "reverse-stepi", "monitor position")
        self.assert_order(out, self.FIRST, r"\$1 = .*0x100007", "position 1 of", "No more reverse-execution", "position 0 of",
                          self.FIRST, r"\$2 = .*0x100007", "the recording ends here: " + self.CHAIN, "position 0 of")

    def test_a_step_back_from_the_end_is_a_step(self):
        out = self.gdb(self.serve(self.trace, "--at", "end"), "monitor break-on exception", "reverse-stepi", "monitor position")
        self.assert_order(out, "position 0 of")
        self.assertNotIn("exception-lost", out)


class Modes(Case):
    """16- and 32-bit code."""

    def test_program_counter_is_linear_in_real_mode(self):
        server = self.serve(self.record(*MODES))
        out = self.gdb(server, "info registers rip cs", "x/3xb $pc", "stepi", "stepi", "stepi", "stepi", "stepi",
                       "info registers rip cs rbx",
                       "monitor disassemble $rip 1", "monitor regs", "reverse-stepi", "info registers rip")
        self.assert_order(out, r"rip +0x12340", r"0x12340:\s+0xb8\s+0x34\s+0x12", r"rip +0x1235\w", r"cs +0x1000",
                          r"rbx +0x55aa",
                          r"mov cx, 0x77", r"real mode", r"base 0000000000010000", r"rip +0x123\w\w")

    def test_breakpoint_in_protected_mode(self):
        server = self.serve(self.record(*MODES), "--arch", "i386")
        out = self.gdb(server, "set architecture i386", "monitor break-on io", "continue", "reverse-stepi", "reverse-stepi",
                       "info registers", "x/3i $pc", "p/x $cr0", "p $xmm7", "p/x $fs_base")
        self.assert_order(out, r"eip +0x12\w\w\w", r"pop +%esi|mov +\$0x0,%al", r"\$1 = 0x\w*1")
        self.assertIn("edx            0x89abcdef", out)


class Lldb(Case):
    def test_connects_reads_sets_a_breakpoint_and_continues(self):
        if LLDB is None:
            raise unittest.SkipTest("there is no lldb here")
        server = self.serve(self.record(*KERNEL))
        script = [f"target create {ELF}", f"gdb-remote {server.address}", "register read rip cr3 xmm0",
                  "memory read -c 16 0x100000",
                  "breakpoint set --name twice", "continue", "register read rip", "thread backtrace", "thread step-inst",
                  "register read rip"]
        with open(self.path("script.lldb"), "w") as file:
            file.write("\n".join(script) + "\n")
        result = subprocess.run([LLDB, "--no-lldbinit", "-b", "-s", self.path("script.lldb")], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        out = result.stdout.decode(errors="replace")
        self.assert_order(out, r"rip = 0x0*100000", r"cr3 = 0x", r"0x00100000: bc", r"stop reason = breakpoint", r"`twice",
                          r"main")


class Live(Case):
    """Machines that run for the first time."""

    def start(self, *arguments):
        server = Server([*arguments, "--gdb", "0", "--no-summary"])
        self.addCleanup(server.stop)
        return server

    def test_runs_under_gdb_to_its_end(self):
        server = self.start("run", *KERNEL)
        out = self.gdb(server, "break sum", "continue", "bt", "watch total", "delete 1", "continue", "print twice(4)",
                       "continue",
                       "continue", elf=ELF)
        self.assert_order(out, r"Breakpoint 1, sum", r"#1 .*main", r"Hardware watchpoint 2: total", r"New value = 204",
                          r"= 8",
                          r"the machine has ended: debug exit", r"exited with code 01|exited normally")
        self.assertEqual(server.process.wait(timeout=30), 0)

    def test_going_back_is_refused(self):
        out = self.gdb(self.start("run", *KERNEL), "stepi",
                       "python\ntry:\n  gdb.execute('reverse-stepi')\nexcept gdb.error as e:\n"
                       "  print('no:', e)\nend", "monitor seek 0", "kill")
        self.assert_order(out, r"no: Target remote does not support this command", r"there is no recording")

    def test_recording_under_gdb_replays(self):
        trace = self.path("r.trace")
        server = self.start("record", *KERNEL, "-o", trace)
        out = self.gdb(server, "break twice", "continue", "stepi", "python\ntry:\n  gdb.execute('set var box.victim = 1')\n"
                       "except gdb.error as e:\n  print('no:', e)\nend", "detach", elf=ELF)
        self.assert_order(out, r"Breakpoint 1, twice", r"no: ")
        self.assertEqual(server.process.wait(timeout=30), 0)
        replay = subprocess.run([TOOL, "replay", trace, "--no-summary"], capture_output=True, timeout=60)
        self.assertEqual(replay.returncode, 0, replay.stderr)

    def test_interrupt_wakes_a_sleeping_guest(self):
        server = self.start("run", *SLEEPER, "--time", "real")
        remote = Remote(server)
        remote.send("vCont;c")
        time.sleep(0.5)
        remote.socket.sendall(b"\x03")
        self.assertEqual(remote.receive(), "T02thread:1;")
        self.assertIn("halted", bytes.fromhex(remote.ask("qThreadExtraInfo,1")).decode())
        remote.send("k")


if __name__ == "__main__":
    main()
