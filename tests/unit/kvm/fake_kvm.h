// A KVM made of memory: keeps what is set and gives it back, runs nothing, and fails where a test wants it to.
#pragma once

#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "vmm/kvm/kvm_api.h"

namespace retrovisor::kvm {

class FakeKvm final : public SystemCalls {
 public:
  static constexpr size_t kMapSize = 3 * 4096;

  // --- what a test sets ---
  int open_error = 0;
  int map_error = 0;
  int api_version = KVM_API_VERSION;
  size_t map_size = kMapSize;
  std::map<uint32_t, uint32_t> capabilities;           // overrides; others have all bits set, or many
  std::vector<uint32_t> listed_msrs = {0x174,      0x175,      0x176,      0x277,     0xc0000081,
                                       0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102};
  std::set<uint32_t> refused_msrs;
  int fail_call = -1;                                  // the nth ioctl (from 0) fails
  unsigned long fail_request = 0;                      // every ioctl of this request fails
  int fail_with = EINVAL;
  std::function<void(uint32_t slot, uint64_t* bitmap)> dirty_log;
  std::function<void(kvm_run& run, kvm_regs& regs)> on_run;  // what KVM_RUN does; nothing without

  // --- what it saw ---
  std::vector<unsigned long> requests;
  std::vector<uint32_t> enabled;                       // KVM_ENABLE_CAP
  std::vector<kvm_userspace_memory_region> regions;
  kvm_msr_filter filter{};
  std::vector<std::vector<uint8_t>> filter_bitmaps;
  std::map<uint32_t, uint64_t> msrs;
  std::set<int> open_files;
  std::set<void*> maps;

  // The name a message should have for `request`.
  static std::string name_of(unsigned long request) {
    static const std::map<unsigned, std::string> names = {
        {0x00, "KVM_GET_API_VERSION"}, {0x01, "KVM_CREATE_VM"}, {0x02, "KVM_GET_MSR_INDEX_LIST"},
        {0x03, "KVM_CHECK_EXTENSION"}, {0x04, "KVM_GET_VCPU_MMAP_SIZE"}, {0x05, "KVM_GET_SUPPORTED_CPUID"},
        {0x41, "KVM_CREATE_VCPU"}, {0x42, "KVM_GET_DIRTY_LOG"}, {0x46, "KVM_SET_USER_MEMORY_REGION"},
        {0x47, "KVM_SET_TSS_ADDR"}, {0x48, "KVM_SET_IDENTITY_MAP_ADDR"}, {0x80, "KVM_RUN"},
        {0x86, "KVM_INTERRUPT"}, {0x9b, "KVM_SET_GUEST_DEBUG"}, {0x81, "KVM_GET_REGS"}, {0x82, "KVM_SET_REGS"}, {0x83, "KVM_GET_SREGS"}, {0x84, "KVM_SET_SREGS"},
        {0x88, "KVM_GET_MSRS"}, {0x89, "KVM_SET_MSRS"}, {0x8b, "KVM_SET_SIGNAL_MASK"},
        {0x90, "KVM_SET_CPUID2"}, {0x91, "KVM_GET_CPUID2"}, {0x98, "KVM_GET_MP_STATE"},
        {0x99, "KVM_SET_MP_STATE"}, {0x9f, "KVM_GET_VCPU_EVENTS"}, {0xa0, "KVM_SET_VCPU_EVENTS"},
        {0xa1, "KVM_GET_DEBUGREGS"}, {0xa2, "KVM_SET_DEBUGREGS"}, {0xa3, "KVM_ENABLE_CAP"},
        {0xa4, "KVM_GET_XSAVE"}, {0xa5, "KVM_SET_XSAVE"}, {0xa6, "KVM_GET_XCRS"}, {0xa7, "KVM_SET_XCRS"},
        {0xc6, "KVM_X86_SET_MSR_FILTER"}, {0xcc, "KVM_GET_SREGS2"}, {0xcd, "KVM_SET_SREGS2"}};
    const auto found = names.find(_IOC_NR(request));
    return found == names.end() ? "?" : found->second;
  }

  int open(const char*) override { return open_error != 0 ? -open_error : new_file(); }
  int map(int fd, size_t size, void** address) override {
    if (map_error != 0) return -map_error;
    *address = ::operator new(size, std::align_val_t(4096));
    std::memset(*address, 0, size);
    maps.insert(*address);
    run_areas_[fd] = static_cast<kvm_run*>(*address);
    return 0;
  }
  long read_at(int, std::span<uint8_t>, uint64_t) override { return 0; }
  void unmap(void* address, size_t) override {
    maps.erase(address);
    ::operator delete(address, std::align_val_t(4096));
  }
  void close(int fd) override { open_files.erase(fd); }

