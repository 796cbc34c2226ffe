#!/usr/bin/env python3
"""Shows that every rule of the scanners can fail, and what it lets pass."""
import os
import shutil
import subprocess
import tempfile
import unittest

import rules
import sources
import symbols


def rules_broken_by(text, path="vmm/devices/sample.cc"):
    return {p.rule for p in sources.check_code(path, text)}


def include_problems(path, *lines):
    return [str(p) for p in sources.check_includes(path, "\n".join(lines) + "\n")]


class Code(unittest.TestCase):
    def test_each_rule_finds_its_sample(self):
        samples = {
            "host clock": ["clock_gettime(CLOCK_MONOTONIC, &t);", "auto t = std::chrono::steady_clock::now();",
                           "x = time(nullptr);",
                           "x = ::time(0);", "x = std::time(&t);", "c = clock();", "::gettimeofday(&t, nullptr);"],
            "random source": ["int x = rand();", "std::random_device d;", "std::mt19937_64 g(1);",
                              "std::ranges::shuffle(v, g);",
                              "getrandom(p, 8, 0);", "x = std::rand ();"],
            "environment": ['auto e = std::getenv("HOME");', "pid = getpid();", "n = sysconf(_SC_NPROCESSORS_ONLN);",
                            "syscall(39);"],
            "file or socket": ['fopen("x", "r");', 'fd = ::open("x", 0);', "::read(fd, p, n);", "std::ifstream in(path);",
                               "std::cerr << x;", "socket(1, 2, 3);", "fprintf(stdout, x);", "std::system(c);"],
            "thread": ["std::thread t(f);", "std::mutex m;", "std::atomic<int> n;", "thread_local int n;",
                       "pthread_create(&t, 0, f, 0);"],
            "host CPU": ["x = __rdtsc();", "x = __builtin_ia32_rdrand64_step(&v);", 'asm("rdtscp" : "=a"(a));',
                         'asm volatile("cpuid");', 'asm("mov %0, %%eax\\n\\trdrand %%eax" : : "r"(a));',
                         "__get_cpuid(1, &a, &b, &c, &d);",
                         "if (__builtin_cpu_supports(x)) y();"],
            "build time": ["const char* built = __DATE__;"],
            "address as number": ["x = reinterpret_cast<uintptr_t>(p);", "x = reinterpret_cast<std::uint64_t>(&y);",
                                  "x = std::hash<T*>{}(p);", 'printf("%p", p);', 'fmt::format("{:p}", p);', "fmt::ptr(p);",
                                  "x = reinterpret_cast<unsigned long>(p);", "std::bit_cast<uint64_t>(p);"],
            "address as order": ["std::map<Device*, int> m;", "std::set<const Block *> s;"],
            "hash order": ["std::unordered_map<int, int> m;"],
        }
        known = {rule for table in (rules.FORBIDDEN_CODE, rules.FORBIDDEN_STRINGS, rules.FORBIDDEN_TEXT)
                 for rule, _, _ in table}
        self.assertEqual(known, set(samples), "a rule without a sample, or the other way round")
        for rule, lines in samples.items():
            for line in lines:
                with self.subTest(line=line):
                    self.assertEqual(rules_broken_by(line), {rule})

    def test_lets_harmless_code_pass(self):
        for line in ("// the host's std::chrono is not used", "/* rdtsc\n getenv(x) */", 's = "getenv(x) and time(0)";',
                     "rtc.set_time(5);", "uint32_t PitCounter::read(uint16_t port) {", "device.read(port, 1);",
                     "bus->write(1, 2, 3);",
                     "journal_.connect(sink, mask);", "uint64_t time(int x);", "virtual void output(Moment at);",
                     "x = 1'000'000;",
                     'error("bad cpuid leaf")', 'out.section("cpuid");', "auto c = 'p'; auto d = '\"'; f();",
                     "std::map<std::string, Device*> m;",
                     'fmt::format("{:02x} of {}", a, b);', 'x = "100%";', "reinterpret_cast<const uint8_t*>(p)",
                     "case MSR::IA32_TSC: return rdtsc(cpu);", "emit_cpuid(insn, op);",
                     'asm("add %1, %0" : "+r"(a) : "r"(b));'):
            with self.subTest(line=line):
                self.assertEqual(rules_broken_by(line), set())

    def test_counts_exceptions_exactly(self):
        path = "vmm/soft/memory.cc"
        one = "x = reinterpret_cast<uint64_t>(p);\n"
        self.assertEqual(rules.ALLOWED_CODE[path]["address as number"][0], 1)
        self.assertEqual(rules_broken_by(one, path), set())
        self.assertEqual(len(list(sources.check_code(path, one * 2))), 2)
        self.assertEqual(rules_broken_by("", path), {"address as number"})

    def test_sees_through_raw_strings_and_continued_comments(self):
        self.assertEqual(rules_broken_by('x = R"q(getenv("X") )" )q"; // time(0) \\\n getpid();'), set())
        self.assertEqual(rules_broken_by('x = R"(a)"; getpid();'), {"environment"})

    def test_names_the_line(self):
        problem, = sources.check_code("vmm/cpu/a.cc", "int a;\n/* \n */ int b = rand();\n")
        self.assertEqual(problem.line, 3)

    def test_finds_iteration_in_hash_order(self):
        header = "std::unordered_map<uint64_t, std::vector<int>> pages_;\nstd::unordered_set<int>& seen = f();\n"
        names = sources.unordered_names(header)
        self.assertEqual(names, {"pages_", "seen"})
        for line in ("for (auto& [a, b] : pages_) f(a);", "auto it = seen.begin();",
                     "for (const auto& p : this->pages_) f();",
                     "std::begin(seen);"):
            self.assertEqual(len(list(sources.check_iteration("vmm/devices/a.cc", line, names))), 1, line)
        for line in ("auto it = pages_.find(3); if (it == pages_.end()) return;", "for (int i : others) f();",
                     "// for (int i : seen)"):
            self.assertEqual(list(sources.check_iteration("vmm/devices/a.cc", line, names)), [], line)


