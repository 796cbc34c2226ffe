#include "vmm/result.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>

namespace retrovisor {
namespace {

using Number = std::unique_ptr<int>;  // moved, never copied

// Counts its calls; fails for negative numbers.
struct Source {
  int calls = 0;
  Result<Number> number(int n) {
    ++calls;
    if (n < 0) return Error{ErrorCode::io, "negative", "number"};
    return std::make_unique<int>(n);
  }
  Result<void> check(int n) {
    ++calls;
    if (n < 0) return Error{ErrorCode::bad_image, "refused", "check"};
    return {};
  }
};

template <class Key, class Value>
Result<std::map<Key, Value>> map_of(Key key, Value value) {
  return std::map<Key, Value>{{key, value}};
}

Result<int> sum(Source& source, int a, int b) {
  RV_TRY(auto first, source.number(a));
  RV_TRY(const Number second, source.number(b));
  return *first + *second;
}

TEST(Try, moves_the_value_out_and_evaluates_once) {
  Source source;
  const auto result = sum(source, 3, 4);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(*result, 7);
  EXPECT_EQ(source.calls, 2);
}

TEST(Try, returns_the_first_error_as_it_is) {
  Source source;
  const auto result = sum(source, -1, 4);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::io);
  EXPECT_EQ(result.error().text(), "negative (number)");
  EXPECT_EQ(source.calls, 1);
  EXPECT_FALSE(sum(source, 1, -4).ok());
  EXPECT_EQ(source.calls, 3);
}

Result<void> assign(Source& source, int n, Number& target, std::optional<Number>& optional) {
  RV_TRY(target, source.number(n));
  RV_TRY(optional, source.number(n + 1));
  return {};
}

TEST(Try, assigns_to_what_there_is) {
  Source source;
  Number target = std::make_unique<int>(0);
  std::optional<Number> optional;
  ASSERT_TRUE(assign(source, 5, target, optional).ok());
  EXPECT_EQ(*target, 5);
  EXPECT_EQ(**optional, 6);
  ASSERT_FALSE(assign(source, -5, target, optional).ok());
  EXPECT_EQ(*target, 5);
}

TEST(Try, the_expression_may_hold_commas) {
  const auto size = []() -> Result<size_t> {
    RV_TRY(const auto map, map_of<int, char>(1, 'a'));
    return map.size();
  }();
  ASSERT_TRUE(size.ok());
  EXPECT_EQ(*size, 1U);
}

TEST(Try, stands_in_another_and_twice_in_a_line) {
  Source source;
  const auto run = [&source](int n) -> Result<int> {
    RV_TRY(const auto a, source.number(1)); RV_TRY(const auto b, source.number(2));
    RV_TRY([&]() -> Result<void> {
      RV_TRY(source.check(n));
      RV_TRY(const auto inner, source.number(n));
      return {};
    }());
    RV_TRY(const int c, [&]() -> Result<int> {
      RV_TRY(source.check(0));
      RV_TRY(const auto inner, source.number(n));
      return *inner;
    }());
    return *a + *b + c;
  };
  ASSERT_TRUE(run(4).ok());
  EXPECT_EQ(*run(4), 7);
  EXPECT_EQ(run(-1).error().text(), "refused (check)");
}

TEST(Try, checks_as_one_statement) {
  Source source;
  const auto run = [&source](bool asked) -> Result<void> {
    if (asked)
      RV_TRY(source.check(-1));
    else
      RV_TRY(source.check(1));
    return {};
  };
  EXPECT_FALSE(run(true).ok());
  EXPECT_TRUE(run(false).ok());
  EXPECT_EQ(source.calls, 2);
}

Result<Number> twice(Result<Number>& kept) {
  RV_TRY(auto&& seen, std::move(kept));
  return std::move(seen);
}

TEST(Try, leaves_a_moved_from_result_behind_only_where_it_was_moved) {
  Source source;
  Result<Number> kept = source.number(9);
  const auto out = twice(kept);
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(**out, 9);
  // A Result that is an lvalue is copied, so it still has its value.
  Result<int> number = 5;
  const auto copy = [&]() -> Result<int> {
    RV_TRY(int n, number);
    return n++;
  }();
  EXPECT_EQ(*copy, 5);
  EXPECT_EQ(*number, 5);
}

}  // namespace
}  // namespace retrovisor
