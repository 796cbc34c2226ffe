#!/usr/bin/env python3
"""Checks the sources against rules.py: who includes whom, and that nothing but vmm/host reaches for the host.

sources.py [ROOT]   exits with 1 and one line for each violation
"""
import os
import re
import sys

import rules

_TOKEN = re.compile(
    r"""//(?:[^\n\\]|\\.)*                                   # comment to the end of the line
      | /\*.*?\*/                                            # comment
      | (?:u8|[uUL])?R"(?P<raw>[^()\\\s]*)\(.*?\)(?P=raw)"   # raw string
      | (?:u8|[uUL])?"(?:[^"\\\n]|\\.)*"                     # string
      | (?<![0-9a-fA-F])'(?:[^'\\\n]|\\.)+'                  # character; not the ' between digits
    """, re.VERBOSE | re.DOTALL)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>)', re.MULTILINE)


class Problem:
    def __init__(self, path, line, rule, message):
        self.path, self.line, self.rule, self.message = path, line, rule, message

    def __str__(self):
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


def _blank(text):
    return re.sub(r"[^\n]", " ", text)


def split(text):
    """(code, strings): `text` with comments and literals blanked, and with everything but the string literals blanked."""
    code, strings, at = [], [], 0
    for m in _TOKEN.finditer(text):
        between = text[at:m.start()]
        code.append(between)
        strings.append(_blank(between))
        token = m.group()
        comment = token.startswith("//") or token.startswith("/*")
        code.append(_blank(token))
        strings.append(_blank(token) if comment else token)
        at = m.end()
    code.append(text[at:])
    strings.append(_blank(text[at:]))
    return "".join(code), "".join(strings)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def without_comments(text):
    return _TOKEN.sub(lambda m: _blank(m.group()) if m.group().startswith(("//", "/*")) else m.group(), text)


def includes(text):
    """(line, path, quoted) of every include, comments excluded."""
    uncommented = without_comments(text)
    return [(line_of(uncommented, m.start()), m.group(1) or m.group(2), m.group(1) is not None)
            for m in _INCLUDE.finditer(uncommented)]


def check_includes(path, text):
    room = os.path.dirname(path)
    if room not in rules.ROOMS:
        yield Problem(path, 1, "room", f"{room} is not in the table of rooms (tests/hygiene/rules.py, docs/architecture.md)")
        return
    for line, target, quoted in includes(text):
        if quoted:
            yield from _check_own_include(path, room, line, target)
        elif room in rules.VMM_ROOMS and target not in rules.ALLOWED_HEADERS and \
                target not in rules.ALLOWED_HEADER_USES.get(path, {}):
            yield Problem(path, line, "header",
                          f"<{target}> is not known to be harmless: the machine may use nothing of the host")


def _check_own_include(path, room, line, target):
    other = os.path.dirname(target)
    forbidden = rules.FORBIDDEN_INCLUDES.get(room, {}).get(target)
    if forbidden:
        yield Problem(path, line, "include", f"{room} may not include {target}: {forbidden}")
        return
    allowed = rules.ROOMS[room]
    if other == room or other in allowed or target in allowed:
        return
    if any(target == exception or (exception.endswith("/") and target.startswith(exception))
           for exception in rules.ALLOWED_INCLUDES.get(path, {})):
        return
    if other not in rules.ROOMS:
        yield Problem(path, line, "include", f'"{target}" is in no room; own headers are named by their path from the top')
        return
    yield Problem(path, line, "include", f"{room} may not include {target}")


