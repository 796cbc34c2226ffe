"""What the debugger tests share: guests and their recordings, a running `retrovisor gdb`, gdb with a script, a raw client.
From the environment: RETROVISOR (the tool), GDB_GUESTS (kernel.bin and others), GUEST_DIR (kernels, made by run-tests)."""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

TOOL = os.environ["RETROVISOR"]
GUESTS = os.environ["GDB_GUESTS"]
GUEST_DIR = os.environ.get("GUEST_DIR", "")
SKIPPED = 77  # CTest's SKIP_RETURN_CODE
GDB = shutil.which("gdb")
LLDB = shutil.which("lldb") or shutil.which("lldb-14")

KERNEL = ["--kernel", os.path.join(GUESTS, "kernel.bin"), "--flat-address", "0x100000", "--flat-mode", "long64"]
SPIN = ["--kernel", os.path.join(GUESTS, "spin.bin"), "--flat-address", "0x100000", "--flat-mode", "long64"]
RDTSC = ["--kernel", os.path.join(GUESTS, "rdtsc.bin"), "--flat-address", "0x100000", "--flat-mode", "long64"]
SLEEPER = ["--kernel", os.path.join(GUESTS, "sleeper.bin"), "--flat-address", "0x8000", "--flat-mode", "real16"]
MODES = ["--kernel", os.path.join(GUESTS, "modes.bin"), "--flat-address", "0x12340", "--flat-mode", "real16"]


def linux(append):
    kernel, initramfs = os.path.join(GUEST_DIR, "vmlinuz-cloud"), os.path.join(GUEST_DIR, "initramfs.cpio")
    for path in (kernel, initramfs):
        if not os.path.exists(path):
            raise unittest.SkipTest(f"{path} is not there; ./run-tests fetches it")
    return ["--kernel", kernel, "--initrd", initramfs, "--memory", "256M", "--append", "console=ttyS0 " + append]


class Server:
    """A `retrovisor` process that serves a debugger."""

    def __init__(self, arguments):
        self.process = subprocess.Popen([TOOL, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE)
        self.clients = []
        said = ""
        while True:
            line = self.process.stderr.readline().decode(errors="replace")
            said += line
            found = re.search(r"target remote (\S+)", line)
            if found:
                self.address = found.group(1)
                return
            if not line:
                raise AssertionError(f"the server has ended with {self.process.wait()}:\n{said}")

    def alive(self):
        return self.process.poll() is None

    def connect(self):
        if ":" not in self.address:
            client = socket.socket(socket.AF_UNIX)
            client.connect(self.address)
        else:
            host, port = self.address.rsplit(":", 1)
            client = socket.create_connection((host, int(port)))
        client.settimeout(60)
        self.clients.append(client)
        return client

    def stop(self):
        if self.alive():
            self.process.terminate()
        self.process.communicate(timeout=30)
        for client in self.clients:
            client.close()
        return self.process.returncode


class Remote:
    """A client that speaks the protocol itself, without acknowledgements."""

    def __init__(self, server):
        self.socket = server.connect()
        self.buffer = b""
        self.ask("QStartNoAckMode")
        self.ask("qSupported:swbreak+;hwbreak+")

    @staticmethod
    def frame(payload):
        raw = payload.encode()
        return b"$" + raw + b"#%02x" % (sum(raw) & 0xff)

    def send(self, payload):
        self.socket.sendall(self.frame(payload))

    def receive(self):
        """The next packet that is no console output."""
        while True:
            found = re.search(rb"\$([^#]*)#..", self.buffer, re.DOTALL)
            if found:
                self.buffer = self.buffer[found.end():]
                payload = found.group(1).decode(errors="replace")
                if not re.fullmatch(r"O([0-9a-f]{2})+", payload):
                    return payload
                self.console = bytes.fromhex(payload[1:]).decode(errors="replace")
                continue
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("the server has hung up")
            self.buffer += more

    def ask(self, payload):
        self.send(payload)
        return self.receive()

    def monitor(self, command):
        self.console = ""
        self.send("qRcmd," + command.encode().hex())
        self.receive()
        return self.console

    def position(self):
        return int(re.search(r"position ([0-9']+)", self.monitor("position")).group(1).replace("'", ""))

    def register(self, number):
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")

    def close(self):
        self.socket.close()


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="retrovisor-gdb-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def record(self, *arguments, name="t.trace", timeout=600):
        result = subprocess.run([TOOL, "record", *arguments, "--deterministic", "-o", self.path(name), "--no-summary"],
                                stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
        self.assertEqual(result.returncode, 0, result.stderr.decode(errors="replace"))
        return self.path(name)

    def serve(self, trace, *arguments):
        server = Server(["gdb", trace, "--listen", "0", *arguments])
        self.addCleanup(server.stop)
        return server

    def gdb(self, server, *commands, elf=None, connect=True, timeout=300):
        """Runs gdb with the commands; returns what it has printed. A command that is an error ends the script."""
        if GDB is None:
            raise unittest.SkipTest("there is no gdb here")
        script = ["set pagination off", "set confirm off", "set width 0", "set debuginfod enabled off"]
        if elf is not None:
            script.append(f"file {elf}")
        if connect:
            script.append(f"target remote {server.address}")
        script += list(commands)
        with open(self.path("script.gdb"), "w") as file:
            file.write("\n".join(script) + "\n")
        result = subprocess.run([GDB, "-nx", "-batch", "-x", self.path("script.gdb")], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
        self.output = result.stdout.decode(errors="replace")
        return self.output

    def assert_order(self, text, *parts):
        """Each part, a regular expression, is found behind the one before."""
        at = 0
        for part in parts:
            found = re.compile(part).search(text, at)
            self.assertIsNotNone(found, f"no /{part}/ behind character {at} of:\n{text}")
            at = found.end()


def main():
    """Runs the module's tests; a run in which every test was skipped is CTest's SKIPPED."""
    program = unittest.main(module="__main__", exit=False, verbosity=2)
    result = program.result
    for test, reason in result.skipped:
        print(f"SKIPPED: {test}: {reason}")
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(SKIPPED if result.skipped and len(result.skipped) == result.testsRun else 0)
