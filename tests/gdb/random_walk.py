"""Run inside gdb, by stress.py: a random mix of gdb's commands that move through kernel.elf. WALK, set before, holds the
seed, how many operations, and the file that tells which was the last."""
import random
import re
import time

import gdb

source = random.Random(WALK["seed"])  # noqa: F821
log = open(WALK["log"], "w", buffering=1)  # noqa: F821
BACK = ["reverse-stepi", "reverse-step", "reverse-next", "reverse-finish", "reverse-continue"]
FORWARD = ["stepi", "step", "next", "finish", "continue"]
MOVES = BACK * 3 + FORWARD + ["seek", "seek"]
POINTS = ["break push", "break square", "break sum", "break twice", "hbreak stray", "break kernel.c:44", "watch -l total",
          "watch -l box.victim", "watch -l trail[7]", "rwatch -l head", "awatch -l nodes[3].value"]
# gdb's own words for what makes no sense where it stands; anything else is a failure.
REFUSALS = r"not meaningful in the outermost frame|Cannot find bounds of current function|No line|cannot be inserted"
slowest = (0.0, "")


def run(command):
    begin = time.monotonic()
    log.write(command + "\n")
    try:
        answer = gdb.execute(command, to_string=True)
    except gdb.error as error:
        if not re.search(REFUSALS, str(error)):
            raise
        answer = str(error)
    global slowest
    slowest = max(slowest, (time.monotonic() - begin, command))
    return answer


def position():
    said = gdb.execute("monitor position", to_string=True)
    return tuple(int(part.replace("'", "")) for part in re.search(r"position ([0-9']+) of \d+\.\.([0-9']+)", said).groups())


def registers():
    return gdb.execute("info registers", to_string=True)


for number in range(WALK["operations"]):  # noqa: F821
    if source.random() < 0.2:
        if source.random() < 0.5 and len(gdb.breakpoints()) < 4:
            run(source.choice(POINTS))
        elif gdb.breakpoints():
            run(f"delete {source.choice(gdb.breakpoints()).number}")
    move = source.choice(MOVES)
    before, end = position()
    was = registers()
    if move == "seek":
        aim = source.randrange(end + 1)
        run(f"monitor seek {aim}")
        run("maintenance flush register-cache")
        right = position()[0] == aim
    else:
        answer = run(move)
        after = position()[0]
        log.write(f"  {before} -> {after}\n")
        refused = re.search(REFUSALS, answer) is not None
        right = after == before if refused else after <= before if move in BACK else after >= before
        if move == "reverse-stepi" and before > 0:
            right = after == before - 1
            run("stepi")
            right = right and position()[0] == before and registers() == was
    if not right:
        raise gdb.GdbError(f"operation {number}, {move}, has led from {before} to {position()}")
print(f"walked: {WALK['operations']} operations, the slowest {slowest[0] * 1e3:.0f} ms for {slowest[1]}")  # noqa: F821