class Includes(unittest.TestCase):
    def test_machine_may_not_reach_up_or_sideways(self):
        for path, target in (("vmm/clock.cc", "vmm/cpu/state.h"), ("vmm/cpu/a.cc", "vmm/soft/op.h"),
                             ("vmm/devices/a.cc", "vmm/soft/soft_engine.h"), ("vmm/devices/a.cc", "vmm/engine.h"),
                             ("vmm/soft/a.cc", "vmm/devices/pc.h"), ("vmm/machine/a.cc", "traces/writer.h"),
                             ("vmm/boot/a.cc", "vmm/devices/pc.h"), ("vmm/machine/a.cc", "vmm/host/console.h"),
                             ("vmm/host/a.cc", "vmm/machine/machine.h"), ("traces/a.cc", "vmm/machine/machine.h"),
                             ("record/a.cc", "replay/bisect.h"), ("replay/a.cc", "cli/say.h"),
                             ("record/a.cc", "vmm/soft/op.h"),
                             ("vmm/clock.h", "record/record_session.h")):
            with self.subTest(path=path, target=target):
                self.assertEqual(len(include_problems(path, f'#include "{target}"')), 1)

    def test_machine_may_include_only_known_headers(self):
        for header in ("chrono", "random", "thread", "fstream", "unistd.h", "sys/time.h", "cmath", "iostream",
                       "unordered_map", "x86intrin.h"):
            self.assertEqual(len(include_problems("vmm/devices/a.cc", f"# include <{header}>")), 1, header)
            self.assertEqual(include_problems("vmm/host/a.cc", f"#include <{header}>"), [], header)

    def test_lets_the_documented_includes_pass(self):
        for path, target in (("vmm/devices/a.cc", "vmm/cpu/state.h"), ("vmm/machine/a.cc", "vmm/devices/pc.h"),
                             ("vmm/boot/a.cc", "vmm/devices/machine_map.h"), ("replay/a.cc", "record/record_session.h"),
                             ("vmm/vcpu.h", "vmm/cpu/state.h"), ("cli/a.cc", "vmm/host/console.h")):
            self.assertEqual(include_problems(path, f'#include "{target}"'), [], path)
        self.assertEqual(include_problems("vmm/a.cc", "// #include <chrono>", '/* #include "cli/say.h"', "*/",
                                          "#include <vector>"), [])

    def test_knows_every_room(self):
        self.assertEqual(len(include_problems("vmm/newroom/a.cc")), 1)
        self.assertEqual(len(include_problems("vmm/cpu/a.cc", '#include "state.h"')), 1)

    def test_finds_circles(self):
        self.assertEqual(len(list(sources.check_cycles({"a.h": {"b.h"}, "b.h": {"c.h"}, "c.h": {"a.h"}, "d.h": {"a.h"}}))),
                         1)
        self.assertEqual(list(sources.check_cycles({"a.h": {"b.h", "c.h"}, "b.h": {"c.h"}, "c.h": set()})), [])


