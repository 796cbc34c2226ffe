"""Never a hang: long random mixes of operations, mostly backwards, and many short sessions, with a quiet host and with a
busy one. Whatever is asked is answered within BOUND, and where the answer can be known it is compared."""
import contextlib
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time

from support import GUESTS, KERNEL, Case, Remote, linux, main

ELF = os.path.join(GUESTS, "kernel.elf")
WALK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "random_walk.py")
BOUND = 30  # seconds for one answer; on a quiet host the slowest takes 3 or so
RSP, RIP = 7, 16
# What kernel.elf's globals and its stack occupy.
DATA = range(0x100000, 0x100400)
STACK = range(0x8ff80, 0x90000)


@contextlib.contextmanager
def busy():
    """As many processes that only count as there are CPUs, at the server's own priority."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


class Client(Remote):
    """Notes what it asks, and how long the answers take."""

    def __init__(self, server):
        self.history = []
        self.slowest = (0.0, "")
        super().__init__(server)
        self.socket.settimeout(BOUND)

    def ask(self, payload):
        self.history.append(payload)
        begin = time.monotonic()
        try:
            answer = super().ask(payload)
        except OSError as e:
            raise AssertionError(f"{e!r} in answer to {payload!r}, after {self.history[-20:-1]}") from e
        self.slowest = max(self.slowest, (time.monotonic() - begin, payload))
        return answer

    def monitor(self, command):
        self.console = ""
        self.ask("qRcmd," + command.encode().hex())
        return self.console

    def place(self):
        """Position, and whether it is a handler's first instruction, which has none of its own."""
        said = self.monitor("position")
        number = re.search(r"position ([0-9']+)", said).group(1).replace("'", "")
        return int(number), "interrupt or exception" in said

    def memory(self, addresses):
        return bytes.fromhex(self.ask(f"m{addresses.start:x},{len(addresses):x}"))


class SmallGuest:
    """All of a short recording, gathered by stepping through it: what every answer is compared with."""

    def __init__(self, client):
        self.registers, self.pc, self.images = [], [], []
        client.monitor("seek 0")
        while client.position() == len(self.pc):
            self.registers.append(client.ask("g"))
            self.pc.append(client.register(RIP))
            self.images.append(client.memory(DATA) + client.memory(STACK))
            client.ask("vCont;s:1")
        self.end = len(self.pc) - 1

    def changed(self, at, begin, size):
        """Whether the instruction at this position changes these bytes."""
        base, skip = (DATA, 0) if begin in DATA else (STACK, len(DATA))
        part = slice(begin - base.start + skip, begin - base.start + skip + size)
        return self.images[at][part] != self.images[at + 1][part]

    def forward(self, here, breakpoints, watches):
        for at in range(here + 1, self.end + 1):
            if self.pc[at] in breakpoints or any(self.changed(at - 1, *watch) for watch in watches):
                return at
        return self.end

    def backward(self, here, breakpoints, watches):
        for at in range(here - 1, -1, -1):
            if self.pc[at] in breakpoints or any(self.changed(at, *watch) for watch in watches):
                return at
        return 0


