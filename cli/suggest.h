// What a misspelt word may have meant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace retrovisor::cli {

// Those of `names` that `word` is near to, the nearest first; at most three.
std::vector<std::string> near_names(std::string_view word, const std::vector<std::string>& names);
// "; did you mean a or b?"; nothing if nothing is near.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& names);

}  // namespace retrovisor::cli
