#!/usr/bin/env python3
"""retrovisor dev block: what the soft engine makes of code."""
import json

import support
from support import BAD_ARGUMENTS, ECHO


class Blocks(support.Case):
    def block(self, text, *arguments):
        return json.loads(self.tool("dev", "block", "--json", "--bytes", text, *arguments).stdout)

    def test_shows_bytes_instructions_operands_flags_and_ops(self):
        # add rax, rbx; mov [rcx + rdx * 4 + 10h], eax; inc eax; jne to the start
        block = self.block("48 01 d8 89 44 91 10 ff c0 75 f5", "--address", "0x2000")
        add, mov, inc, jne = block["instructions"]
        self.assertEqual([i["bytes"] for i in block["instructions"]], ["48 01 d8", "89 44 91 10", "ff c0", "75 f5"])
        self.assertEqual(add["text"], "add rax, rbx")
        self.assertEqual(add["flags_written"], ["CF", "PF", "AF", "ZF", "SF", "OF"])
        self.assertEqual(mov["memory"], [{"access": "write", "operand": "ds:[rcx+rdx*4+0x10]", "size": 4, "implicit": False}])
        # INC writes all but CF before anything reads them, but the store can fault, and a handler sees what ADD left.
        self.assertEqual(add["flags_live"], ["CF", "PF", "AF", "ZF", "SF", "DF", "OF"])
        self.assertEqual(mov["flags_live"], ["CF", "DF"])
        self.assertEqual(jne["flags_read"], ["ZF"])
        self.assertTrue(all(i["ops"] for i in block["instructions"]), "each instruction has an op")
        self.assertEqual(block["end"]["reason"], "branch")
        self.assertEqual([int(s, 16) for s in block["end"]["successors"]], [0x2000, 0x200b])

    def test_shows_which_instructions_are_one_op(self):
        compare, branch = self.block("48 39 d8 75 fb")["instructions"]
        self.assertIn("op_compare_jcc", compare["ops"][0]["handler"])
        self.assertTrue(branch["fused"])
        self.assertEqual(branch["ops"], [])

    def test_says_why_a_block_ends(self):
        for text, arguments, reason in (
            ("90 90 90 90", ["--address", "0xffd"], "page_end"),
            ("90 90 01", [], "bytes_end"),
            ("90 90 90", ["--most", "2"], "most_instructions"),
            ("f3 a4", [], "repeat"),
            ("0f a2 90", [], "system"),
            ("c3", [], "indirect"),
            ("0f 0b", [], "undefined"),
            ("eb fe", ["--bits", "16"], "branch"),
        ):
            self.assertEqual(self.block(text, *arguments)["end"]["reason"], reason, text)

    def test_shows_the_code_at_a_position_of_a_recording(self):
        self.record(*ECHO, "--console", "none", "--stop-at", "1000")
        block = json.loads(self.tool("dev", "block", self.path("t.trace"), "--at", "0", "--json").stdout)
        self.assertEqual(int(block["address"], 16), 0x100000)
        with open(ECHO[1], "rb") as file:
            image = file.read()
        shown = bytes.fromhex("".join(i["bytes"] for i in block["instructions"]))
        self.assertEqual(shown, image[:len(shown)])
        self.assertGreater(len(shown), 0)

    def test_bad_arguments_are_named(self):
        for arguments, word in (
            ([], "--bytes"),
            (["--bytes", "48 0"], "character 3"),
            (["--bytes", "48 zz"], "character 3"),
            (["--bytes", ""], "--bytes"),
            (["--bytes", "48 01"], "no whole instruction"),
            (["--bytes", "90" * 5000], "more than 4096"),
            (["--bytes", "90", "--bits", "8"], "--bits"),
            (["--bytes", "90", "--bits", "32", "--address", "0x100000000"], "--address"),
            (["--bytes", "90", "--at", "7"], "--at"),
            ([self.path("none.trace"), "--bytes", "90"], "--bytes"),
        ):
            self.assertIn(word, self.tool("dev", "block", *arguments, expect=BAD_ARGUMENTS).words, arguments)


if __name__ == "__main__":
    support.main()
