// MSRs, CPUID, time, entropy, HLT. What the Ops hold: system.h.
#pragma once

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

// MSRs, CPUID, time, entropy. All end.
bool exec_rdmsr(SoftCpu& cpu, const Op& op);
bool exec_wrmsr(SoftCpu& cpu, const Op& op);
bool exec_rdtsc(SoftCpu& cpu, const Op& op);
bool exec_rdtscp(SoftCpu& cpu, const Op& op);
bool exec_rdpmc(SoftCpu& cpu, const Op& op);
bool exec_cpuid(SoftCpu& cpu, const Op& op);
bool exec_rdrand(SoftCpu& cpu, const Op& op);          // RDRAND, RDSEED; r1: destination
bool exec_hlt(SoftCpu& cpu, const Op& op);

}  // namespace retrovisor::soft
