#!/usr/bin/env python3
"""Checks what the machine's libraries ask of the rest of the world, against rules.py: undefined symbols, objects that can
change and that no machine owns, instructions that tell of the host.

symbols.py LIBRARY...   exits with 1 and one line for each violation; NM and OBJDUMP name the tools
"""
import os
import re
import subprocess
import sys

import rules

# objdump -t: address, seven flag characters, section, tab, size, [visibility] name
_OBJECT = re.compile(r"^[0-9a-f]+ (.{7}) (\S+)\t[0-9a-f]+ +(?:\.\w+ +)?(.+)$")
_MEMBER = re.compile(r"^(\S+):\s+file format ")
_INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\s+(?:(?:rep(?:n?[ze])?|lock|data16|addr32|rex\S*|notrack|bnd|[c-g]s|ss) )*(\S+)"
                          r"(?:\s+([^#<]+))?")
_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_MUTABLE = re.compile(r"^\.(?:bss|tbss|tdata|data)(?!\.rel\.ro)(?:\..*)?$")
_INVISIBLE = re.compile(r"^(?:DW\.ref\..*|\.L.*|\.bss.*|\.data.*|\.tbss.*|\.tdata.*|"
                        r"guard variable for std::.*)$")


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, errors="replace", timeout=300).stdout


def parse_nm(text):
    """(undefined, defined): [(object file, name)] and {name}, of `nm -A -C` output."""
    undefined, defined = [], set()
    for line in text.splitlines():
        m = re.match(r"^(\S+?):(?:([^:\s]+):)?\s*[0-9a-f]*\s+(\w) (.+)$", line)
        if not m:
            continue
        member = m.group(2) or os.path.basename(m.group(1))
        if m.group(3) in "Uwv":
            undefined.append((member, m.group(4)))
        else:
            defined.add(m.group(4))
    return undefined, defined


def check_undefined(undefined, defined):
    allowed = [re.compile(p) for p in rules.ALLOWED_SYMBOLS]
    forbidden = [(rule, re.compile(p)) for rule, p in rules.FORBIDDEN_SYMBOLS]
    for member, symbol in sorted(set(undefined)):
        name = re.sub(r"@.*$", "", symbol)
        if name in defined or name in rules.ALLOWED_SYMBOL_USES.get(member, {}):
            continue
        rule = next((rule for rule, pattern in forbidden if pattern.fullmatch(name)), None)
        if rule:
            yield f"{member}: {rule}: uses {name}"
        elif not any(pattern.fullmatch(name) for pattern in allowed):
            yield f"{member}: unknown symbol: {name} is not known to be harmless"


def check_globals(text):
    """`text`: of objdump -t -C."""
    member = "?"
    for line in text.splitlines():
        m = _MEMBER.match(line)
        if m:
            member = m.group(1)
            continue
        m = _OBJECT.match(line)
        if not m or not _MUTABLE.match(m.group(2)) or "d" in m.group(1) or _INVISIBLE.match(m.group(3)):
            continue
        if m.group(3) not in rules.ALLOWED_GLOBALS:
            yield f"{member}: global state: {m.group(3)} in {m.group(2)} can change and belongs to no machine"


def check_instructions(text):
    """`text`: of objdump -d -C --no-show-raw-insn."""
    member = function = "?"
    for line in text.splitlines():
        m = _INSTRUCTION.match(line)
        if m:
            if rules.FORBIDDEN_INSTRUCTIONS.match(m.group(1)) and \
                    (m.group(2) or "").strip() not in rules.ALLOWED_INSTRUCTIONS.get(m.group(1), ()):
                yield f"{member}: instruction: {m.group(1)} in {function}"
            continue
        m = _FUNCTION.match(line)
        if m:
            function = m.group(1)
            continue
        m = _MEMBER.match(line)
        if m:
            member = m.group(1)


def check_libraries(libraries, nm="nm", objdump="objdump"):
    undefined, defined = [], set()
    problems = []
    for library in libraries:
        some, others = parse_nm(run(nm, "-A", "-C", library))
        undefined += some
        defined |= others
    problems += check_undefined(undefined, defined)
    for library in libraries:
        problems += check_globals(run(objdump, "-t", "-C", library))
        problems += check_instructions(run(objdump, "-d", "-C", "--no-show-raw-insn", library))
    return problems, len(undefined), len(defined)


def main():
    libraries = sys.argv[1:]
    if not libraries:
        print("which libraries?")
        return 2
    problems, undefined, defined = check_libraries(libraries, os.environ.get("NM", "nm"),
                                                   os.environ.get("OBJDUMP", "objdump"))
    for problem in problems:
        print(problem)
    print(f"{len(libraries)} libraries, {defined} symbols, {undefined} uses of others, {len(problems)} problems")
    return 1 if problems or defined < 100 else 0


if __name__ == "__main__":
    sys.exit(main())
