"""What the rooms may include and call: the rules of docs/architecture.md as tables.

Everything nondeterministic enters a machine through the boundary. So the rooms that make a machine (VMM_ROOMS) may not use
anything whose result depends on the host, on time, on chance, on where things lie in memory, or on hash order. An exception
is one entry in one of the ALLOWED tables, with its reason.
"""
import re

# What each room may include, beside its own headers. A room missing here is an error: it belongs into this table and into
# docs/architecture.md. Single headers are named by their path.
_FACTS = {"vmm", "vmm/memory", "vmm/cpu"}
_MACHINE = _FACTS | {"vmm/boot", "vmm/machine"}
ROOMS = {
    "vmm": set(),
    "vmm/memory": {"vmm"},
    "vmm/cpu": {"vmm", "vmm/memory"},
    "vmm/soft": _FACTS,
    "vmm/devices": _FACTS,
    # The tables that describe the devices to the guest say where they are.
    "vmm/boot": _FACTS | {"vmm/devices/machine_map.h"},
    "vmm/machine": _FACTS | {"vmm/soft", "vmm/devices", "vmm/boot"},
    "vmm/host": {"vmm"},
    "traces": {"vmm"},
    "record": _MACHINE | {"traces"},
    "replay": _MACHINE | {"traces", "record"},
    "cli": _MACHINE | {"vmm/host", "traces", "record", "replay"},
}
# Includes that only these files of a room may have.
ALLOWED_INCLUDES = {
    "vmm/platform.h": {"vmm/memory/guest_memory.h": "an engine and devices get the machine's memory through it"},
    "vmm/vcpu.h": {"vmm/cpu/state.h": "a vCPU is its architectural state and its lines"},
    "cli/doctor.cc": {"vmm/soft/": "asks the engine what it needs of the host",
                      "vmm/cpu/": "shows the CPU model"},
}
# Includes that a room may not have although its row allows the folder.
FORBIDDEN_INCLUDES = {
    "vmm/devices": {"vmm/engine.h": "a device does not know which engine runs, nor that there is one"},
    "vmm/soft": {"vmm/boundary.h": "what crosses the boundary comes to the engine through Platform"},
}

# The rooms whose code and data are the machine.
VMM_ROOMS = ("vmm", "vmm/memory", "vmm/cpu", "vmm/soft", "vmm/devices", "vmm/boot", "vmm/machine")

# Headers of the language and of libraries that can bring nothing from outside into the machine. Not among them, on purpose:
# cmath (results of libm differ between C libraries), locale, and everything about time, chance, files, threads.
ALLOWED_HEADERS = set("""
    algorithm array bit bitset charconv climits compare concepts cstddef cstdint cstring deque functional initializer_list
    iterator limits list map memory new numeric optional queue ranges set span string string_view tuple type_traits utility
    variant vector
    emmintrin.h xmmintrin.h pmmintrin.h tmmintrin.h smmintrin.h nmmintrin.h
    fmt/format.h xxhash.h
""".split())
ALLOWED_HEADER_USES = {
    "vmm/assert.cc": {"cstdio": "the message of a failed assertion", "cstdlib": "abort"},
    "vmm/machine/machine.cc": {"cstdio": "where the machine was when an assertion failed"},
    "vmm/machine/page_hashes.h": {"cstdlib": "calloc and free"},
    "vmm/memory/guest_memory.cc": {"sys/mman.h": "guest RAM is a mapping", "cerrno": "why it could not be made"},
    "vmm/soft/code_cache.h": {"unordered_map": "looked up by key", "unordered_set": "looked up by key"},
}


def _call(*names):
    """A call of, or a reference to, one of these functions: not a member of something, not part of a longer name."""
    return r"(?<![\w.])(?<!->)(?:(?:std)?::\s*)?\b(?:" + "|".join(names) + r")\s*\("


def _global_call(*names):
    """The same for names that methods have too: only where they are named as the C library's. The symbols tell the rest."""
    return r"(?:(?<![\w>])|\bstd)::\s*(?:" + "|".join(names) + r")\s*\("


