"""What the rooms may include and call: the rules of docs/architecture.md as tables.

Everything nondeterministic enters a machine through the boundary. So the rooms that make a machine (VMM_ROOMS) may not use
anything whose result depends on the host, on time, on chance, on where things lie in memory, or on hash order. An exception
is one entry in one of the ALLOWED tables, with its reason.
"""
import re

# What each room may include, beside its own headers. A room missing here is an error: it belongs into this table and into
# docs/architecture.md. Single headers are named by their path.
_FACTS = {"vmm", "vmm/memory", "vmm/cpu"}
_MACHINE = _FACTS | {"vmm/board", "vmm/boot", "vmm/machine"}
ROOMS = {
    "vmm": set(),
    "vmm/memory": {"vmm"},
    "vmm/cpu": {"vmm", "vmm/memory"},
    "vmm/soft": _FACTS,
    "vmm/board": _FACTS,
    "vmm/devices": _FACTS | {"vmm/board"},
    # The tables that describe the devices to the guest say where they are.
    "vmm/boot": _FACTS | {"vmm/board", "vmm/devices/machine_map.h"},
    # An engine with the software engine as its assistant.
    "vmm/kvm": _FACTS | {"vmm/soft"},
    # No engine: one is handed in (EngineFactory).
    "vmm/machine": _FACTS | {"vmm/board", "vmm/devices", "vmm/boot"},
    "vmm/host": {"vmm"},
    "traces": {"vmm", "vmm/board/device_options.h"},
    "record": _MACHINE | {"traces"},
    "replay": _MACHINE | {"traces", "record"},
    # What a guest's kernel tells of itself: from a machine, whoever runs it.
    "analysis/linux": _FACTS | {"vmm/machine"},
    "gdbstub": _MACHINE | {"traces", "record", "replay", "analysis/linux"},
    "analysis": _MACHINE | {"traces", "record", "replay", "analysis/linux"},
    "cli": _MACHINE | {"vmm/host", "traces", "record", "replay", "gdbstub", "analysis", "analysis/linux"},
}
# Includes that only these files of a room may have.
ALLOWED_INCLUDES = {
    "vmm/platform.h": {"vmm/memory/guest_memory.h": "an engine and devices get the machine's memory through it"},
    "vmm/vcpu.h": {"vmm/cpu/state.h": "a vCPU is its architectural state and its lines"},
    "cli/doctor.cc": {"vmm/soft/": "asks the engine what it needs of the host", "vmm/kvm/": "the same",
                      "vmm/cpu/": "shows the CPU model"},
    "analysis/block_listing.cc": {"vmm/soft/": "shows what the soft engine makes of code"},
    "analysis/insn_text.cc": {"vmm/soft/": "the same"},
    "cli/auto_engine.h": {"vmm/kvm/probe.h": "decides by what this host's KVM can do"},
    "cli/summary.cc": {"vmm/kvm/kvm_engine.h": "shows what the engine counted"},
    "cli/setup.cc": {"vmm/kvm/": "says what is missing of KVM before a trace is begun"},
}
# Includes that a room may not have although its row allows the folder.
FORBIDDEN_INCLUDES = {
    "vmm/devices": {"vmm/engine.h": "a device does not know which engine runs, nor that there is one"},
    "vmm/soft": {"vmm/boundary.h": "what crosses the boundary comes to the engine through Platform"},
}

# What a room may not come to through however many headers. A name that ends in / is a folder and all below it.
_ABOVE = {folder: "the machine knows nothing of who records, replays or debugs it"
          for folder in ("traces/", "record/", "replay/", "gdbstub/", "analysis/", "cli/")}
_ENGINES = {"vmm/soft/": "which engine runs is decided elsewhere", "vmm/kvm/": "the same"}
_OUTSIDE = {"vmm/boundary.h": "what crosses the boundary comes through Platform and the board's endpoints"}
TRANSITIVELY_FORBIDDEN = {
    "vmm": _ABOVE | _ENGINES,
    "vmm/memory": _ABOVE | _ENGINES | _OUTSIDE,
    "vmm/cpu": _ABOVE | _ENGINES | _OUTSIDE,
    "vmm/soft": _ABOVE | _OUTSIDE | {"vmm/board/": "an engine knows buses, not devices", "vmm/devices/": "the same", "vmm/kvm/": "it stands alone"},
    "vmm/kvm": _ABOVE | _OUTSIDE | {"vmm/board/": "an engine knows buses, not devices", "vmm/devices/": "the same"},
    "vmm/board": _ABOVE | _ENGINES | _OUTSIDE | {"vmm/engine.h": "a device does not know that there is an engine"},
    "vmm/devices": _ABOVE | _ENGINES | _OUTSIDE | {"vmm/engine.h": "a device does not know that there is an engine"},
    "vmm/boot": _ABOVE | _ENGINES,
    "vmm/machine": _ABOVE | _ENGINES,
    "vmm/host": _ABOVE | _ENGINES | {"vmm/machine/": "it serves any machine, through the boundary"},
}