class RandomOperations(Case):
    def setUp(self):
        super().setUp()
        seed = int(os.environ.get("STRESS_SEED", random.randrange(1 << 32)))
        print("STRESS_SEED =", seed)
        self.random = random.Random(seed)

    def test_thousand_operations_backwards_come_where_stepping_forward_came(self):
        client = Client(self.serve(self.record(*KERNEL)))
        guest = SmallGuest(client)
        self.assertGreater(guest.end, 500)
        self.guest, self.client, self.here = guest, client, client.position()
        self.breakpoints, self.watches = set(), set()
        self.mix(500)
        with busy():
            self.mix(500)
        print("slowest answer: %.1f ms to %s" % (client.slowest[0] * 1e3, client.slowest[1]))

    def mix(self, reverse):
        guest, client = self.guest, self.client
        while reverse > 0:
            operation = self.random.choice(["bs"] * 4 + ["bc"] * 4 + ["point", "s"] * 2 + ["row", "c", "seek", "change"])
            if operation == "point":
                self.toggle_point()
                continue
            if operation == "change":  # is forgotten at the next resume
                self.assertEqual(client.ask(f"P0={self.random.getrandbits(60):016x}"), "OK")
                self.assertEqual(client.ask(f"M{DATA.start + 0x190:x},4:{self.random.getrandbits(32):08x}"), "OK")
                continue
            if operation == "seek":
                expected = self.random.randrange(guest.end + 1)
                client.monitor(f"seek {expected}")
            elif operation == "row":  # as gdb's reverse-step
                for _ in range(self.random.randrange(1, 20)):
                    client.ask("bs")
                    expected = self.here = max(self.here - 1, 0)
                    reverse -= 1
            else:
                expected = {"s": min(self.here + 1, guest.end), "bs": max(self.here - 1, 0)}.get(operation)
                if operation == "bc":
                    expected = guest.backward(self.here, self.breakpoints, self.watches)
                elif operation == "c":
                    expected = guest.forward(self.here, self.breakpoints, self.watches)
                stop = client.ask({"s": "vCont;s:1", "c": "vCont;c"}.get(operation, operation))
                self.assertRegex(stop, "^T05thread:1;")
                reverse -= operation[0] == "b"
            self.assertEqual(client.place(), (expected, False),
                             f"after {operation} from {self.here} with {self.breakpoints} {self.watches}")
            self.assertEqual(client.ask("g"), guest.registers[expected], f"at {expected} after {operation}")
            self.assertEqual(client.memory(DATA) + client.memory(STACK), guest.images[expected])
            self.here = expected

    def toggle_point(self):
        """Sets a breakpoint or a watchpoint, or takes one away."""
        points = [("code", pc) for pc in self.breakpoints] + [("data", watch) for watch in self.watches]
        if len(points) < 6 and self.random.random() < 0.6:
            if self.random.random() < 0.6:
                pc = self.random.choice(self.guest.pc[1:])
                self.breakpoints.add(pc)
                self.assertEqual(self.client.ask(f"Z{self.random.randrange(2)},{pc:x},1"), "OK")
            else:
                base = range(0x100190, 0x100280) if self.random.random() < 0.7 else STACK
                size = self.random.choice([1, 2, 4, 8])
                begin = self.random.randrange(base.start, base.stop - size)
                self.watches.add((begin, size))
                self.assertEqual(self.client.ask(f"Z2,{begin:x},{size:x}"), "OK")
        elif points:
            kind, what = self.random.choice(points)
            if kind == "code":
                self.breakpoints.remove(what)
                for number in (0, 1):
                    self.client.ask(f"z{number},{what:x},1")
            else:
                self.watches.remove(what)
                self.assertEqual(self.client.ask(f"z2,{what[0]:x},{what[1]:x}"), "OK")

    def test_gdb_walks_at_random_through_source(self):
        server = self.serve(self.record(*KERNEL))
        log = self.path("walk.log")

        def walk(operations):
            seed = self.random.getrandbits(32)
            settings = f"python WALK = dict(seed={seed}, operations={operations}, log={log!r})"
            out = self.gdb(server, settings, f"source {WALK}", elf=ELF, timeout=150)
            self.assertIn(f"walked: {operations}", out, self.read(log)[-2000:])
            return out

        try:
            print(re.search("walked: .*", walk(200)).group())
            with busy():
                walk(100)
        except subprocess.TimeoutExpired:
            self.fail("gdb has got no answer:\n" + self.read(log)[-2000:])

    @staticmethod
    def read(path):
        with open(path) as file:
            return file.read()

    def test_booting_linux_goes_back_and_forth(self):
        server = self.serve(self.record(*linux("workload=crash"), "--stop-on-panic"))
        client = Client(server)
        self.assertIn("replaylog:end", client.ask("vCont;c"))
        end = client.position()
        self.addresses, self.stack = [], []
        for _ in range(12):  # code and stacks that are in use, some of them often, some hardly ever
            client.monitor(f"seek {self.random.randrange(end)}")
            self.addresses.append(client.register(RIP))
            self.stack.append(client.register(RSP) & ~7)
        self.boot_mix(client, end, 300)
        with busy():
            self.boot_mix(client, end, 100)
        print("slowest answer: %.1f ms to %s" % (client.slowest[0] * 1e3, client.slowest[1]))

    def boot_mix(self, client, end, operations):
        points = []
        here, entering = client.place()
        for _ in range(operations):
            operation = self.random.choice(["bs", "bs", "identity", "bc", "bc", "s", "c", "seek", "point"])
            if operation == "point":
                while len(points) > 3:
                    self.assertEqual(client.ask("z" + points.pop(0)), "OK")
                points.append(f"0,{self.random.choice(self.addresses):x},1" if self.random.random() < 0.7 else
                              f"2,{self.random.choice(self.stack):x},8")
                self.assertEqual(client.ask("Z" + points[-1]), "OK")
                continue
            before, was_entering = here, entering
            if operation == "seek":
                aim = self.random.randrange(end + 1)
                client.monitor(f"seek {aim}")
            elif operation == "identity":
                if entering or here == 0:
                    continue
                registers = client.ask("g")
                stack = f"m{client.register(RSP):x},100"
                on_stack = client.ask(stack)
                client.ask("bs")
                self.assertEqual(client.position(), here - 1)
                client.ask("vCont;s:1")
                self.assertEqual(client.ask("g"), registers, f"at {here} after a step back and one forward")
                self.assertEqual(client.ask(stack), on_stack)
            else:
                self.assertRegex(client.ask({"s": "vCont;s:1", "c": "vCont;c"}.get(operation, operation)), "^T05thread:1;")
            here, entering = client.place()
            story = f"{operation} led from {before} ({was_entering}) to {here} ({entering}) with {points}"
            if operation == "seek":
                self.assertEqual(here, aim, story)
            elif operation == "identity":
                self.assertEqual(here, before, story)
            elif operation == "bs":  # from a handler's first instruction to the interrupted one
                self.assertEqual(here, before if was_entering else max(before - 1, 0), story)
            elif operation == "s":  # with a breakpoint on a handler, that is on the way
                self.assertTrue(here == min(before + 1, end) or (entering and here == before), story)
            elif operation == "bc":
                self.assertTrue(here < before or here == 0 or was_entering or (entering and here == before), story)
                self.assertLessEqual(here, before, story)
            else:
                self.assertTrue(here > before or here == end or entering, story)


