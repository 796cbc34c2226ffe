"""Timelines over recordings of Linux: states reached in different ways, and stops forwards and backwards, against plain
replays (timeline_check.cc)."""
import os
import subprocess

import support

CHECK = os.environ["TIMELINE_CHECK"]
# A run of the suite checks a part of what a run before a release does (2.5: 1000 positions and 220 sets of the crash), with a
# fresh seed each time.
SCALE = float(os.environ.get("TIMELINE_SCALE", "1"))


class Timeline(support.Case):
    def record(self, *arguments):
        trace = self.path("trace")
        self.tool("record", *support.linux(*arguments), *self.how, "-o", trace)
        return trace

    def check(self, trace, positions, sets, *more):
        images = [os.path.join(support.GUEST_DIR, name) for name in ("vmlinuz-cloud", "initramfs.cpio")]
        numbers = [int(positions * SCALE), int(sets * SCALE), support.seed(), *more]
        result = subprocess.run([CHECK, trace, *images, *map(str, numbers)], capture_output=True, timeout=1100 * max(1, SCALE))
        self.assertEqual(result.returncode, 0, (result.stdout + result.stderr).decode())
        print(result.stdout.decode(), flush=True)


class Crash(Timeline):
    how = ["--stop-on-panic", "--deterministic"]

    def test_every_way_leads_to_the_same_state_and_every_search_to_the_last_hit(self):
        self.check(self.record("cloud", "quiet workload=crash"), 400, 88)


class Typed(Timeline):
    def test_recordings_with_input_can_be_entered_anywhere(self):
        script = self.file("s", 'after "ends it" after "# " send "ls -lR / | head -200\\n"\n'
                                'wait 20ms send "echo typed $((6*7))\\n"\n'
                                'after "typed 42" after "# " send "poweroff -f\\n"\n')
        self.how = ["--console", f"script:{script}", "--journal", "full", "--timeout", "300"]
        self.check(self.record("cloud", "quiet"), 200, 60)


class KeyFrames(Timeline):
    how = ["--stop-on-panic", "--deterministic", "--key-frames", "150M"]

    def test_a_recording_is_entered_in_the_middle_and_searched_without_having_been_run(self):
        self.check(self.record("cloud", "quiet workload=crash"), 200, 60)

    def test_little_memory_makes_it_slower_and_nothing_else(self):
        self.check(self.record("cloud", "quiet workload=crash"), 20, 10, 192)


class LittleMemory(Timeline):
    how = ["--stop-on-panic", "--deterministic"]

    def test_little_memory_makes_it_slower_and_nothing_else(self):
        self.check(self.record("cloud", "quiet workload=crash"), 8, 4, 128)


if __name__ == "__main__":
    support.main()
