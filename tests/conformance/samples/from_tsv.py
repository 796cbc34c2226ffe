#!/usr/bin/env python3
"""from_tsv.py TSV OUT: makes a file of samples (see samples.cc) of a table of recorded answers.

The table has one row per sample, tab-separated: form, mode, size, code, rax, rbx, rcx, rdx, memory, flags; the same six after;
fault. All hexadecimal; RSI points at the memory. Only arithmetic flags were recorded.
All rows are kept, but registers that a form does not use are not taken over: they double the file and say nothing.
Left out by rule: forms that the CPU model does not have (x86-64-v2: no VEX, BMI, LZCNT, TZCNT, ADX); they would be other
instructions.
"""
import collections
import re
import sys

ABSENT = re.compile(r"(V[A-Z]+|ANDN|BEXTR|BLS(I|R|MSK)|BZHI|LZCNT|TZCNT|AD[CO]X)\b")
BUFFER = 0x1000  # of the arena; samples start with RSI there
FIXED_FLAGS = 0x202


def memory(text):
    # "-": not used. Zeros behind the last byte that matters are the arena's own.
    data = bytes.fromhex("" if text == "-" else text).rstrip(b"\0")
    return data.ljust(64, b"\0")


def patches(before, after):
    out, i = [], 0
    while i < 64:
        j = i
        while j < 64 and before[j] != after[j]:
            j += 1
        if j > i:
            out.append(f"@{BUFFER + i:x}={after[i:j].hex()}")
        i = j + 1
    return out


def unused(form):
    """Registers that a form neither reads nor writes: their values were drawn, too, but say nothing."""
    if re.match(r"(MUL|IMUL|DIV|IDIV|CMPXCHG|LOCK|PCMP)", form):
        return ()
    if re.match(r"[A-Z0-9]+$", form) and form not in ("MOVSXD", "DAA", "DAS", "AAA", "AAS", "AAM", "AAD", "SALC", "ARPL"):
        return ("rax", "rbx", "rcx", "rdx")  # x87 and SSE: operands in memory
    idle = ["rdx"] if "CL" in form else ["rcx", "rdx"]
    alone = re.search(r" (m|r|acc)(,(imm8|imm8sx|imm|1|CL))?$", form)  # no register besides the one operand
    if alone and not re.match(r"(IMUL|BT)", form):
        idle += ["rbx"] + (["rax"] if alone[1] == "m" else [])
    return idle


def line(row):
    form, mode, _, code = row[:4]
    before = [int(v, 16) for v in row[4:8]], memory(row[8]), int(row[9], 16)
    after = [int(v, 16) for v in row[10:14]], memory(row[14]), int(row[15], 16)
    names = ("rax", "rbx", "rcx", "rdx")
    idle = unused(form)
    words = [mode, code] + [f"{n}={v:x}" for n, v in zip(names, before[0]) if v and n not in idle]
    if before[2]:
        words.append(f"flags={before[2] | FIXED_FLAGS:x}")
    if before[1].strip(b"\0"):
        words.append(f"@{BUFFER:x}={before[1].rstrip(bytes(1)).hex()}")
    words.append(">")
    if row[16] != "-":
        words.append("#" + row[16])
    changed = [(n, v) for n, u, v in zip(names, before[0], after[0]) if u != v]
    assert not any(n in idle for n, _ in changed), form
    words += [f"{n}={v:x}" for n, v in changed]
    if before[2] != after[2]:
        words.append(f"flags={after[2] | FIXED_FLAGS:x}")
    return " ".join(words + patches(before[1], after[1]))


def main():
    left_out, lines, form = collections.Counter(), [], None
    with open(sys.argv[1], encoding="ascii") as table:
        rows = [text.rstrip("\n").split("\t") for text in table if not text.startswith("#")]
    for row in rows:
        if ABSENT.match(row[0]):
            left_out[row[0]] += 1
            continue
        if row[0] != form:
            form = row[0]
            lines.append(f"form {form}")
        lines.append(line(row))
    head = ["conformance-samples 1", "processor GenuineIntel family 6 model 207 stepping 2", "model intel", "flags 8d5"]
    head.append("no-vectors")
    head += [f"left-out {f} {n}" for f, n in sorted(left_out.items())]
    with open(sys.argv[2], "w", encoding="ascii") as out:
        out.write("\n".join(head + lines) + "\n")


if __name__ == "__main__":
    main()