def detach(client):
    return client.ask("D") == "OK"


def kill(client):
    client.send("k")
    return True


def hang_up(client):
    return True


def reset(client):
    """Closing sends RST then."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return True


def half_packet(client):
    client.socket.sendall(b"$vCont;")
    return True


def run_on(client):
    client.send("vCont;c")
    return True


def run_back(client):
    client.send("bc")
    return True


class ShortSessions(Case):
    def setUp(self):
        super().setUp()
        seed = int(os.environ.get("STRESS_SEED", random.randrange(1 << 32)))
        print("STRESS_SEED =", seed)
        self.random = random.Random(seed)

    def sessions(self, server, count, end, reach):
        """Each finds the machine where the one before has left it."""
        slowest = 0.0
        expected = None
        for i in range(count):
            begin = time.monotonic()
            client = Client(server)
            here = client.position()
            if expected is not None:
                self.assertEqual(here, expected, f"session {i}")
            for _ in range(self.random.randrange(4)):
                operation = self.random.choice(["bs", "vCont;s:1", "seek", "?", "Z0,100013,1", "Z2,100190,8",
                                                "M100190,1:00"])
                if operation == "seek":
                    client.monitor(f"seek {self.random.randrange(max(0, here - reach), min(end, here + reach) + 1)}")
                else:
                    self.assertRegex(client.ask(operation), "^(T05|OK$|E)")
            here = client.position()
            leave = self.random.choice([detach, kill, hang_up, reset, half_packet, run_on, run_back])
            self.assertTrue(leave(client))
            client.close()
            expected = {kill: 0, run_on: None, run_back: None}.get(leave, here)
            slowest = max(slowest, time.monotonic() - begin)
        self.assertTrue(server.alive())
        print(f"slowest of {count} sessions: {slowest * 1e3:.0f} ms")

    def test_two_hundred_sessions_each_begin_where_the_last_has_ended(self):
        server = self.serve(self.record(*KERNEL))
        client = Client(server)
        client.ask("vCont;c")
        end = client.position()
        client.close()
        self.sessions(server, 100, end, end)
        with busy():
            self.sessions(server, 100, end, end)

    def test_sessions_on_a_booting_linux(self):
        server = self.serve(self.record(*linux("workload=crash"), "--stop-on-panic"))
        client = Client(server)
        client.ask("vCont;c")
        end = client.position()
        client.close()
        self.sessions(server, 30, end, 100_000_000)
        with busy():
            self.sessions(server, 20, end, 100_000_000)

    def test_gdb_comes_and_goes(self):
        server = self.serve(self.record(*KERNEL))
        for i in range(24):
            operations = ["stepi", "reverse-stepi", "break square", "continue", "reverse-continue", "watch total",
                          "reverse-step", "monitor seek end", "next", "break *$pc", "step"]
            script = self.random.sample(operations, 5)
            vanish = "python import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
            out = self.gdb(server, *script, "monitor position", self.random.choice(["detach", "kill", "disconnect", vanish]),
                           elf=ELF, timeout=BOUND)
            self.assertRegex(out, r"position [0-9']+ of", f"session {i}: {script}")


if __name__ == "__main__":
    main()