class Tree(unittest.TestCase):
    def test_limits_the_length_of_files(self):
        self.assertEqual(len(list(sources.check_length("a.cc", "\n" * (rules.MAX_LINES + 1)))), 1)
        self.assertEqual(list(sources.check_length("a.cc", "\n" * rules.MAX_LINES)), [])

    def test_wants_include_guards(self):
        self.assertEqual(len(list(sources.check_header_guard("a.h", "// #pragma once\nint x;\n"))), 1)
        self.assertEqual(list(sources.check_header_guard("a.h", "// a\n#pragma once\n")), [])

    def test_finds_what_is_included_through_others(self):
        fine = {"vmm/devices/a.cc": {"vmm/devices/a.h"}, "vmm/devices/a.h": {"vmm/bus.h"}, "vmm/bus.h": set()}
        self.assertEqual(list(sources.check_transitive(fine)), [])
        problems = [str(p) for p in sources.check_transitive(fine | {"vmm/bus.h": {"vmm/types.h"}, "vmm/types.h": {"vmm/engine.h"}})]
        self.assertEqual(len(problems), 2, problems)
        self.assertIn("vmm/engine.h from vmm/types.h from vmm/bus.h from vmm/devices/a.h from vmm/devices/a.cc", problems[0])
        self.assertEqual(len(list(sources.check_transitive({"vmm/machine/m.cc": {"vmm/soft/soft_engine.h"}}))), 1)
        self.assertEqual(len(list(sources.check_transitive({"vmm/a.h": {"replay/timeline.h"}, "replay/timeline.h": set()}))), 1)

    def test_wants_a_header_for_each_source_of_the_machine(self):
        own, other = '#include "vmm/cpu/a.h"\n', '#include "vmm/cpu/b.h"\n'
        header = {"vmm/cpu/a.h": "#pragma once\n"}
        self.assertEqual(list(sources.check_own_headers(header | {"vmm/cpu/a.cc": own, "cli/a.cc": ""})), [])
        self.assertEqual(len(list(sources.check_own_headers(header | {"vmm/cpu/b.cc": own}))), 1)
        self.assertEqual(len(list(sources.check_own_headers(header | {"vmm/cpu/a.cc": other}))), 1)

    def test_exceptions_without_a_header_name_the_one_that_they_include(self):
        path, (instead, reason) = next(iter(rules.ALLOWED_WITHOUT_HEADER.items()))
        self.assertTrue(reason)
        self.assertEqual(list(sources.check_own_headers({path: f'#include "{instead}"\n'})), [])
        self.assertEqual(len(list(sources.check_own_headers({path: ""}))), 1)
        stale = {path: f'#include "{path[:-3]}.h"\n', path[:-3] + ".h": "#pragma once\n"}
        self.assertEqual(len(list(sources.check_own_headers(stale))), 1)

    def test_wants_rooms_documented(self):
        text = "| `vmm/*.h` | a |\n| `vmm/cpu/` | b |\n"
        self.assertEqual(list(sources.check_documented(text, {"vmm", "vmm/cpu"})), [])
        self.assertEqual(len(list(sources.check_documented(text, {"vmm", "vmm/cpu", "traces"}))), 1)
        self.assertEqual(len(list(sources.check_documented(text + "| `vmm/swap/` | c |\n", {"vmm"}))), 1)

    def test_whole_tree_run_reports_each_kind(self):
        files = {"vmm/devices/a.cc": '#include "vmm/soft/op.h"\nint x = rand();\n', "vmm/soft/op.h": "int y;\n",
                 "vmm/soft/b.h": "#pragma once\n"}
        found = {p.rule for p in sources.check_tree(files, "")}
        self.assertLessEqual({"include", "random source", "header", "room", "rules"}, found)

    def test_knows_containers_by_the_headers_a_file_includes(self):
        files = {"vmm/cpu/a.h": "#pragma once\nstd::unordered_set<int> all_;\n",
                 "vmm/cpu/a.cc": '#include "vmm/cpu/a.h"\nvoid f() { for (int i : all_) g(i); }\n',
                 "vmm/cpu/b.cc": "std::vector<int> all_;\nvoid f() { for (int i : all_) g(i); }\n"}
        found = [p.path for p in sources.check_tree(files, "") if "is iterated" in p.message]
        self.assertEqual(found, ["vmm/cpu/a.cc"])


