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

    def test_code_behind_a_base_of_cs_has_instruction_pointers(self):
        # jne to itself at 0000:7c00, and the same at f000:0010
        for arguments, pointer, base in ((["--address", "0x7c00"], 0x7c00, 0),
                                         (["--address", "0xf0010", "--cs-base", "0xf0000"], 0x10, 0xf0000)):
            block = self.block("75 fe", "--bits", "16", *arguments)
            self.assertEqual(int(block["instruction_pointer"], 16), pointer)
            self.assertEqual(int(block["address"], 16), pointer + base)
            self.assertEqual(block["instructions"][0]["text"], f"jne {pointer:#x}")
            self.assertEqual([int(s, 16) for s in block["end"]["successors"]], [pointer, pointer + 2])
        said = self.tool("dev", "block", "--bytes", "75 fe", "--bits", "16", *arguments).stdout.decode()
        self.assertIn("block at 0x10 (linear 0xf0010, CS base 0xf0000): 16-bit code, 1 instruction, 2 bytes, ", said)
        self.assertIn("\n0x10  75 fe  jne 0x10\n", said)
        self.assertIn("goes on at 0x10 or 0x12", said)

    def test_real_mode_code_of_a_recording_has_instruction_pointers(self):
        sector = bytes.fromhex("ea0000c007") + bytes(505) + b"\x55\xaa"  # jmp 07c0:0000, to itself: linear 0x7c00
        self.record("--kernel", self.file("sector", sector), "--memory", "16M", "--console", "none", "--stop-at", "3000")
        block = json.loads(self.tool("dev", "block", self.path("t.trace"), "--at", "2500", "--json").stdout)
        self.assertEqual((int(block["address"], 16), int(block["instruction_pointer"], 16), block["bits"]), (0x7c00, 0, 16))

    def test_memory_is_what_is_accessed(self):
        def memory(text, *arguments):
            insn = self.block(text, *arguments)["instructions"][0]
            return [(m["access"], m["operand"], m["size"]) for m in insn["memory"]], insn["tables"]
        for text, bits, expected, tables in (
            ("48 8d 44 24 08", "64", [], False),                                                # lea
            ("0f 1f 00", "64", [], False),                                                      # nop
            ("0f 0b", "64", [], False),
            ("0f ff 03", "64", [], False),                                                      # #UD
            ("8f 44 24 08", "64", [("read", "ss:[rsp]", 8), ("write", "ss:[rsp+0x10]", 8)], False),
            ("0f ab 0b", "64", [("read_write", "ds:[rbx+(ecx>>5)*4]", 4)], False),              # bts
            ("c8 10 00 03", "32", [("write", "ss:[esp-0x4]", 4), ("read", "ss:[ebp-0x8]", 8), ("write", "ss:[esp-0x10]", 12)], False),
            ("9a 00 00 08 00", "16", [("write", "ss:[sp-0x4]", 4)], True),
            ("cb", "32", [("read", "ss:[esp]", 8)], True),
            ("48 cf", "64", [("read", "ss:[rsp]", 40)], True),
            ("cd 80", "64", [], True),
        ):
            self.assertEqual(memory(text, "--bits", bits), (expected, tables), text)
        self.assertIn("as much as XCR0 and EDX:EAX say", self.tool("dev", "block", "--bytes", "0f ae 20").stdout.decode())

    def test_what_capstone_reads_otherwise_is_told(self):
        said = self.tool("dev", "block", "--bytes", "66 e8 11 22 33 44 90").stdout.decode()
        self.assertIn("0x1000  66 e8 11 22 33 44  (unnamed)  (capstone reads 4 bytes: call 0x3215)\n", said)
        self.assertIn("bsf eax, ecx  (capstone: tzcnt eax, ecx)", self.tool("dev", "block", "--bytes", "f3 0f bc c1").stdout.decode())

    def test_small_words(self):
        said = self.tool("dev", "block", "--bytes", "90").stdout.decode()
        self.assertIn("1 instruction, 1 byte, ", said)
        self.assertIn("end: there are no more bytes; goes on at 0x1001", said)
        self.assertIn("not whole in the bytes that there are", self.tool("dev", "block", "--bytes", "90 0f").stdout.decode())
        self.assertRegex(self.tool("dev", "block", "--bytes", "75 00").stdout.decode(), "goes on at 0x1002\n")
        self.assertEqual(len(self.block("75 00")["end"]["successors"]), 1)
        self.assertIn("immediate +0x0", self.block("b0 00")["instructions"][0]["decoded"])
        self.assertNotIn("immediate", self.block("89 c0")["instructions"][0]["decoded"])
        self.assertIn("<add, ", self.block("01 d8")["instructions"][0]["ops"][0]["handler"])
        self.assertEqual(self.block("c0 c0 09")["instructions"][0]["flags_kept"], ["OF"])     # rol al, 9
        self.assertEqual(self.block("c0 d0 09")["instructions"][0]["flags_kept"], ["CF", "OF"])  # rcl al, 9: all the way round
        words = " ".join(self.tool("dev", "block", "--help").stdout.decode().split())
        self.assertIn("A flag is live behind an instruction if something may read it before it is written again", words)

    def test_code_that_is_not_mapped_is_told_as_that(self):
        # jmp 7ffffff0h, far above 16 MiB of RAM, without paging
        self.record("--kernel", self.file("k", bytes.fromhex("b8f0ffff7fffe0")), "--flat-address", "0x100000", "--flat-mode", "protected32",
                    "--memory", "16M", "--console", "none", "--stop-at", "2")
        words = self.tool("dev", "block", self.path("t.trace"), "--at", "2", expect=BAD_ARGUMENTS).words
        self.assertIn("the instruction pointer is 0x7ffffff0, where nothing is mapped", words)

    def test_a_recording_that_was_cut_off_is_told_as_that(self):
        self.record(*ECHO, "--console", "none", "--stop-at", "1000")
        content = self.file_content("t.trace")
        cut = self.file("cut.trace", content[:-1])
        self.assertIn("the trace is incomplete", self.tool("dev", "block", cut, "--at", "10").words)
        words = self.tool("dev", "block", cut, "--at", "10M", expect=BAD_ARGUMENTS).words
        self.assertIn("the trace is incomplete (no end marker): replays up to position", words)

    def test_options_that_do_not_apply_are_refused(self):
        self.record(*ECHO, "--console", "none", "--stop-at", "1000")
        for option, value in (("--bits", "32"), ("--address", "0x1000"), ("--cs-base", "0")):
            words = self.tool("dev", "block", self.path("t.trace"), "--at", "0", option, value, expect=BAD_ARGUMENTS).words
            self.assertIn(f"goes with --bytes: a recording knows by itself ({option})", words)
        for option, value in (("--at", "0"), ("--kernel", ECHO[1]), ("--initrd", "i"), ("--module", "m")):
            words = self.tool("dev", "block", "--bytes", "90", option, value, expect=BAD_ARGUMENTS).words
            self.assertIn(f"goes with a TRACE, and --bytes are none ({option})", words)

    def test_bad_arguments_are_named(self):
        for arguments, word in (
            ([], "--bytes"),
            (["--bytes", "48 0"], "character 3"),
            (["--bytes", "48 zz"], "character 3"),
            (["--bytes", ""], "--bytes"),
            (["--bytes", "48 01"], "no whole instruction in 2 bytes"),
            (["--bytes", "48"], "no whole instruction in 1 byte ("),
            (["--bytes", "90", "--address", "0x800000000000"], "0x800000000000 is no canonical address (--address)"),
            (["--bytes", "90", "--cs-base", "0x10"], "64-bit code has no base (--cs-base)"),
            (["--bytes", "90", "--bits", "16", "--address", "0xf0000"], "--cs-base says where CS begins (--address)"),
            ([self.path("none.trace")], "where in TRACE? --at POSITION"),
            (["--at", "7"], "is a position in a TRACE, which is missing (--at)"),
            (["--bytes", "90" * 5000], "more than 4096"),
            (["--bytes", "90", "--bits", "8"], "--bits"),
            (["--bytes", "90", "--bits", "32", "--address", "0x100000000"], "--address"),
            (["--bytes", "90", "--at", "7"], "--at"),
            ([self.path("none.trace"), "--bytes", "90"], "--bytes"),
        ):
            self.assertIn(word, self.tool("dev", "block", *arguments, expect=BAD_ARGUMENTS).words, arguments)


if __name__ == "__main__":
    support.main()
