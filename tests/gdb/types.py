"""What gdb knows of a stock kernel's types, functions and variables, out of the kernel's own memory."""
import re
import struct
import subprocess
import unittest

from support import TOOL, Case, linux, main

# The task that runs on CPU 0; per-CPU variables are offsets in each CPU's area.
CURRENT = "set $task = *(struct task_struct **)((char *)&current_task + ((unsigned long *)&__per_cpu_offset)[0])"


class Types(Case):
    def symbols(self, source, *options):
        made = subprocess.run([TOOL, "symbols", source, "-o", self.path("vmlinux.sym"), *options], capture_output=True, timeout=300)
        self.assertEqual(made.returncode, 0, made.stderr.decode())
        return made.stderr.decode()

    def test_a_recorded_kernel_is_explored_by_its_types(self):
        trace = self.record(*linux("workload=crash"), "--stop-on-panic")
        said = self.symbols(trace)
        found = re.search(r"(\d+) types, (\d+) functions with their parameters, (\d+) variables with their types", said)
        self.assertIsNotNone(found, said)
        self.assertGreater(int(found[1]), 40000)
        self.assertGreater(int(found[2]), 30000)
        self.assertGreater(int(found[3]), 200)
        server = self.serve(trace, "--at", "end")
        out = self.gdb(server, "ptype struct list_head", "print sizeof(struct task_struct) > 4000",
                       "print (long)&((struct task_struct*)0)->pid % 4", "ptype vfs_read", "ptype panic", "info scope vfs_read",
                       "print (void*)0",
                       # The first task, and the second, which its list leads to: the numbers and names are the kernel's own.
                       "print ((struct task_struct *)&init_task)->comm",
                       "set $first = ((struct task_struct *)&init_task)->tasks.next",
                       "set $init = (struct task_struct *)((char *)$first - (long)&((struct task_struct *)0)->tasks)",
                       "print $init->pid", "print $init->real_parent == (void *)&init_task",
                       CURRENT, "print $task->comm", "print $task->pid == $task->thread_pid->numbers[0].nr",
                       "whatis current_task", "whatis runqueues",
                       "break vfs_write", "reverse-continue", "print *(struct file *)$rdi", "print file->f_path.dentry->d_iname",
                       "print count", "stepi 3", "info args",
                       "delete", "break ksys_write", "reverse-continue",
                       # A longer one before; it writes all that it is asked to.
                       "delete", "break vfs_write if $rdx > 2", "reverse-continue", "set $wanted = count", "finish",
                       "print $ == $wanted && $wanted > 2",
                       "delete", "break filp_close", "reverse-continue", "info args", "finish", elf=self.path("vmlinux.sym"))
        self.assert_order(
            out, r"type = struct list_head \{\n    struct list_head \*next;\n    struct list_head \*prev;\n\}\n", r"\$1 = 1\n", r"\$2 = 0\n",
            r"type = (ssize_t|long) \(struct file \*, char \*, size_t, loff_t \*\)\n", r"type = void \(const char \*, \.\.\.\)\n",
            r"Symbol file is .*\n.* in \$rdi\n", r"Symbol buf is .*\n.* in \$rsi\n", r"Symbol count is .*\n.* in \$rdx\n",
            r"Symbol pos is .*\n.* in \$rcx\n", r"\$3 = \(void \*\) 0x0\n",
            r'\$4 = "swapper/0', r"\$5 = 1\n", r"\$6 = 1\n", r'\$7 = "', r"\$8 = 1\n",
            r"type = struct task_struct \*\n", r"type = struct rq\n",
            r"Breakpoint 1, 0x\w+ in vfs_write \(file=0xffff\w+, buf=0x\w+ \"c\\n", r"\$9 = \{.*f_op = 0x\w+ <proc_reg_file_ops>",
            r'\$10 = "sysrq-trigger', r"\$11 = 2\n", r"file = <optimized out>\n(?s:.*)count = <optimized out>",
            r"Breakpoint 2, 0x\w+ in ksys_write \(fd=1, buf=0x\w+ \"c\\n.*\", count=2\)",
            r"Breakpoint 3, 0x\w+ in vfs_write", r"Value returned is \$12 = \d+\n", r"\$13 = 1\n",
            r"Breakpoint 4, 0x\w+ in filp_close \(filp=0xffff", r"filp = 0xffff\w+\n", r"Value returned is \$14 = 0\n")

    def test_moved_types_and_variables_are_where_the_kernel_is(self):
        """A file as the kernel was linked, moved by --init to where the recorded one was: the image moves, per-CPU offsets do not."""
        arguments = linux("workload=poweroff")
        trace = self.record(*arguments)
        out = {}
        for source in (arguments[1], trace):
            self.symbols(source)
            start = self.path("start.gdb")
            self.serve(trace, "--at", "end", "--init", start, "--symbols", self.path("vmlinux.sym"))
            out[source] = self.gdb(None, f"source {start}", "print &runqueues", "print &current_task", "print &__per_cpu_end",
                                   "print vfs_read", CURRENT, "print $task->comm", "info scope vfs_read", connect=False)
            self.assert_order(out[source], r"\$1 = \(struct rq \*\) 0x[0-9a-f]{1,6}\n", r"\$2 = \(struct task_struct \*\*\) 0x[0-9a-f]{1,6}\n",
                              r"\$3 = .* 0x[0-9a-f]{1,6}\n", r"\$4 = \{.*\} 0xffffffff\w+ <vfs_read>", r'\$5 = "\w',
                              r"Range 0xffffffff\w+-0x\w+: a variable in \$rdi")
            self.assertNotIn("rror: pc", out[source])
        said = [re.findall(r"\$\d = .*|Range.*", text) for text in out.values()]
        self.assertEqual(said[0], said[1])

    def test_a_kernel_without_types_has_names_only(self):
        """A kernel's table of symbols (scripts/kallsyms.c of Linux 6.1), and nothing else."""
        base = 0xffffffff81000000
        names = ["T_text", "Tpanic"] + [f"tfunction_{i}" for i in range(30)] + ["T_etext", "B_end"]
        tokens = [bytes([i]) if 0x21 <= i < 0x7f else b"x" for i in range(256)]
        addresses = b"".join(struct.pack("<i", -1 - 16 * i) for i in range(len(names)))
        table = b"".join(bytes([len(name)]) + name.encode() for name in names)
        index, text = [], b""
        for token in tokens:
            index.append(len(text))
            text += token + b"\0"

        def aligned(data):
            return data + bytes(-len(data) % 8)

        image = (b"\xcc" * 4096 + aligned(addresses) + struct.pack("<QQ", base, len(names)) + aligned(table) + aligned(bytes(4)) +
                 aligned(text) + struct.pack("<256H", *index) + b"\x90" * 1000)
        with open(self.path("image"), "wb") as file:
            file.write(image)
        said = self.symbols(self.path("image"))
        self.assertIn("34 symbols", said)
        self.assertIn("names only: the kernel carries no types (it was built without CONFIG_DEBUG_INFO_BTF)", said)
        out = self.gdb(None, "print panic", "ptype struct list_head", elf=self.path("vmlinux.sym"), connect=False)
        self.assert_order(out, r"<text variable, no debug info>.* 0xffffffff81000010 <panic>", r"No struct type named list_head")
        refused = subprocess.run([TOOL, "symbols", self.path("image"), "-o", self.path("s"), "--btf", self.path("b")], capture_output=True,
                                 timeout=300)
        self.assertEqual(refused.returncode, 7, refused.stderr.decode())


if __name__ == "__main__":
    main()
