"""Questions over time are about bytes: asked by any of their addresses, in a recorded crash of Debian's kernel, the answer is the
same, and it is what memory says."""
import os
import random
import re
import unittest

from support import Case, Remote, linux, main

RSP = 7
QUESTIONS = int(os.environ.get("QUESTIONS", "40"))
SEED = int(os.environ.get("SEED", "1"))


class Bytes(Case):
    @classmethod
    def setUpClass(cls):
        keeper = cls("keep_folder")
        keeper.setUp()
        cls.addClassCleanup(keeper.doCleanups)
        cls.trace = keeper.record(*linux("workload=crash"), "--stop-on-panic")

    def keep_folder(self):
        """Its folder is the class's."""

    def setUp(self):
        super().setUp()
        if not hasattr(self, "trace"):
            return  # keep_folder
        self.remote = Remote(self.serve(self.trace))
        self.remote.socket.settimeout(120)
        end = self.remote.monitor("seek end")
        self.end = int(re.search(r"position [0-9']+ of [0-9']+\.\.([0-9']+)", end).group(1).replace("'", ""))
        found = self.remote.monitor("symbol page_offset_base")
        self.direct = self.quad(int(re.search(r"0x([0-9a-f]+)", found).group(1), 16))

    def monitor(self, command):
        return self.remote.monitor(command)

    def quad(self, address):
        return int.from_bytes(bytes.fromhex(self.remote.ask(f"m{address:x},8")), "little")

    def physical(self, address):
        found = re.search(r"physical 0x([0-9a-f]+)", self.monitor(f"pt {address:#x}"))
        return int(found.group(1), 16) if found else None

    def bytes_at(self, physical, size):
        out = b""
        for line in self.monitor(f"phys {physical:#x} {size}").splitlines():
            out += bytes.fromhex(line[13:13 + 3 * 16])
        return out[:size]

    def go(self, position):
        self.monitor(f"seek {position}")

    def user_position(self, position):
        """Goes to user code near there, if there is some."""
        for _ in range(60):
            self.go(position)
            if "CPL 3" in self.monitor("regs"):
                return True
            position = (position + 100_000) % self.end
        return False

    def writer(self, words):
        """Position, RIP and the values of an answer, or None for nothing."""
        found = re.search(r"position ([0-9']+): vCPU \d+ at (0x[0-9a-f]+) (?s:.*): (0x[0-9a-f]+) -> (0x[0-9a-f]+)", words)
        if found is None:
            self.assertIn("nothing before", words)
            return None
        return int(found.group(1).replace("'", "")), found.group(2), found.group(3), found.group(4)

    def test_a_stack_has_one_writer_by_both_addresses(self):
        self.assertTrue(any(self.user_position(self.end - back) for back in range(30_000_000, 200_000_000, 10_000_000)))
        stack = self.remote.register(RSP)
        other = self.direct + self.physical(stack)
        self.assertEqual(self.quad(stack), self.quad(other))
        one, by_other = self.monitor(f"last-write {stack:#x}"), self.monitor(f"last-write {other:#x}")
        self.assertEqual(self.writer(one), self.writer(by_other), one + by_other)
        self.assertIsNotNone(self.writer(one))
        self.assertEqual(int(self.writer(one)[3], 16), self.quad(stack))
        # Backwards with a watchpoint on the other address, too: a change that the store made.
        here, now = self.remote.position(), self.quad(other)
        self.assertEqual(self.remote.ask(f"Z2,{other:x},8"), "OK")
        self.assertIn("watch", self.remote.ask("bc"))
        self.assertEqual(self.remote.position(), self.writer(one)[0])
        self.assertNotEqual(self.quad(other), now)
        self.assertEqual(self.remote.ask(f"z2,{other:x},8"), "OK")
        # And by the bytes, both ways.
        self.monitor(f"watch phys {self.physical(other):#x} 8")
        self.go(here)
        self.remote.ask("bc")
        self.assertEqual(self.remote.position(), self.writer(one)[0])
        self.remote.ask("vCont;c")
        self.assertEqual(self.remote.position(), self.writer(one)[0] + 1)
        self.assertEqual(self.quad(other), now)

    def test_an_address_that_is_not_mapped_is_said_to_be_none(self):
        self.go(self.end)
        words = self.monitor("last-write 0x1000 8")
        self.assertIn("is not mapped", words)
        self.assertIn("--linear", words)
        self.assertNotIn("nothing before", words)

    def address(self, kind, draw):
        if kind == "user":
            return self.remote.register(RSP) + 8 * draw.randrange(-64, 64)
        if kind == "stack":
            return self.remote.register(RSP) & ~7 | 8 * draw.randrange(0, 64)
        if kind == "data":
            return self.data + 8 * draw.randrange(0, 1 << 17)
        return self.direct + 8 * draw.randrange(1 << 17, 1 << 25)

    def test_random_questions_agree_with_memory(self):
        draw = random.Random(SEED)
        self.data = int(re.search(r"0x([0-9a-f]+)", self.monitor("symbol init_task")).group(1), 16) & ~7
        agree, found, other, users = 0, 0, 0, 0
        for i in range(QUESTIONS):
            kind = ("user", "user", "stack", "data", "direct")[i % 5]
            here = draw.randrange(self.end // 4, self.end)
            if kind == "user" and self.user_position(draw.randrange(self.end // 10 * 9, self.end)):
                users += 1
            else:
                self.go(here)
            here = self.remote.position()
            address = self.address(kind, draw)
            physical = self.physical(address)
            if physical is None:
                self.assertIn("is not mapped", self.monitor(f"last-write {address:#x}"))
                agree += 1
                continue
            now = self.bytes_at(physical, 8)
            words = self.monitor(f"last-write {address:#x}")
            self.assertEqual(self.remote.position(), here)
            answer = self.writer(words)
            at = 0
            if answer is not None:
                found += 1
                other += "as " in words
                at = answer[0] + 1
                self.go(at - 1)
                before = self.bytes_at(physical, 8)
                self.go(at)
                self.assertNotEqual(before, now, words)
                self.assertEqual(int(answer[2], 16), int.from_bytes(before, "little"), words)
                self.assertEqual(int(answer[3], 16), int.from_bytes(now, "little"), words)
            # From there on up to here it is what it is.
            for p in [at] + [draw.randrange(at, here + 1) for _ in range(4)]:
                self.go(p)
                self.assertEqual(self.bytes_at(physical, 8), now, f"{words} {physical:#x} at {p}, asked at {here}")
            agree += 1
        print(f"{agree} of {QUESTIONS} agree; {found} have a writer, {other} through another address, {users} were asked by programs")
        self.assertEqual(agree, QUESTIONS)
        self.assertGreater(found, QUESTIONS // 2)
        self.assertGreater(users, QUESTIONS // 20)


if __name__ == "__main__":
    main()