def check_code(path, text):
    """Only for files of the machine's rooms."""
    code, strings = split(text)
    code = _INCLUDE.sub(lambda m: _blank(m.group()), code)
    found = {}  # (rule, line): message
    for table, where in ((rules.FORBIDDEN_CODE, code), (rules.FORBIDDEN_STRINGS, strings),
                         (rules.FORBIDDEN_TEXT, without_comments(text))):
        for rule, pattern, why in table:
            for m in re.finditer(pattern, where):
                found[rule, line_of(where, m.start())] = f"'{' '.join(m.group().split())}': {why}"
    allowed = rules.ALLOWED_CODE.get(path, {})
    for rule in sorted({rule for rule, _ in found} | set(allowed)):
        lines = sorted(line for r, line in found if r == rule)
        expected = allowed.get(rule, (0, ""))[0]
        if len(lines) == expected:
            continue
        if len(lines) < expected:
            yield Problem(path, 1, rule,
                          f"rules.py allows {expected} lines of this but there are {len(lines)}: lower the number")
            continue
        for line in lines:
            more = f" (rules.py allows {expected} of these {len(lines)} lines)" if expected else ""
            yield Problem(path, line, rule, found[rule, line] + more)


_UNORDERED = re.compile(r"\bunordered_(?:multi)?(?:map|set)\s*<")
_NAME = re.compile(r"\s*[&*]?\s*(\w+)\s*(?:;|=|\{|\()")


def unordered_names(code):
    """Names of variables of unordered containers in `code`."""
    names = set()
    for m in _UNORDERED.finditer(code):
        at, depth = m.end(), 1
        while at < len(code) and depth:
            depth += {"<": 1, ">": -1}.get(code[at], 0)
            at += 1
        name = _NAME.match(code, at)
        if name:
            names.add(name.group(1))
    return names


def check_iteration(path, text, names):
    """Loops over the containers in `names`."""
    code, _ = split(text)
    for name in names:
        word = rf"\b{re.escape(name)}\b"
        loop = rf"\bfor\s*\([^;()]*:[^;()]*{word}\s*\)|{word}\s*\.\s*c?begin\s*\(|\bstd::c?begin\s*\(\s*{word}"
        for m in re.finditer(loop, code):
            if (path, name) not in rules.ALLOWED_ITERATIONS:
                yield Problem(path, line_of(code, m.start()), "hash order",
                              f"{name} is iterated: its order may differ from run to run")


def check_cycles(graph):
    """`graph`: file: the files it includes. One problem for each circle found."""
    state = {}
    for start in sorted(graph):
        if start in state:
            continue
        state[start] = "open"
        stack = [(start, iter(sorted(graph[start])))]
        while stack:
            node, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[node] = "done"
                stack.pop()
            elif following not in state:
                if following in graph:
                    state[following] = "open"
                    stack.append((following, iter(sorted(graph[following]))))
            elif state[following] == "open":
                chain = [n for n, _ in stack]
                yield Problem(node, 1, "circle", " -> ".join(chain[chain.index(following):] + [following]))


def check_length(path, text):
    lines = text.count("\n")
    if lines > rules.MAX_LINES:
        yield Problem(path, lines, "length", f"{lines} lines; the most is {rules.MAX_LINES}: split it by topic")


def check_header_guard(path, text):
    if path.endswith(".h") and not re.search(r"^#pragma once$", text, re.MULTILINE):
        yield Problem(path, 1, "header", "no #pragma once")


def check_transitive(graph):
    """Does any file come, through headers, to what its room must not know? `graph`: path to the paths that it includes."""
    for path in sorted(graph):
        forbidden = rules.TRANSITIVELY_FORBIDDEN.get(os.path.dirname(path))
        if not forbidden:
            continue
        through = {path: None}
        todo = [path]
        while todo:
            at = todo.pop()
            for target in sorted(graph.get(at, ())):
                if target in through:
                    continue
                through[target] = at
                todo.append(target)
                bad = next((f for f in forbidden if target == f or (f.endswith("/") and target.startswith(f))), None)
                if bad is None:
                    continue
                way = [target]
                while through[way[-1]] is not None:
                    way.append(through[way[-1]])
                yield Problem(path, 1, "include", f"comes to {' from '.join(way)}: {forbidden[bad]}")


