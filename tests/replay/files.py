#!/usr/bin/env python3
"""The files that commands are given: nothing is written over what the same command reads or writes; nothing is replaced before
it is whole; a trace finds its kernel from anywhere."""
import glob
import os
import resource
import shutil
import subprocess

import support
from support import BAD_ARGUMENTS, ECHO, FAILED, FINE

QUIT = bytes([0xb0, 0x00, 0xe6, 0xf4, 0xf4])  # mov al, 0; out 0xf4, al; hlt
FLAT = ["--flat-address", "0x100000", "--flat-mode", "protected32", "--memory", "16M", "--engine", "soft", "--deterministic"]


class Outputs(support.Case):
    def setUp(self):
        super().setUp()
        self.kernel = self.file("k", QUIT)
        self.guest = ["--kernel", self.kernel, *FLAT]
        self.trace = self.path("t")
        self.tool("record", *self.guest, "-o", self.trace)
        os.symlink("k", self.path("symbolic"))
        os.link(self.kernel, self.path("hard"))
        os.symlink("nothing", self.path("dangling"))
        os.symlink(self.folder, self.path("folder"))
        self.before = self.contents()

    def contents(self):
        out = {}
        for name in sorted(os.listdir(self.folder)):
            path = self.path(name)
            out[name] = os.readlink(path) if os.path.islink(path) else self.file_content(name)
        return out

    def refused(self, one, other, *arguments, **options):
        with self.subTest(arguments=arguments):
            words = self.tool(*arguments, expect=BAD_ARGUMENTS, timeout=60, **options).words
            self.assertIn(one, words)
            self.assertIn(other, words)
            self.assertEqual(self.contents(), self.before)

    def test_no_output_is_an_input_by_any_name(self):
        script = self.file("s", 'after "x" send "y"')
        self.before = self.contents()
        kernel_names = [self.path(n) for n in ("k", "symbolic", "hard", "folder/k", "./k")]
        for name in kernel_names:
            self.refused("--output", "--kernel", "record", *self.guest, "-o", name)
            self.refused("--json-summary", "--kernel", "run", *self.guest, "--json-summary", name)
            self.refused("--json-summary", "--kernel", "record", *self.guest, "-o", self.path("new"), "--json-summary", name)
            self.refused("--output", "KERNEL", "symbols", self.kernel, "-o", name)
            self.refused("--init", "--kernel", "gdb", self.trace, "--init", name, "--listen", "127.0.0.1:0")
            self.refused("--output", "--kernel", "replay", self.trace, "--output", name)
            self.refused("--json-summary", "--kernel", "replay", self.trace, "-q", "--json-summary", name)
        for option in ("--initrd", "--module"):
            self.refused("--output", option, "record", *self.guest, option, script, "-o", script)
        self.refused("--output", "--console", "record", *self.guest, "--console", f"script:{script}", "-o", script)
        self.refused("--output", "--kernel", "trace", "convert", self.trace, "-o", self.kernel)
        self.refused("--output", "--kernel", "symbols", self.trace, "-o", self.kernel)

    def test_no_output_is_the_trace_that_is_read(self):
        symbols = self.file("symbols", "x")
        self.before = self.contents()
        self.refused("--output", "TRACE", "trace", "convert", self.trace, "-o", self.trace)
        self.refused("--output", "TRACE", "symbols", self.trace, "-o", self.trace)
        self.refused("--output", "TRACE", "replay", self.trace, "--output", self.trace)
        self.refused("--json-summary", "TRACE", "replay", self.trace, "--json-summary", self.trace)
        self.refused("--init", "TRACE", "gdb", self.trace, "--init", self.trace, "--listen", "127.0.0.1:0")
        self.refused("--init", "TRACE", "gdb", self.trace, "--init", self.trace, "--stdio")
        self.refused("--init", "--symbols", "gdb", self.trace, "--init", symbols, "--symbols", symbols, "--stdio")

    def test_no_output_is_another_output(self):
        for one, other in (("new", "new"), ("new", "folder/new"), ("new", "./new"), ("dangling", "nothing"), ("t", "t")):
            self.refused("--output", "--json-summary", "record", *self.guest, "-o", self.path(one), "--json-summary", self.path(other))
            self.refused("--output", "--json-summary", "replay", self.trace, "--output", self.path(one + "x"), "--json-summary",
                         self.path(one + "x"))
        self.refused("--output", "--json-summary", "record", *self.guest, "-o", self.path("new"), "--json-summary",
                     self.path("new.partial"))
        self.refused("--gdb", "--output", "record", *self.guest, "-o", self.path("new"), "--gdb", "unix:" + self.path("new"))
        self.refused("--init", "--listen", "gdb", self.trace, "--init", self.path("new"), "--listen", "unix:" + self.path("new"))

    def test_the_standard_streams_are_files_too(self):
        shutil.copy(self.trace, self.path("u.partial"))  # what is unfinished is told of, too, and must not be told to itself
        self.before = self.contents()
        reading_a_trace = (["replay"], ["replay", "--bisect"], ["trace", "info"], ["trace", "info", "--json"], ["trace", "verify"],
                           ["trace", "verify", "--json"], ["trace", "dump"], ["trace", "dump", "--json"],
                           ["trace", "convert", "-o", self.path("new")], ["symbols", "-o", self.path("new")],
                           ["gdb", "--once", "--listen", "127.0.0.1:0"], ["gdb", "--stdio"])
        cases = [([*command, self.path(trace)], file) for command in reading_a_trace
                 for trace, file in (("t", "t"), ("u", "u.partial"))]
        cases += [(command, "k") for command in (["run", *self.guest], ["record", *self.guest, "-o", self.path("new")],
                                                 ["symbols", self.kernel, "-o", self.path("new")], ["replay", self.trace],
                                                 ["gdb", "--stdio", self.trace],
                                                 ["trace", "convert", self.trace, "-o", self.path("new")])]
        for command, name in cases:
            for stream in ("stdout", "stderr"):
                # What is wrong with standard error is told on standard output.
                words = "stdout" if stream == "stderr" else "stderr"
                with self.subTest(command=command, stream=stream), open(self.path(name), "ab") as file:
                    result = subprocess.run([support.TOOL, *command], stdin=subprocess.DEVNULL, check=False, timeout=60,
                                            **{stream: file, words: subprocess.PIPE})
                    self.assertEqual(self.contents(), self.before)
                    self.assertEqual(result.returncode, BAD_ARGUMENTS)
                    self.assertIn(b"standard output" if stream == "stdout" else b"standard error", getattr(result, words))
            with self.subTest(command=command, stream="both"), open(self.path(name), "ab") as file:
                result = subprocess.run([support.TOOL, *command], stdin=subprocess.DEVNULL, check=False, timeout=60, stdout=file,
                                        stderr=file)
                self.assertEqual(self.contents(), self.before)
                self.assertEqual(result.returncode, BAD_ARGUMENTS)
        os.remove(self.path("u.partial"))
        keys = self.file("keys", "typed")
        self.before = self.contents()
        with open(keys, "rb") as file:
            self.refused("--output", "standard input", "record", *ECHO, "-o", keys, stdin=file)
        log = self.path("log")
        with open(log, "wb") as file:  # standard output and error may share a file
            done = subprocess.run([support.TOOL, "run", *self.guest], stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False)
        self.assertEqual(done.returncode, FINE)
        self.assertIn(b"run ended", self.file_content("log"))

    def test_devices_and_pipes_are_outputs_as_ever(self):
        summary = self.tool("run", *self.guest, "--no-summary", "--json-summary", "/dev/stdout").stdout
        self.assertEqual(support.json.loads(summary)["stop"], "debug exit")
        self.tool("record", *self.guest, "-o", "/dev/null", "--json-summary", "/dev/null")
        self.assertIn("/dev/full", self.tool("run", *self.guest, "--json-summary", "/dev/full", expect=FAILED).words)
        self.assertTrue(os.path.exists("/dev/full"))
        log = self.path("log")
        with open(log, "wb") as file:  # behind what the guest has printed there
            file.write(b"before\n")
            file.flush()
            done = subprocess.run([support.TOOL, "run", *self.guest, "--no-summary", "--json-summary", "/dev/stdout"],
                                  stdin=subprocess.DEVNULL, stdout=file, check=False)
        self.assertEqual(done.returncode, FINE)
        self.assertTrue(self.file_content("log").startswith(b"before\n{"))

    def test_an_output_takes_the_place_of_the_old_file_when_it_is_whole(self):
        target = self.file("old", "old")
        os.chmod(target, 0o640)
        os.symlink("old", self.path("link"))
        self.tool("run", *self.guest, "--json-summary", self.path("link"))
        self.assertTrue(os.path.islink(self.path("link")))
        self.assertEqual(os.stat(target).st_mode & 0o777, 0o640)
        support.json.loads(self.file_content("old"))
        self.assertEqual([n for n in os.listdir(self.folder) if n.endswith(".partial")], [])

    def test_a_write_that_fails_leaves_the_old_file(self):
        self.file("old", "old")
        limit = (16, 16)
        self.tool("run", *self.guest, "--no-summary", "--json-summary", self.path("old"), expect=FAILED,
                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
        self.assertEqual(self.file_content("old"), b"old")
        self.assertFalse(os.path.exists(self.path("old.partial")))
        self.assertIn("directory", self.tool("run", *self.guest, "--json-summary", self.folder, expect=FAILED).words)
        self.assertIn("nowhere", self.tool("record", *self.guest, "-o", self.path("new"), "--json-summary",
                                           self.path("nowhere/x"), expect=FAILED).words)
        self.assertFalse(os.path.exists(self.path("new")), "recorded, although what it ends with cannot be written")


class Images(support.Case):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("a"))
        os.mkdir(self.path("b"))
        self.file("a/k", QUIT)
        self.tool("record", "--kernel", "k", *FLAT, "-o", "t", cwd=self.path("a"))

    def test_a_trace_replays_from_any_folder(self):
        self.tool("replay", self.path("a/t"), cwd="/")
        self.tool("replay", "../a/t", cwd=self.path("b"))
        shutil.move(self.path("a/t"), self.path("b/t"))
        self.tool("replay", self.path("b/t"), cwd="/")
        images = support.json.loads(self.tool("trace", "info", self.path("b/t"), "--json").stdout)["header"]["images"]
        self.assertEqual(images[0]["name"], os.path.realpath(self.path("a/k")))

    def test_a_kernel_is_found_beside_the_trace(self):
        for name in ("t", "k"):
            shutil.move(self.path(f"a/{name}"), self.path(f"b/{name}"))
        self.tool("replay", self.path("b/t"), cwd="/")
        self.tool("replay", "t", cwd=self.path("b"))
        self.file("a/k", b"another kernel by now")
        self.tool("replay", self.path("b/t"), cwd="/")

    def test_a_kernel_that_is_nowhere_is_asked_for(self):
        shutil.move(self.path("a/k"), self.path("b/k"))
        for command in (["replay", self.path("a/t")], ["gdb", self.path("a/t"), "--stdio"], ["trace", "convert", self.path("a/t"), "-o",
                        self.path("c")], ["symbols", self.path("a/t"), "-o", self.path("c")]):
            words = self.tool(*command, expect=FAILED).words
            self.assertIn("beside the trace", words)
            self.assertIn("--kernel", words)
        self.tool("replay", self.path("a/t"), "--kernel", self.path("b/k"))
        # Found, and no Linux: not the error of a kernel that is not there.
        words = self.tool("symbols", self.path("a/t"), "-o", self.path("s"), "--kernel", self.path("b/k"), expect=None).words
        self.assertNotIn("--kernel", words)
        self.assertIn("Linux", words)
        answer = subprocess.run([support.TOOL, "gdb", self.path("a/t"), "--stdio", "--kernel", self.path("b/k")],
                                input=b"+$?#3f+$k#6b", capture_output=True, timeout=60, check=False)
        self.assertIn(b"$T05thread:", answer.stdout, answer.stderr)
        self.file("a/k", b"another kernel by now")
        words = self.tool("replay", self.path("a/t"), expect=support.BAD_IMAGE).words
        self.assertIn("does not belong to this kernel", words)
        self.assertIn(os.path.realpath(self.path("a/k")), words)
        self.assertIn("--kernel", words)


    def test_convert_takes_a_kernel_that_has_moved(self):
        golden = glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../traces/golden/*/spin.trace"))
        self.assertNotEqual(golden, [])
        for trace in golden:
            shutil.copy(trace, self.path("a/spin.trace"))
            shutil.copy(trace.replace(".trace", ".bin"), self.path("b/moved"))
            self.tool("trace", "convert", self.path("a/spin.trace"), "-o", self.path("c"), expect=FAILED)
            self.tool("trace", "convert", self.path("a/spin.trace"), "-o", self.path("c"), "--kernel", self.path("b/moved"))
            self.tool("replay", self.path("c"), "--kernel", self.path("b/moved"))

    def test_modules_are_given_as_they_were_typed_to_record(self):
        kernel = os.path.join(os.environ["BOOT_GUESTS"], "multiboot.bin")
        for name in ("m 1", "m2"):
            self.file(f"a/{name}", name)
        self.file("a/m1", b"m 1")
        self.tool("record", "--kernel", kernel, "--module", "m1 x y", "--module", "m2", "-m", "16", "--deterministic", "-o", "t",
                  cwd=self.path("a"))
        shutil.move(self.path("a/m2"), self.path("b/m2"))
        os.remove(self.path("a/m1"))
        shutil.move(self.path("a/m 1"), self.path("b/m 1"))
        self.file("b/n1", b"m 1")
        moved = ["--module", "n1 x y", "--module", "m2"], ["--module", "m 1", "--module", "m2 other words"]
        for arguments in moved:
            out = self.tool("replay", self.path("a/t"), *arguments, cwd=self.path("b")).stdout
            self.assertEqual(out, b"multiboot.bin\nm1 x y\nm2\n")


class Places(support.Case):
    """Positions that a recording does not have."""

    def setUp(self):
        super().setUp()
        self.trace = self.path("t")
        self.tool("record", "--kernel", self.file("k", QUIT), *FLAT, "-o", self.trace)

    def test_a_place_behind_the_end_is_told(self):
        words = self.tool("replay", self.trace, "--stop-at", "99M").words
        self.assertIn("--stop-at 99 000 000: the recording ends at 2", words)
        words = self.tool("replay", self.trace, "--from", "99M", expect=BAD_ARGUMENTS).words
        self.assertIn("the recording ends at 2 (--from 99M)", words)
        shown = self.tool("trace", "dump", self.trace, "--from", "99M")
        self.assertEqual(shown.stdout, b"")
        self.assertIn("--from 99 000 000: the recording ends at 2: nothing is there", shown.words)
        self.assertIn("nothing is there", self.tool("trace", "dump", self.trace, "--json", "--from", "99M").words)
        self.assertIn("--to lies before --from", self.tool("trace", "dump", self.trace, "--from", "2", "--to", "1", expect=BAD_ARGUMENTS).words)
        answer = subprocess.run([support.TOOL, "gdb", self.trace, "--stdio", "--at", "99M"], input=b"+$?#3f+$k#6b", capture_output=True,
                                timeout=60, check=False)
        self.assertIn(b"--at 99 000 000: the recording ends at 2", answer.stderr)
        self.assertIn(b"$T05thread:", answer.stdout)

    def test_a_place_that_is_there_is_not_remarked_on(self):
        for arguments in (["replay", self.trace, "--stop-at", "1"], ["replay", self.trace, "--from", "0"],
                          ["trace", "dump", self.trace, "--from", "2"], ["trace", "dump", self.trace, "--from", "1", "--to", "1"]):
            self.assertNotIn("ends at", self.tool(*arguments).words)


class Install(support.Case):
    def test_the_tool_is_installed_and_runs_from_the_path(self):
        prefix = self.path("prefix")
        subprocess.run(["cmake", "--install", os.path.dirname(support.TOOL), "--prefix", prefix], check=True,
                       stdout=subprocess.DEVNULL)
        environment = {**os.environ, "PATH": os.path.join(prefix, "bin") + ":" + os.environ["PATH"]}
        self.file("k", QUIT)
        subprocess.run(["retrovisor", "record", "--kernel", "k", *FLAT, "-o", "t"], cwd=self.folder, env=environment, check=True)
        subprocess.run(["retrovisor", "replay", "t"], cwd=self.folder, env=environment, check=True)


if __name__ == "__main__":
    support.main()
