// Names of this program's own functions, read from its symbol table: what a block's ops are called needs no table kept by hand.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace retrovisor::cli {

class HandlerNames {
 public:
  // Reads the symbol table of the running program. Without one (it was stripped) functions are named by their place in it.
  HandlerNames();
  // "op_rr<add, unsigned long>": without namespaces and parameters.
  std::string name(uintptr_t function) const;
  std::vector<std::string> all() const;

 private:
  std::map<uintptr_t, std::string> symbols_;  // as compiled, by place in the program
  uintptr_t base_ = 0;                        // where that was loaded to
};

// A function's name as the C++ ABI spells it, made short: no namespaces, no parameters, no result; enumerators by
// name.
std::string short_function_name(const std::string& mangled);

}  // namespace retrovisor::cli