def check_own_headers(files):
    """Does each source of vmm stand beside a header of its name, or include the one that rules.py names instead?"""
    for path in sorted(p for p in files if p.startswith("vmm/") and p.endswith(".cc")):
        header = path[:-len(".cc")] + ".h"
        instead, _ = rules.ALLOWED_WITHOUT_HEADER.get(path, (None, None))
        if header in files:
            if instead:
                yield Problem(path, 1, "own header", "rules.py has an exception for this file, which has a header of its name")
        elif not instead:
            yield Problem(path, 1, "own header", f"no {os.path.basename(header)} beside it declares what others use of it")
        if header in files or instead:
            wanted = header if header in files else instead
            if wanted not in {target for _, target, quoted in includes(files[path]) if quoted}:
                yield Problem(path, 1, "own header", f"does not include {wanted}, which declares what it defines")


def check_documented(text, folders):
    """`text` of docs/architecture.md: has its table a row for each of `folders`, and has rules.py an entry for each row?"""
    rows = {row.rstrip("/") for row in re.findall(r"^\| `([\w/]+)(?:/\*\.h)?/?` \|", text, re.MULTILINE)}
    for room in sorted(set(folders) - rows):
        yield Problem("docs/architecture.md", 1, "room", f"{room} has no row in the table of rooms")
    for room in sorted(rows - set(rules.ROOMS)):
        yield Problem("docs/architecture.md", 1, "room", f"{room} is not in tests/hygiene/rules.py")


def read_tree(root):
    """path from the top: text, of every source."""
    files = {}
    for folder in rules.SOURCE_FOLDERS:
        for where, folders, names in os.walk(os.path.join(root, folder)):
            folders[:] = sorted(f for f in folders if f not in ("__pycache__", "build"))
            for name in sorted(names):
                path = os.path.join(where, name)
                if name.endswith(rules.SOURCE_ENDINGS) and os.path.isfile(path):
                    with open(path, encoding="utf-8") as f:
                        files[os.path.relpath(path, root)] = f.read()
    return files


def check_tree(files, architecture):
    """All rules over `files` (path: text) and the text of docs/architecture.md."""
    machine = {path: text for path, text in files.items() if os.path.dirname(path) in rules.VMM_ROOMS}
    rooms = {path: text for path, text in files.items()
             if path.endswith((".cc", ".h")) and not path.startswith(("tests/", "bench/", "tools/"))}
    for path, text in sorted(files.items()):
        yield from check_length(path, text)
        yield from check_header_guard(path, text)
    for path, text in sorted(rooms.items()):
        yield from check_includes(path, text)
    names = {path: unordered_names(split(text)[0]) for path, text in machine.items()}
    for path, text in sorted(machine.items()):
        yield from check_code(path, text)
        seen = [path] + [target for _, target, quoted in includes(text) if quoted]
        yield from check_iteration(path, text, sorted(set().union(*(names.get(p, set()) for p in seen))))
    yield from check_cycles({path: {target for _, target, quoted in includes(text) if quoted}
                             for path, text in rooms.items()})
    yield from check_transitive({path: {target for _, target, quoted in includes(text) if quoted} for path, text in rooms.items()})
    yield from check_own_headers(files)
    yield from check_documented(architecture, {os.path.dirname(path) for path in rooms})
    # An exception for a file that is gone is a hole.
    for table in (rules.ALLOWED_INCLUDES, rules.ALLOWED_HEADER_USES, rules.ALLOWED_CODE, rules.ALLOWED_WITHOUT_HEADER):
        for path in sorted(set(table) - set(files)):
            yield Problem(path, 0, "rules", "rules.py has an exception for this file, which does not exist")


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    files = read_tree(root)
    with open(os.path.join(root, "docs", "architecture.md"), encoding="utf-8") as f:
        problems = [str(p) for p in check_tree(files, f.read())]
    for problem in problems:
        print(problem)
    print(f"{len(files)} files, {len(problems)} problems")
    return 1 if problems or len(files) < 50 else 0


if __name__ == "__main__":
    sys.exit(main())