# What the code may not contain: name, pattern, why. Comments and the contents of strings are blanked first.
FORBIDDEN_CODE = [
    ("host clock", _call("clock_gettime", "clock_getres", "gettimeofday", "timespec_get", "ftime", "times", "localtime(?:_r)?",
                         "gmtime(?:_r)?", "mktime", "strftime", "nanosleep", "usleep", "sleep"),
     "guest time comes from Clock, wall clock time through Boundary"),
    ("host clock", r"(?<![\w.:>])(?:std::|::)?(?:time|clock)\s*\(\s*(?:\)|NULL\b|nullptr\b|0\s*\)|&)",
     "guest time comes from Clock, wall clock time through Boundary"),
    ("host clock", r"\bstd::chrono\b|\busing namespace std::chrono", "guest time comes from Clock"),
    ("random source", _call("s?rand(?:_r)?", "srandom", "[dlmnj]?rand48", "arc4random\\w*", "getrandom", "getentropy"),
     "entropy comes through Boundary"),
    ("random source", r"\bstd::(?:random_device|mt19937(?:_64)?|minstd_rand0?|default_random_engine|ranlux\w+|knuth_b|"
                      r"shuffle|sample|\w+_distribution)\b|\bstd::ranges::(?:shuffle|sample)\b", "entropy comes through Boundary"),
    ("environment", _call("(?:secure_)?getenv", "getpid", "getppid", "gettid", "getuid", "geteuid", "gethostname", "uname", "getcwd",
                          "sysconf", "getauxval", "get_nprocs", "sysinfo", "getrusage", "sched_getcpu", "setlocale", "syscall"),
     "nothing of the host may reach the machine but through Boundary"),
    ("file or socket", _call("fopen(?:64)?", "openat(?:64)?", "freopen", "creat", "pread(?:v|64)?", "pwrite(?:v|64)?", "fread", "fgets",
                             "f?scanf", "getchar", "getline", "ioctl", "ppoll", "epoll_\\w+", "socket", "recv(?:from|msg)",
                             "send(?:to|msg)", "popen", "fork", "execve?", "dlopen", "dlsym", "fstat", "lstat"),
     "files are read by the caller, input comes through Boundary"),
    ("file or socket", _global_call("open(?:64)?", "readv?", "writev?", "poll", "select", "recv", "send", "accept", "connect", "bind",
                                    "listen", "system", "stat", "random"),
     "files are read by the caller, input comes through Boundary"),
    ("file or socket", r"\bstd::(?:[iof]fstream|fstream|filebuf|cin|cout|cerr|clog|filesystem|FILE\b)|\bstd(?:in|out)\b",
     "output goes through Boundary, files are read by the caller"),
    ("thread", r"\bstd::(?:j?thread|async|future|promise|(?:\w+_)?mutex|condition_variable\w*|atomic\w*|counting_semaphore|"
               r"binary_semaphore|latch|barrier|call_once|once_flag|this_thread)\b|\bpthread_\w+\s*\(", "a machine is one thread"),
    ("thread", r"\bthread_local\b", "state belongs to an object of the machine"),
    ("host CPU", r"\b(?:__rdtscp?|_rdtsc|_?_?builtin_ia32_(?:rd(?:tscp?|rand\w*|seed\w*|pmc|pid)\w*)|_rd(?:rand|seed)\d+_step|"
                 r"__builtin_readcyclecounter|__builtin_cpu_(?:init|is|supports)|__(?:get_)?cpuid(?:ex|_count|_max)?|_xgetbv)\b",
     "what the host CPU is or counts may not reach the machine"),
    ("build time", r"\b__(?:DATE|TIME|TIMESTAMP)__\b|\bstd::source_location\b", "two builds of one source are the same machine"),
    ("address as number", r"\breinterpret_cast<\s*(?:const\s+)?(?:std::)?(?:u?int(?:ptr|max|\d+)_t|s?size_t|unsigned(?:\s+long)*|"
                          r"(?:long\s*)+|int|__u?int128(?:_t)?)\s*>", "host addresses differ from run to run"),
    ("address as number", r"\bstd::(?:bit_cast<\s*(?:std::)?u?int(?:ptr|64)_t\s*>|hash\s*<|less<[^<>]*\*\s*>|to_address\b)|\bfmt::ptr\b",
     "host addresses and hash values differ from run to run"),
    ("address as order", r"\bstd::(?:multi)?(?:set|map)<\s*(?:const\s+)?[\w:]+(?:\s+const)?\s*\*",
     "pointers have no order that repeats"),
    ("hash order", r"\bstd::unordered_\w+", "iterating one gives an order that may differ from run to run"),
]
# The same, inside string literals.
FORBIDDEN_STRINGS = [
    ("address as number", r"%[-+ #0]*\d*p\b|\{[^{}]*:[^{}]*p\}", "host addresses differ from run to run"),
]
# The same, where only comments are blanked.
FORBIDDEN_TEXT = [
    ("host CPU", r"\basm\b[^;\"]*\([^;]*?(?:\"|\\[nt]|;)\s*(?:rdtscp?|rdrand|rdseed|rdpmc|rdpid|cpuid|xgetbv|syscall|sysenter)\b",
     "what the host CPU is or counts may not reach the machine"),
]
# file: {rule: (how many lines, why)}. The number is exact, so that one more line needs one more thought.
ALLOWED_CODE = {
    "vmm/assert.h": {"thread": (2, "where the running machine is, for the message of a failed assertion")},
    "vmm/assert.cc": {"thread": (2, "the same")},
    "vmm/soft/engine.cc": {"address as number": (2, "links of blocks, and which TLB entry points to a page: engine-internal")},
    "vmm/soft/memory.cc": {"address as number": (1, "TLB entries hold host addresses; they are no machine state")},
    "vmm/soft/code_cache.h": {"hash order": (2, "looked up by key; iterated only to clear a flag of every page")},
}
# Iterations over unordered containers: (file, container): why the order does not matter.
ALLOWED_ITERATIONS = {
    ("vmm/soft/code_cache.cc", "pages_"): "clears the same flag of every page",
}