# Sources of vmm without a header of their name: what they define is declared in the one named, for the reason given. All others
# have one, so that whoever looks for a function knows the file.
_SPLIT = "methods of the class declared there, split by subject"
ALLOWED_WITHOUT_HEADER = {
    "vmm/soft/engine.cc": ("vmm/soft/soft_engine.h", _SPLIT),
    "vmm/soft/observe.cc": ("vmm/soft/soft_engine.h", _SPLIT),
    "vmm/soft/tables.cc": ("vmm/soft/soft_engine.h", _SPLIT),
    "vmm/devices/local_apic_registers.cc": ("vmm/devices/local_apic.h", _SPLIT),
    "vmm/devices/pit_counter.cc": ("vmm/devices/pit8254.h", "a part of the one device, which has the one header"),
    "vmm/kvm/exits.cc": ("vmm/kvm/engine_impl.h", _SPLIT),
    "vmm/kvm/user_tsc.cc": ("vmm/kvm/engine_impl.h", _SPLIT),
    "vmm/kvm/kvm_vcpu.cc": ("vmm/kvm/kvm_api.h", _SPLIT),
    "vmm/kvm/kvm_errors.cc": ("vmm/kvm/kvm_api.h", "what that says of errors, kept apart for its tables of words"),
    "vmm/kvm/vcpu_fpu.cc": ("vmm/kvm/vcpu_state.h", "one direction of the same transfer of states, split by subject"),
    "vmm/kvm/vcpu_transfer.cc": ("vmm/kvm/vcpu_state.h", "the same"),
    "vmm/kvm/engine_choice.cc": ("vmm/kvm/probe.h", "what the probe's answers mean: one interface, two subjects"),
    "vmm/kvm/probe_programs.cc": ("vmm/kvm/probe_trial.h", "half of the probe's trials, which share that"),
}

# The rooms whose code and data are the machine.
VMM_ROOMS = ("vmm", "vmm/memory", "vmm/cpu", "vmm/soft", "vmm/board", "vmm/devices", "vmm/boot", "vmm/machine")

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
    "vmm/boot/gzip.cc": {"zlib.h": "from memory to memory"},
    "vmm/machine/machine.cc": {"cstdio": "where the machine was when an assertion failed"},
    "vmm/machine/page_hashes.h": {"cstdlib": "calloc and free"},
    "vmm/memory/guest_memory.cc": {"sys/mman.h": "guest RAM is a mapping", "cerrno": "why it could not be made"},
    "vmm/soft/code_cache.h": {"unordered_map": "looked up by key", "unordered_set": "looked up by key"},
}


# Functions of the C library that ask the host for something. The second table holds names that methods have too: in sources
# they count only where they are named as the C library's (::read), among the symbols always.
FUNCTIONS = {
    "host clock": """
        clock_gettime clock_getres clock_nanosleep gettimeofday timespec_get ftime times localtime gmtime mktime strftime
        nanosleep usleep sleep""",
    "random source": """
        rand srand srandom drand48 erand48 lrand48 nrand48 mrand48 jrand48 srand48 arc4random getrandom getentropy""",
    "environment": """
        getenv secure_getenv getpid getppid gettid getuid geteuid getgid getegid gethostname uname getcwd sysconf getauxval
        get_nprocs get_nprocs_conf sysinfo getrusage sched_getcpu sched_yield sched_setaffinity setlocale newlocale uselocale
        syscall""",
    "file or socket": """
        fopen openat freopen fdopen creat pread preadv pwrite pwritev fread fgets fgetc getc scanf fscanf getchar getline
        ioctl ppoll pselect epoll_create epoll_create1 epoll_ctl epoll_wait socket recvfrom recvmsg sendto sendmsg popen fork
        vfork execl execle execlp execv execve execvp posix_spawn posix_spawnp dlopen dlsym fstat lstat fstatat""",
    "thread": "pthread_create thrd_create sem_open sem_wait sem_post sigaction",
}
COMMON_NAMES = {
    "host clock": "time clock",
    "random source": "random",
    "file or socket": """
        open read readv write writev poll select recv send accept accept4 connect bind listen system stat printf vprintf puts
        putchar""",
    "thread": "clone signal raise kill",
}
# Results of libm differ between versions of the C library.
LIBM = """
    sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh sincos exp exp2 exp10 expm1 log log2 log10 log1p logb
    pow hypot cbrt erf erfc lgamma tgamma"""


