"""Views of a recorded kernel - dmesg, ps, bt, lsmod - beside what the guest itself has printed, at the same position."""
import json
import os
import re
import shutil
import subprocess
import sys
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "gdb"))
from support import GUEST_DIR, TOOL, Case, Remote, linux, main  # noqa: E402  pylint: disable=wrong-import-position

WORKLOAD = r"""#!/bin/sh
printf 'first line\nsecond line' > /dev/kmsg
for module in /rv_first.ko /rv_second.ko; do [ -f $module ] && insmod $module; done
sleep 1000 &
echo "== dmesg"
dmesg
echo "== ps"
ps -o pid,ppid,stat,comm
echo "== modules"
cat /proc/modules
echo "== lsmod"
lsmod
echo "== end"
poweroff -f
"""
MODULES = {
    "rv_first": "int rv_shared(void);\nint rv_shared(void) { return 1; }\nEXPORT_SYMBOL(rv_shared);\n",
    "rv_second": "extern int rv_shared(void);\nstatic int __init begin(void) { return rv_shared() - 1; }\nmodule_init(begin);\n"
                 "static void __exit end(void) { }\nmodule_exit(end);\n",
}


def modules(folder):
    """Two modules of which the second uses the first; none where there are no headers to build them against."""
    said = subprocess.run([os.path.join(TOP, "tools", "get-headers"), "cloud"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=300, check=False)
    if said.returncode != 0:
        return []
    for name, text in MODULES.items():
        with open(os.path.join(folder, name + ".c"), "w") as file:
            file.write('#include <linux/module.h>\nMODULE_LICENSE("GPL");\n' + text)
    with open(os.path.join(folder, "Makefile"), "w") as file:
        file.write("obj-m := " + " ".join(f"{name}.o" for name in MODULES) + "\n")
    made = subprocess.run(["make", "-C", said.stdout.strip(), f"M={folder}", "modules"], capture_output=True, text=True, timeout=300, check=False)
    if made.returncode != 0:
        raise AssertionError(made.stdout + made.stderr)
    return [os.path.join(folder, name + ".ko") for name in MODULES]


class Views(Case):
    """One recording; each section of the console with the position at which its last character was written."""

    @classmethod
    def setUpClass(cls):
        arguments = linux("workload=none")
        cls.made = cls("run_nothing")
        Case.setUp(cls.made)
        cls.addClassCleanup(shutil.rmtree, cls.made.folder, ignore_errors=True)
        workload, initramfs = cls.made.path("workload"), cls.made.path("initramfs.cpio")
        with open(workload, "w") as file:
            file.write(WORKLOAD)
        os.chmod(workload, 0o755)
        cls.modules = modules(cls.made.folder)
        added = [f"{workload}:/workload"] + [f"{m}:/{os.path.basename(m)}" for m in cls.modules]
        subprocess.run([os.path.join(TOP, "tools", "make-initramfs"), initramfs, "--busybox", os.path.join(GUEST_DIR, "busybox"),
                        *[word for one in added for word in ("--add", one)]], check=True, timeout=60)
        arguments[arguments.index("--initrd") + 1] = initramfs
        cls.trace = cls.made.record(*arguments, "--journal", "full")
        dumped = subprocess.run([TOOL, "trace", "dump", cls.trace, "--kind", "port-write"], capture_output=True, text=True, timeout=300, check=True)
        console, positions = "", []
        for position, value in re.findall(r"^\s*(\d+)  .*port-write 0x3f8 size 1 value 0x(\w+)", dumped.stdout, re.MULTILINE):
            console += chr(int(value, 16))
            positions.append(int(position))
        cls.sections = {}
        marks = list(re.finditer(r"== (\w+)\r\n", console))
        for mark, after in zip(marks, marks[1:]):
            cls.sections[mark[1]] = (console[mark.end():after.start()].replace("\r", "").splitlines(), positions[after.start() - 1] + 1)

    def run_nothing(self):
        """The case that makes the recording."""

    def view(self, position, *words, code=0):
        said = subprocess.run([TOOL, "linux", self.trace, "--at", str(position), *words], capture_output=True, text=True, timeout=300, check=False)
        self.assertEqual(said.returncode, code, said.stdout + said.stderr)
        return said.stdout if code == 0 else said.stderr

    def test_dmesg_is_the_guests(self):
        lines, position = self.sections["dmesg"]
        self.assertGreater(len(lines), 100)
        self.assertRegex("\n".join(lines), r"\n\[ +\d+\.\d{6}\] first line\n\[ +\d+\.\d{6}\] second line")
        self.assertEqual(self.view(position, "dmesg").splitlines(), lines)
        self.assertEqual(self.view(position, "dmesg", "3").splitlines()[-1], lines[-1])
        log = json.loads(self.view(position, "dmesg", "--json"))
        self.assertIsNone(log["trouble"])
        self.assertEqual([r["sequence"] for r in log["records"]], list(range(len(log["records"]))))
        written = [r for r in log["records"] if r["text"] == "first line\nsecond line"]
        self.assertEqual([(r["facility"], r["level"]) for r in written], [(1, 4)])  # user, warning: what /dev/kmsg takes by default

    def test_ps_is_the_guests(self):
        lines, position = self.sections["ps"]
        tasks = json.loads(self.view(position, "ps", "--json"))
        self.assertIsNone(tasks["trouble"])
        processes = {t["pid"]: t for t in tasks["tasks"] if t["pid"] == t["tgid"]}
        printed = {}
        for line in lines[1:]:
            pid, parent, state, name = line.split(None, 3)
            printed[int(pid)] = (int(parent), state, name)
        self.assertGreater(len(printed), 30)
        self.assertEqual(sorted(printed), sorted(processes))
        same = 0
        for pid, (parent, state, name) in printed.items():
            task = processes[pid]
            self.assertEqual(task["ppid"], parent, task)
            if name.startswith("kworker/"):  # what they do changes while ps prints
                self.assertEqual(re.split("[-+]", task["name"])[0][:15], re.split("[-+]", name)[0])
                same += task["name"][:15] == name and task["state"] == state[0]
                continue
            # busybox shows 15 characters.
            self.assertEqual((task["name"][:15], task["state"]), (name, state[0]), task)
            self.assertEqual(task["kernel_thread"], parent == 2 or pid == 2, task)
            self.assertEqual(int(task["mm"], 16) == 0, task["kernel_thread"], task)
            same += 1
        self.assertGreaterEqual(same, len(printed) - 2)
        text = self.view(position, "ps").splitlines()
        self.assertEqual(len(text), 1 + len(tasks["tasks"]))
        self.assertRegex("\n".join(text), r"\n +2 +2 +0 +0 S \[kthreadd\]\n")

    def test_modules_are_the_guests(self):
        if not self.modules:
            self.skipTest("no headers to build modules against")
        lines, position = self.sections["modules"]
        listed = json.loads(self.view(position, "lsmod", "--json"))
        self.assertIsNone(listed["trouble"])
        expected = []
        for m in listed["modules"]:
            users = "".join(user + "," for user in m["used_by"]) + ("[permanent]," if m["permanent"] else "")
            expected.append(f"{m['name']} {m['size']} {m['references']} {users or '-'} {m['state'].capitalize()} {m['base']}")
        self.assertEqual(expected, [re.sub(r" \([A-Z]+\)$", "", line) for line in lines])
        self.assertEqual([m["name"] for m in listed["modules"]], ["rv_second", "rv_first"])
        lines, position = self.sections["lsmod"]
        self.assertEqual([line.split() for line in self.view(position, "lsmod").splitlines()[1:]], [line.split() for line in lines[1:]])

    def test_every_tasks_stack_leads_to_where_it_began(self):
        stacks = json.loads(self.view("end", "bt", "all", "--json"))
        self.assertIsNone(stacks["trouble"])
        self.assertGreater(len(stacks["stacks"]), 30)
        running = 0
        for stack in stacks["stacks"]:
            self.assertIsNone(stack["trouble"], stack)
            last = stack["frames"][-1]
            if stack["vcpu"] is not None:
                running += 1
                self.assertEqual(stack["task"]["name"], "poweroff")
            elif stack["task"]["pid"] == 0:
                self.assertRegex(" ".join(f["place"] for f in stack["frames"]), r"do_idle\S* .*(start_kernel|secondary_startup_64)")
            elif stack["task"]["kernel_thread"]:
                self.assertRegex(last["place"], r"^ret_from_fork", stack)
                self.assertRegex(stack["frames"][0]["place"], r"^__schedule\+", stack)
            else:
                self.assertTrue(last["user"], stack)
        self.assertEqual(running, 1)
        words = self.view("end", "bt", "1")
        self.assertRegex(words, r"^process 1 \(init\), 0xffff\w+\n  state S\n#0 +0x\w+ __schedule\+0x\w+\n(?s:.*) do_wait\+(?s:.*)"
                         r"entry_SYSCALL_64_after_hwframe\+0x\w+\n#\d+ +0x\w+ \(user mode\)\n$")
        self.assertIn("there is no task 4000", self.view("end", "bt", "4000", code=2))

    def test_what_is_wrong_is_said(self):
        self.assertIn("'px' is no view (there are dmesg, ps, bt, lsmod)", self.view("end", "px", code=2))
        self.assertIn("no Linux kernel runs here", self.view("begin", "ps", code=6))
        self.assertIn("the recording ends at", self.view("900G", "ps", code=2))

    def test_monitor_commands_answer_everywhere(self):
        """Also where the kernel is in the middle of changing what is looked at; each view has an end."""
        remote = Remote(self.serve(self.trace))
        end = self.sections["lsmod"][1]
        answered = 0
        for i in range(1, 60):
            remote.monitor(f"seek {end * i // 60 + 7919 * i % 1000}")
            for view in ("dmesg 5", "ps", "lsmod", "bt", "bt all", "bt 1"):
                said = remote.monitor(view)
                self.assertTrue(said.endswith("\n"), (view, said))
                answered += not re.search("no Linux kernel|there is no task|no vCPU's page tables", said)
        self.assertGreater(answered, 200)
        remote.monitor(f"seek {end}")
        self.assertEqual(remote.monitor("ps"), self.view(end, "ps"))
        self.assertIn("kthreadd", remote.monitor("bt 2"))
        remote.close()


if __name__ == "__main__":
    main()