class Symbols(unittest.TestCase):
    @staticmethod
    def problems(*names, member="pit8254.cc.o"):
        text = "".join(f"librv_devices.a:{member}:                 U {name}\n" for name in names)
        return list(symbols.check_undefined(*symbols.parse_nm(text)))

    def test_each_kind_is_found(self):
        for name in ("clock_gettime", "time@GLIBC_2.2.5", "gettimeofday", "getrandom", "rand", "random", "getpid", "open64",
                     "fopen", "socket",
                     "getenv", "pthread_create", "sin", "pow", "sleep", "read", "std::random_device::_M_getval()",
                     "std::chrono::_V2::steady_clock::now()", "std::basic_ifstream<char, std::char_traits<char> >::close()",
                     "std::cerr",
                     "std::thread::_M_start_thread(std::unique_ptr<std::thread::_State>, void (*)())",
                     "std::filesystem::status(int)",
                     "fmt::v9::vprint(fmt::v9::basic_string_view<char>)", "stdout", "puts", "syscall", "some_library_call",
                     "retrovisor::TraceWriter::create()"):
            with self.subTest(name=name):
                self.assertEqual(len(self.problems(name)), 1)

    def test_harmless_ones_pass(self):
        self.assertEqual(self.problems("memcpy", "strlen", "operator new(unsigned long)",
                                       "std::__throw_length_error(char const*)", "__udivti3",
                                       "std::__cxx11::basic_string<char, X<char> >::_M_append(char const*, unsigned long)",
                                       "fmt::v9::vformat[abi:cxx11](int)", "XXH3_64bits", "_Unwind_Resume",
                                       "void std::__cxx11::basic_string<char>::_M_construct<char*>(char*, char*)",
                                       "vtable for __cxxabiv1::__si_class_type_info", "operator delete[](void*)"), [])

    def test_symbols_of_the_libraries_themselves_pass(self):
        text = "librv_a.a:a.cc.o:                 U retrovisor::f()\nlibrv_b.a:b.cc.o:0000000000000010 T retrovisor::f()\n"
        self.assertEqual(list(symbols.check_undefined(*symbols.parse_nm(text))), [])

    def test_exceptions_hold_for_their_file_only(self):
        self.assertEqual(self.problems("stderr", "fprintf", member="assert.cc.o"), [])
        self.assertEqual(len(self.problems("stderr", "fprintf")), 2)

    def test_scans_real_objects(self):
        compiler = os.environ.get("CXX") or shutil.which("c++")
        if not compiler:
            self.skipTest("no compiler")
        bad = """
            extern "C" long time(long*);
            unsigned counter;
            static thread_local int depth;
            unsigned long tables[2] = {1, 2};
            const char* const names[] = {"a", "b"};
            unsigned long f() {
              asm volatile("rep stosb\\n\\trdtsc" : : : "rax", "rdx");
              ++depth;
              return time(nullptr) + ++counter + ++tables[depth & 1];
            }
        """
        with tempfile.TemporaryDirectory() as folder:
            source, target = os.path.join(folder, "bad.cc"), os.path.join(folder, "bad.o")
            with open(source, "w", encoding="utf-8") as f:
                f.write(bad)
            subprocess.run([compiler, "-O1", "-c", source, "-o", target], check=True, timeout=60)
            found, _, _ = symbols.check_libraries([target], os.environ.get("NM", "nm"), os.environ.get("OBJDUMP", "objdump"))
        self.assertEqual(sorted(p.split(": ", 1)[1].split(" in ")[0] for p in found),
                         ["global state: counter", "global state: depth", "global state: tables", "host clock: uses time",
                          "instruction: rdtsc"])


if __name__ == "__main__":
    unittest.main()