def _any(words):
    return "(?:" + "|".join(words.split()) + ")"


_CLOCK = "guest time comes from Clock, wall clock time through Boundary"
_CHANCE = "entropy comes through Boundary"
_FILES = "files are read by the caller, input and output go through Boundary"
_HOST = "nothing of the host may reach the machine but through Boundary"
_CPU = "what the host CPU is or counts may not reach the machine"
_ADDRESS = "host addresses and hash values differ from run to run"
_THREAD = "a machine is one thread, and its state belongs to it"
_WHY = {"host clock": _CLOCK, "random source": _CHANCE, "environment": _HOST, "file or socket": _FILES, "thread": _THREAD}

_INTEGER = r"(?:u?int(?:ptr|max|\d+)_t|s?size_t|unsigned(?:\s+long)*|(?:long\s*)+|int|__u?int128(?:_t)?)"
_TELLING_INSTRUCTIONS = _any("rdtscp? rdrand rdseed rdpmc rdpid cpuid xgetbv syscall sysenter")

# What the code may not contain: rule, pattern, why. Comments and the contents of strings are blanked first.
FORBIDDEN_CODE = [
    # A call that is no member of something and not part of a longer name; and one that is named as the C library's.
    *((rule, r"(?<![\w.])(?<!->)(?:(?:std)?::\s*)?\b" + _any(names) + r"(?:_r|64)?\s*\(", _WHY[rule])
      for rule, names in FUNCTIONS.items()),
    *((rule, r"(?:(?<![\w>])|\bstd)::\s*" + _any(names) + r"(?:64)?\s*\(", _WHY[rule])
      for rule, names in COMMON_NAMES.items()),
    ("host clock", r"(?<![\w.:>])(?:time|clock)\s*\(\s*(?:\)|NULL\b|nullptr\b|0\s*\)|&)", _CLOCK),
    ("host clock", r"\bstd::chrono\b", _CLOCK),
    ("random source", r"\bstd::(?:random_device|mt19937(?:_64)?|minstd_rand0?|default_random_engine|ranlux\w+|knuth_b|"
                      r"shuffle|sample|ranges::shuffle|ranges::sample|\w+_distribution)\b", _CHANCE),
    ("file or socket", r"\bstd::(?:[iof]?fstream|filebuf|cin|cout|cerr|clog|filesystem|FILE)\b|\bstd(?:in|out)\b", _FILES),
    ("thread", r"\bstd::(?:j?thread|async|future|promise|(?:\w+_)?mutex|condition_variable\w*|atomic\w*|counting_semaphore|"
               r"binary_semaphore|latch|barrier|call_once|once_flag|this_thread)\b|\bpthread_\w+\s*\(|\bthread_local\b",
     _THREAD),
    ("host CPU", r"\b(?:__rdtscp?|_rdtsc|_?_?builtin_ia32_rd(?:tscp?|rand\w*|seed\w*|pmc|pid)\w*|_rd(?:rand|seed)\d+_step|"
                 r"_xgetbv|__builtin_readcyclecounter|__builtin_cpu_(?:init|is|supports)|"
                 r"__(?:get_)?cpuid(?:ex|_count|_max)?)\b",
     _CPU),
    ("build time", r"\b__(?:DATE|TIME|TIMESTAMP)__\b|\bstd::source_location\b",
     "two builds of one source are the same machine"),
    ("address as number", r"\breinterpret_cast<\s*(?:const\s+)?(?:std::)?" + _INTEGER + r"\s*>", _ADDRESS),
    ("address as number", r"\bstd::(?:bit_cast<\s*(?:std::)?u?int(?:ptr|64)_t\s*>|hash\s*<|less<[^<>]*\*\s*>|to_address\b)|"
                          r"\bfmt::ptr\b", _ADDRESS),
    ("address as order", r"\bstd::(?:multi)?(?:set|map)<\s*(?:const\s+)?[\w:]+(?:\s+const)?\s*\*",
     "pointers have no order that repeats"),
    ("hash order", r"\bstd::unordered_\w+", "iterating one gives an order that may differ from run to run"),
]
# The same, inside string literals: formats for pointers.
FORBIDDEN_STRINGS = [
    ("address as number", r"%[-+ #0]*\d*p\b|\{[^{}]*:[^{}]*p\}", _ADDRESS),
]
# The same, where only comments are blanked: assembly.
FORBIDDEN_TEXT = [
    ("host CPU", r"\basm\b[^;\"]*\([^;]*?(?:\"|\\[nt]|;)\s*" + _TELLING_INSTRUCTIONS + r"\b", _CPU),
]
# file: {rule: (how many lines, why)}. The number is exact, so that one more line needs one more thought.
ALLOWED_CODE = {
    "vmm/assert.h": {"thread": (2, "where the running machine is, for the message of a failed assertion")},
    "vmm/assert.cc": {"thread": (2, "the same")},
    "vmm/soft/engine.cc": {
        "address as number": (2, "links of blocks, and which TLB entry points to a page: the engine's own")},
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
    r"_Unwind_\w+|__cxa_\w+|__gxx_personality_v0|_GLOBAL_OFFSET_TABLE_|__stack_chk_fail|__dso_handle|__cpu_model",
    r"DW\.ref\.\w+",
    r"__u?(?:div|mod|mul|divmod)[dt]i[34]|__popcount[dt]i2|__c[lt]z[dt]i2|__(?:fix|float)\w+",
    r"operator (?:new|delete)(?:\[\])?\(.*",
    r"retrovisor::kvm::make_kvm_engine\(.*",  # vmm/kvm is outside: what comes of it reaches the machine as events
    r"(?:vtable|typeinfo(?: name)?) for .*|TLS init function for retrovisor::\w+",
    # The C library's memory and strings.
    r"(?:mem(?:cpy|move|set|cmp|chr|rchr)|bcmp|str(?:len|cmp|ncmp|chr))|__(?:mem\w+|str\w+)_chk",
    r"calloc|malloc|free|abort",
    # Libraries that compute from their arguments alone.
    r"XXH\w+|fmt::.*|inflate(?:Init2_|End)?",
    # The standard library, but for FORBIDDEN_SYMBOLS.
    r"(?:[\w:<>,*& ]+ )?(?:std|__gnu_cxx)::.*|guard variable for std::.*|non-virtual thunk to std::.*",
]
# Checked first: never, whatever else allows them.
FORBIDDEN_SYMBOLS = [
    *((rule, r"(?:__)?(?:isoc\d+_)?" + _any(names) + r"(?:64)?(?:_2|_r|_chk)?") for rule, names in FUNCTIONS.items()),
    *((rule, r"(?:__)?(?:isoc\d+_)?" + _any(names) + r"(?:64)?(?:_2|_chk)?") for rule, names in COMMON_NAMES.items()),
    ("host clock", r"clock_\w+|(?:.* )?std::chrono::.*"),
    ("random source", r"arc4random\w*|(?:.* )?std::random_device::.*"),
    ("environment", r"__cpu_indicator_init"),
    ("file or socket", r"stdin|stdout|std::c(?:in|out|err|log)|(?:.* )?std::(?:basic_)?(?:[iof]?fstream|filebuf)\b.*|"
                       r"(?:.* )?std::filesystem::.*|fmt::.*\bv?print\(.*"),
    ("thread", r"pthread_\w+|(?:.* )?std::(?:j?thread|__future_base|(?:recursive_|timed_)*mutex|"
               r"condition_variable\w*|__atomic_\w+)\b.*"),
    ("libm", _any(LIBM) + "[fl]?"),
]
# object file: {symbol: why}
ALLOWED_SYMBOL_USES = {
    "assert.cc.o": dict.fromkeys(("stderr", "fprintf", "__fprintf_chk", "fwrite", "fputs"), "message of a failed assertion"),
    "machine.cc.o": dict.fromkeys(("stderr", "fprintf", "__fprintf_chk"), "where the machine was when an assertion failed"),
    "guest_memory.cc.o": dict.fromkeys(("mmap", "mmap64", "munmap", "__errno_location", "strerror"),
                                       "guest RAM is a mapping"),
}
# Objects with storage that can change and that no machine owns.
ALLOWED_GLOBALS = {
    "guard variable for retrovisor::(anonymous namespace)::types()::all": "the next one's",
    "retrovisor::(anonymous namespace)::kRegistrations": "objects without members, which fill the next one",
    "retrovisor::(anonymous namespace)::types()::all": "the registered device types: filled before main, looked up by name",
    "retrovisor::assertion_context": "where the running machine is, for the message of a failed assertion",
    "retrovisor::assertion_cookie": "the same",
}
FORBIDDEN_INSTRUCTIONS = re.compile(
    r"^(?:" + _TELLING_INSTRUCTIONS + r"|sysret\w*|int|rd[fg]sbase|in[bwl]?|out[bwl]?|ins[bwl]|outs[bwl])$")
ALLOWED_INSTRUCTIONS = {"int": {"$0x3"}}
