#include "cli/suggest.h"

#include <algorithm>
#include <utility>

namespace retrovisor::cli {
namespace {

// Letters that were left out, added, changed, or swapped with the next (optimal string alignment).
size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t k = 0; k <= b.size(); ++k) d[0][k] = k;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t k = 1; k <= b.size(); ++k) {
      d[i][k] = std::min({d[i - 1][k] + 1, d[i][k - 1] + 1, d[i - 1][k - 1] + (a[i - 1] == b[k - 1] ? 0u : 1u)});
      if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1]) d[i][k] = std::min(d[i][k], d[i - 2][k - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::vector<std::string> near_names(std::string_view word, const std::vector<std::string>& names) {
  constexpr size_t kMost = 3, kLongest = 64;
  if (word.empty() || word.size() > kLongest) return {};
  std::vector<std::pair<size_t, std::string>> found;
  for (const std::string& name : names) {
    const size_t d = distance(word, name);
    const bool begins = word.size() >= 2 && name.starts_with(word);
    if (begins || d <= std::max<size_t>(1, std::min(word.size(), name.size()) / 3)) found.emplace_back(begins ? 0 : d, name);
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> out;
  for (size_t i = 0; i < found.size() && i < kMost; ++i) out.push_back(found[i].second);
  return out;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : near_names(word, names)) out += (out.empty() ? "; did you mean " : " or ") + name;
  return out.empty() ? out : out + "?";
}

}  // namespace retrovisor::cli
