"""A server that is busy is waited for: gdb with its default timeout of two seconds, however long the way to the first answer;
a second debugger is told who is there; a 32-bit kernel's debugger gets 32-bit registers."""
import os
import socket
import subprocess
import time

from support import GDB, GUESTS, RDTSC, SPIN, TOOL, Case, Remote, Server, main


def grouped(number):
    return f"{number:,}".replace(",", "'")


class Patience(Case):
    LENGTH = 1500  # millions of instructions: some seconds

    def setUp(self):
        super().setUp()
        if GDB is None:
            self.skipTest("there is no gdb here")

    def spin(self):
        return self.record(*SPIN, "--stop-at", f"{self.LENGTH}M")

    def batch(self, *commands):
        arguments = [part for command in commands for part in ("-ex", command)]
        result = subprocess.run([GDB, "-nx", "-q", "-batch", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, timeout=240)
        return result.stdout.decode(errors="replace")

    def test_gdb_waits_for_a_server_at_a_pipe(self):
        trace = self.spin()
        for how, position in (("--at end", self.LENGTH * 1_000_000),
                              (f"--at {self.LENGTH - 1}M", (self.LENGTH - 1) * 1_000_000 + 1), ("--warm", 1)):
            begin = time.monotonic()
            out = self.batch(f"target remote | {TOOL} gdb --stdio {how} {trace}", "print $pc", "stepi", "monitor position",
                             "info registers rip", "detach")
            print(f"{how}: {time.monotonic() - begin:.1f} s")
            self.assertNotRegex(out, "unexpectedly|No registers|rror|gnoring|imed out", how)
            self.assert_order(out, r"\$1 = .*0x1000", f"position {grouped(position)} of", r"rip  *0x1000", "etached")

    def test_gdb_waits_for_a_server_that_begins_at_a_key_frame(self):
        trace = self.record(*SPIN, "--stop-at", f"{self.LENGTH}M", "--key-frames", "200M", "--memory", "1G")
        middle = self.LENGTH * 1_000_000 // 2 + 90_000_000  # between two of them
        for how in (f"--at {middle}", f"--at {middle} --checkpoint-memory 64"):
            begin = time.monotonic()
            out = self.batch(f"target remote | {TOOL} gdb --stdio {how} {trace}", "print $pc", "monitor position",
                             "monitor checkpoints", "stepi", "reverse-stepi", "reverse-stepi", "monitor position",
                             f"monitor seek {self.LENGTH // 4}M", "monitor position", "detach")
            print(f"{how}: {time.monotonic() - begin:.1f} s")
            self.assertNotRegex(out, "unexpectedly|No registers|rror|gnoring|imed out", how)
            self.assert_order(out, r"\$1 = .*0x1000", f"position {grouped(middle)} of", r"key frames in the trace, restored [1-9]",
                              f"position {grouped(middle - 1)} of", f"position {grouped(self.LENGTH // 4 * 1_000_000)} of", "etached")

    def test_gdb_waits_for_a_recording_of_many_events(self):
        length = 45  # millions of instructions, two of three an event: to read them takes longer than gdb waits for a packet
        trace = self.record(*RDTSC, "--journal", "full", "--stop-at", f"{length}M")
        begin = time.monotonic()
        out = self.batch(f"target remote | {TOOL} gdb --stdio --at end {trace}", "print $pc", "monitor position", "reverse-stepi",
                         "monitor position", "detach")
        print(f"{time.monotonic() - begin:.1f} s")
        self.assertNotRegex(out, "unexpectedly|No registers|rror|gnoring|imed out")
        self.assert_order(out, r"\$1 = .*0x1000", f"position {grouped(length * 1_000_000)} of",
                          f"position {grouped(length * 1_000_000 - 1)} of", "etached")

    def test_gdb_waits_at_a_port_whose_server_is_not_ready(self):
        trace = self.spin()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen([TOOL, "gdb", trace, "--listen", str(port), "--at", "end", "--once"],
                                  stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        out = self.batch(f"target remote :{port}", "print $pc", "monitor position", "detach")
        self.assertNotRegex(out, "unexpectedly|No registers|gnoring|imed out", out)
        self.assert_order(out, r"\$1 = .*0x1000", f"position {grouped(self.LENGTH * 1_000_000)} of", "etached")

    def test_a_long_command_keeps_gdb_in_step(self):
        # The search looks at every write of 100 million instructions.
        server = self.serve(self.record(*SPIN, "--stop-at", "100M"), "--checkpoint-memory", "64M")
        begin = time.monotonic()
        out = self.gdb(server, "monitor checkpoints make", "monitor seek end", "monitor last-write 0x180100",
                       "monitor break-on", "monitor position")
        print(f"{time.monotonic() - begin:.1f} s")
        self.assert_order(out, "checkpoints, ", f"position 100'000'000", "nothing before", "stops on breakpoints",
                          f"position 100'000'000")
        self.assertNotRegex(out, "gnoring|imed out")

    def test_second_debugger_is_told_who_is_there(self):
        server = self.serve(self.record(*SPIN, "--stop-at", "1M"))
        first = Remote(server)
        begin = time.monotonic()
        out = self.batch(f"target remote {server.address}")
        self.assertLess(time.monotonic() - begin, 30)
        host, port = first.socket.getsockname()
        self.assertIn(f"another debugger is served here, at {host}:{port}", out)
        self.assertEqual(first.ask("vCont;s:1"), "T05thread:1;")
        first.close()
        out = self.batch(f"target remote {server.address}", "print $pc")
        self.assertRegex(out, r"\$1 = .*0x1000")

    def test_second_debugger_at_a_unix_socket_is_told_the_process(self):
        server = Server(["gdb", self.record(*SPIN, "--stop-at", "1M"), "--listen", "unix:" + self.path("socket")])
        self.addCleanup(server.stop)
        Remote(server)
        out = self.batch(f"target remote {server.address}")
        self.assertIn(f"another debugger is served here, process {os.getpid()}", out)


class Kernel32(Case):
    ELF = os.path.join(GUESTS, "kernel32.elf")

    def debug(self, server):
        out = self.gdb(server, "break twice", "continue", "print n", "finish", "info registers eip", "stepi", "print total",
                       "backtrace", elf=self.ELF)
        self.assertNotRegex(out, "too long|not compatible|rror:")
        self.assert_order(out, r"Breakpoint 1, twice \(n=1\)", r"\$1 = 1", r"Value returned is \$2 = 2", r"eip +0x1000", r"work \(\)")

    def test_recording_of_a_32_bit_kernel(self):
        self.debug(self.serve(self.record("--kernel", self.ELF)))

    def test_32_bit_kernel_that_runs_for_the_first_time(self):
        for command in (["run"], ["record", "-o", self.path("live.trace"), "--deterministic"]):
            server = Server([*command, "--kernel", self.ELF, "--gdb", "0"])
            self.addCleanup(server.stop)
            self.debug(server)

    def test_description_can_be_chosen(self):
        trace = self.record("--kernel", self.ELF)
        for name, registers in (("x86-64", "rip"), ("i386", "eip"), ("auto", "eip")):
            out = self.gdb(self.serve(trace, "--gdb-arch", name), f"info registers {registers}")
            self.assertRegex(out, rf"{registers} +0x10")


if __name__ == "__main__":
    main()
