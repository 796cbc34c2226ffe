"""Debugging a recorded crash of Debian's kernel, with the symbols that it carries itself."""
import os
import re
import shutil
import subprocess
import unittest

from support import GDB, TOOL, Case, linux, main

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Linux(Case):
    def test_crash_is_walked_back(self):
        trace = self.record(*linux("workload=crash"), "--stop-on-panic")
        symbols = self.path("vmlinux.sym")
        made = subprocess.run([TOOL, "symbols", trace, "-o", symbols], capture_output=True, timeout=300)
        self.assertEqual(made.returncode, 0, made.stderr.decode())
        offset = re.search(r"KASLR offset (0x[0-9a-f]+)", made.stderr.decode()).group(1)
        server = self.serve(trace, "--at", "end")
        out = self.gdb(server, "break panic", "reverse-continue", "bt 2", "x/s $rdi", "reverse-stepi", "x/i $pc", "stepi",
                       "print ((int(*)(int))int_sqrt)(1764)", "stepi", "delete", "watch -l *(long*)&jiffies_64",
                       "reverse-continue", "x/i $pc", "continue", "delete",
                       "break asm_exc_page_fault", "reverse-continue", "x/i $pc", "monitor position", "reverse-stepi",
                       "stepi", "x/i $pc", "stepi", "x/i $pc", "monitor kaslr", "monitor symbol $pc", "monitor symbol panic",
                       "monitor disassemble $pc 1", "monitor regs 0x0", "info registers cr3 gs_base", elf=symbols)
        self.assert_order(out, r"Breakpoint 1, .* panic", r"#1 .* sysrq_handle_crash", r"sysrq triggered crash", r"call ",
                          r"\$1 = 42", r"dropped", r"Hardware watchpoint 2", r"Old value = ", r"tick_do_update_jiffies64",
                          r"add ", r"Old value = ",
                          r"Breakpoint 3, .* asm_exc_page_fault", r"=> .*<asm_exc_page_fault>", r"exception is taken",
                          r"=> .*<asm_exc_page_fault>", r"=> .*<asm_exc_page_fault\+", rf"offset {offset}",
                          r"0xffffffff\w+ [tT] asm_exc_page_fault\+0x", r"0xffffffff\w+ T panic\n", r"0xffffffff\w+:  \w+",
                          r"vCPU 0, CPL 0")

    def test_symbols_of_the_image_are_those_of_the_recording_without_its_offset(self):
        arguments = linux("workload=crash")
        trace = self.record(*arguments, "--stop-on-panic")
        for source, name in ((trace, "trace.sym"), (arguments[1], "image.sym")):
            made = subprocess.run([TOOL, "symbols", source, "--kaslr", "0", "-o", self.path(name)], capture_output=True,
                                  timeout=300)
            self.assertEqual(made.returncode, 0, made.stderr.decode())
        with open(self.path("trace.sym"), "rb") as one, open(self.path("image.sym"), "rb") as other:
            self.assertEqual(one.read(), other.read())

    def test_init_code_and_moved_symbols(self):
        """Breakpoints by name on __init functions, with either kind of symbol file loaded by --init."""
        arguments = linux("workload=poweroff")
        trace = self.record(*arguments)
        for source, name in ((trace, "run.sym"), (arguments[1], "linked.sym")):
            made = subprocess.run([TOOL, "symbols", source, "-o", self.path(name)], capture_output=True, timeout=300)
            self.assertEqual(made.returncode, 0, made.stderr.decode())
            start = self.path(name + ".gdb")
            self.serve(trace, "--init", start, "--symbols", self.path(name))
            out = self.gdb(None, f"source {start}", "break start_kernel", "break kernel_init_freeable", "continue", "x/i $pc",
                           "continue", "monitor kaslr", connect=False)
            self.assert_order(out, r"Breakpoint 1 at 0xffffffff\w+", r"Breakpoint 2 at 0xffffffff\w+",
                              r"Breakpoint 1, 0x\w+ in start_kernel", r"=> 0x\w+ <start_kernel\+?\d*>:",
                              r"Breakpoint 2, 0x\w+ in kernel_init_freeable",
                              r"add-symbol-file vmlinux -o 0x\w+ -s \.data\.\.percpu 0")

    def walk_back(self, workload):
        """What ./run-demo ends with; gdb's exit code and words."""
        if GDB is None or shutil.which("stdbuf") is None:
            raise unittest.SkipTest("there is no gdb here, or no stdbuf")
        trace = self.record(*linux(f"workload={workload}"), "--stop-on-panic")
        done = subprocess.run(["stdbuf", "-o0", TOOL, "debug", trace, "--gdb", GDB, "--", "-nx", "-batch",
                               "-x", os.path.join(TOP, "examples", "crash", "walk-back.gdb")],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        return done.returncode, done.stdout.decode(errors="replace")

    def test_the_demos_script_walks_back_to_who_asked_for_the_crash(self):
        code, out = self.walk_back("crash")
        self.assertEqual(code, 0, out)
        self.assert_order(out, r"the recording ends here: guest panic", r"Breakpoint 1, .* in panic",
                          r"sysrq triggered crash",
                          r"=> 0x\w+ <sysrq_handle_crash\+\d+>:\s+call .*<panic>", r"\nrip ffffffff",
                          r"#0 .* sysrq_handle_crash", r"write_sysrq_trigger", r"vfs_write", r"entry_SYSCALL_64_after_hwframe",
                          r"0x63\s+0x0a",
                          r"Old value = 99 'c'", r"=> 0x\w+:\s+mov")

    def test_the_demos_script_fails_where_nothing_crashed(self):
        code, out = self.walk_back("poweroff")
        self.assertEqual(code, 3, out)
        self.assertIn("this should hold here, and does not", out)


if __name__ == "__main__":
    main()