  int ioctl(int fd, unsigned long request, void* arg) override {
    if (!open_files.contains(fd)) return -EBADF;
    const auto call = static_cast<int>(requests.size());
    requests.push_back(request);
    if (call == fail_call || request == fail_request) return -fail_with;
    switch (_IOC_NR(request)) {
      case 0x00: return api_version;
      case 0x01: case 0x41: case 0xce: return new_file();
      case 0x02: return list_msrs(arg);
      case 0x03: return capability(number(arg));
      case 0x04: return static_cast<int>(map_size);
      case 0x05: static_cast<CpuidBuffer*>(arg)->count = 0; return 0;
      case 0x42: {
        const auto* log = static_cast<kvm_dirty_log*>(arg);
        if (dirty_log) dirty_log(log->slot, static_cast<uint64_t*>(log->dirty_bitmap));
        return 0;
      }
      case 0x46: regions.push_back(*static_cast<kvm_userspace_memory_region*>(arg)); return 0;
      case 0x80: return enter(*run_areas_.at(fd));
      case 0x88: case 0x89: return move_msrs(static_cast<MsrBuffer*>(arg), _IOC_NR(request) == 0x89);
      case 0xa3: enabled.push_back(static_cast<kvm_enable_cap*>(arg)->cap); return 0;
      case 0xc6: return take_filter(*static_cast<kvm_msr_filter*>(arg));
      case 0x82: case 0x84: case 0x99: case 0xa0: case 0xa2: case 0xa5: case 0xa7: case 0xcd:
        return set(_IOC_NR(request), arg, _IOC_SIZE(request));
      case 0x90: return set(0x90, arg, sizeof(CpuidBuffer));
      case 0x81: case 0x83: case 0xcc: case 0xa1: case 0xa4: case 0xa6: case 0x98: case 0x9f: case 0x91:
        return get(_IOC_NR(request), arg);
      default: return 0;
    }
  }

 private:
  static uint32_t number(void* arg) { return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(arg)); }
  int new_file() {
    const int fd = next_fd_++;
    open_files.insert(fd);
    return fd;
  }
  int capability(uint32_t which) const {
    const auto found = capabilities.find(which);
    return static_cast<int>(found != capabilities.end() ? found->second : 0xfff);
  }
  int list_msrs(void* arg) const {
    auto* list = static_cast<MsrIndexBuffer*>(arg);
    list->count = static_cast<uint32_t>(listed_msrs.size());
    std::copy(listed_msrs.begin(), listed_msrs.end(), list->indices.begin());
    return 0;
  }
  int move_msrs(MsrBuffer* buffer, bool write) {
    for (uint32_t i = 0; i < buffer->count; ++i) {
      kvm_msr_entry& e = buffer->entries[i];
      if (refused_msrs.contains(e.index)) return static_cast<int>(i);
      if (write) msrs[e.index] = e.data;
      else e.data = msrs[e.index];
    }
    return static_cast<int>(buffer->count);
  }
  int take_filter(const kvm_msr_filter& f) {
    filter = f;
    filter_bitmaps.clear();
    for (const kvm_msr_filter_range& r : f.ranges) {
      filter_bitmaps.emplace_back(r.bitmap, r.bitmap + (r.nmsrs + 63) / 64 * 8);
      if (r.nmsrs == 0) filter_bitmaps.pop_back();
    }
    return 0;
  }
  int enter(kvm_run& run) {
    if (!on_run) return 0;
    kvm_regs regs{};
    get(0x81, &regs);
    on_run(run, regs);
    return set(0x82, &regs, sizeof regs);
  }
  int set(unsigned nr, const void* arg, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(arg);
    kept_[nr].assign(bytes, bytes + size);
    // SREGS and SREGS2 are two views of the same registers.
    constexpr size_t common = offsetof(kvm_sregs, interrupt_bitmap);
    if (nr == 0x84) kept_[0xcd].assign(sizeof(kvm_sregs2), 0), std::memcpy(kept_[0xcd].data(), bytes, common);
    if (nr == 0xcd) kept_[0x84].assign(sizeof(kvm_sregs), 0), std::memcpy(kept_[0x84].data(), bytes, common);
    return 0;
  }
  // Getters are one below their setters, or one above.
  int get(unsigned nr, void* arg) {
    const unsigned setter = nr == 0x91 ? 0x90 : nr + 1;
    const auto found = kept_.find(setter);
    if (found != kept_.end()) std::memcpy(arg, found->second.data(), found->second.size());
    return 0;
  }

  int next_fd_ = 100;
  std::map<unsigned, std::vector<uint8_t>> kept_;
  std::map<int, kvm_run*> run_areas_;
};

}  // namespace retrovisor::kvm
