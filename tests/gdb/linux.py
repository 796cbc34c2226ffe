"""Debugging a recorded crash of Debian's kernel, with the symbols that it carries itself."""
import re
import subprocess

from support import TOOL, Case, linux, main


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
                       "stepi", "x/i $pc", "monitor kaslr", "info registers cr3 gs_base", elf=symbols)
        self.assert_order(out, r"Breakpoint 1, .* panic", r"#1 .* sysrq_handle_crash", r"sysrq triggered crash", r"call ",
                          r"\$1 = 42", r"dropped", r"Hardware watchpoint 2", r"Old value = ", r"tick_do_update_jiffies64",
                          r"add ", r"Old value = ",
                          r"Breakpoint 3, .* asm_exc_page_fault", r"=> .*<asm_exc_page_fault>", r"exception is taken",
                          r"=> .*<asm_exc_page_fault\+", rf"offset {offset}")

    def test_symbols_of_the_image_are_those_of_the_recording_without_its_offset(self):
        arguments = linux("workload=crash")
        trace = self.record(*arguments, "--stop-on-panic")
        for source, name in ((trace, "trace.sym"), (arguments[1], "image.sym")):
            made = subprocess.run([TOOL, "symbols", source, "--kaslr", "0", "-o", self.path(name)], capture_output=True,
                                  timeout=300)
            self.assertEqual(made.returncode, 0, made.stderr.decode())
        with open(self.path("trace.sym"), "rb") as one, open(self.path("image.sym"), "rb") as other:
            self.assertEqual(one.read(), other.read())


if __name__ == "__main__":
    main()