MAX_LINES = 900
SOURCE_FOLDERS = ("vmm", "traces", "record", "replay", "cli", "gdbstub", "analysis", "tests", "bench", "tools")
SOURCE_ENDINGS = (".cc", ".h", ".py", ".asm", ".inc", ".cmake", ".sh")

# --- symbols --------------------------------------------------------------------------------------------------------

# Undefined symbols that the machine's libraries may have, as nm prints them demangled. What no pattern allows is an error.
ALLOWED_SYMBOLS = [
    # The compiler's and the language's own.
    r"_Unwind_\w+|__cxa_\w+|__gxx_personality_v0|_GLOBAL_OFFSET_TABLE_|__stack_chk_fail|__dso_handle|__cpu_model|DW\.ref\.\w+|TLS init function for retrovisor::\w+",
    r"__u?(?:div|mod|mul|divmod)[dt]i[34]|__popcount[dt]i2|__c[lt]z[dt]i2|__(?:fix|float)\w+",
    r"operator (?:new|delete)(?:\[\])?\(.*",
    r"(?:vtable|typeinfo(?: name)?) for .*",
    # The C library's memory and strings.
    r"(?:mem(?:cpy|move|set|cmp|chr|rchr)|bcmp|str(?:len|cmp|ncmp|chr))|__(?:mem\w+|str\w+)_chk",
    r"calloc|malloc|free|abort",
    # Libraries that compute from their arguments alone.
    r"XXH\w+|fmt::.*",
    # The standard library, but for FORBIDDEN_SYMBOLS.
    r"(?:[\w:<>,*& ]+ )?(?:std|__gnu_cxx)::.*|guard variable for std::.*|non-virtual thunk to std::.*",
    # Sanitizers.
    r"__(?:a|ub|l|t|m)san_\w+|__sanitizer_\w+|__sancov_\w+|__start___sancov_\w+|__stop___sancov_\w+|___asan_\w+|__asan\w+",
]
# Checked first: never, whatever else allows them.
FORBIDDEN_SYMBOLS = [
    ("host clock", r"clock(?:_\w+)?|time|times|gettimeofday|timespec_get|localtime\w*|gmtime\w*|mktime|strftime|nanosleep|u?sleep|"
                   r"(?:.* )?std::chrono::.*"),
    ("random source", r"s?rand(?:_r)?|s?random(?:_r)?|[dlmnjes]+rand48(?:_r)?|arc4random\w*|getrandom|getentropy|"
                      r"(?:.* )?std::random_device::.*"),
    ("environment", r"(?:secure_)?getenv|getpid|getppid|gettid|get[eg]?[ug]id|gethostname|uname|getcwd|sysconf|getauxval|get_nprocs\w*|"
                    r"sysinfo|getrusage|sched_\w+|setlocale|newlocale|uselocale|syscall|__cpu_indicator_init"),
    ("file or socket", r"f?open(?:at)?(?:64)?(?:_2)?|freopen(?:64)?|fdopen|creat(?:64)?|p?readv?(?:64)?|p?writev?(?:64)?|fread|fgets|fgetc|getc|"
                       r"scanf|fscanf|__isoc\d+_\w*scanf|getchar|getline|ioctl|p?poll|p?select|epoll_\w+|socket|recv\w*|send\w*|accept4?|"
                       r"connect|bind|listen|popen|system|v?fork|exec[vl]\w*|posix_spawn\w*|dlopen|dlsym|[fl]?stat(?:64|at|at64)?|"
                       r"__[fl]?xstat(?:64)?|stdin|stdout|(?:.* )?std::(?:basic_)?(?:[iof]?fstream|filebuf|ifstream|ofstream)\b.*|"
                       r"std::c(?:in|out|err|log)|(?:.* )?std::filesystem::.*|fmt::.*\bv?print\(.*|(?:v?printf|puts|putchar)"),
    ("thread", r"(?:__)?pthread_\w+|thrd_\w+|mtx_\w+|sem_\w+|(?:.* )?std::(?:j?thread|__future_base|(?:recursive_|timed_)*mutex|"
               r"condition_variable\w*|__atomic_\w+)\b.*|clone|futex|sigaction|signal|raise|kill"),
    # Correctly rounded functions apart, results of libm differ between versions of the C library.
    ("libm", r"(?:sin|cos|tan|a(?:sin|cos|tan)2?|sinh|cosh|tanh|sincos|exp(?:2|m1|10)?|log(?:2|10|1p|b)?|pow|hypot|cbrt|erfc?|[lt]gamma)[fl]?"),
]
# object file: {symbol: why}
ALLOWED_SYMBOL_USES = {
    "assert.cc.o": {"stderr": "message of a failed assertion", "fprintf": "the same", "fwrite": "the same", "fputs": "the same"},
    "machine.cc.o": {"stderr": "where the machine was when an assertion failed", "fprintf": "the same", "__fprintf_chk": "the same"},
    "guest_memory.cc.o": {"mmap": "guest RAM", "munmap": "guest RAM", "mmap64": "guest RAM", "__errno_location": "why mmap failed",
                          "strerror": "the same"},
}
# Objects with storage that can change and that no machine owns.
ALLOWED_GLOBALS = {
    "retrovisor::assertion_context": "where the running machine is, for the message of a failed assertion",
    "retrovisor::assertion_cookie": "the same",
}
FORBIDDEN_INSTRUCTIONS = re.compile(
    r"^(?:rdtscp?|rdrand|rdseed|rdpmc|rdpid|cpuid|xgetbv|syscall|sysenter|sysret\w*|int|rd[fg]sbase|in[bwl]?|out[bwl]?|ins[bwl]|outs[bwl])$")
ALLOWED_INSTRUCTIONS = {"int": {"$0x3"}}
