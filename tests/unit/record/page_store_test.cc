#include "replay/page_store.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>

#include "replay/checkpoint_pages.h"
#include "replay/checkpoint_touched.h"

namespace retrovisor {
namespace {

using Page = std::vector<uint8_t>;

Page page_of(uint64_t value) {
  Page page(kPageSize);
  std::memcpy(page.data() + 1000, &value, sizeof value);
  return page;
}

TEST(PageStore, equal_pages_are_kept_once_until_the_last_reference_goes) {
  PageStore store;
  const PageId a = store.intern(page_of(1).data());
  const PageId b = store.intern(page_of(2).data());
  EXPECT_NE(a, b);
  EXPECT_EQ(store.intern(page_of(1).data()), a);
  EXPECT_EQ(store.pages(), 2u);
  EXPECT_EQ(std::memcmp(store.bytes(a), page_of(1).data(), kPageSize), 0);
  store.release(a);
  EXPECT_EQ(store.pages(), 2u);
  store.release(a);
  EXPECT_EQ(store.pages(), 1u);
  store.release(b);
  EXPECT_EQ(store.memory(), 0u);
}

TEST(PageStore, pages_of_zeroes_cost_nothing) {
  PageStore store;
  EXPECT_EQ(store.intern(Page(kPageSize).data()), kZeroPage);
  EXPECT_EQ(store.memory(), 0u);
  Page page(kPageSize);
  page.back() = 1;
  const PageId last = store.intern(page.data());
  EXPECT_NE(last, kZeroPage);
  EXPECT_EQ(store.bytes(kZeroPage)[kPageSize - 1], 0);
  store.release(last);
  store.release(kZeroPage);
}

TEST(PageStore, keeps_what_it_was_given_while_thousands_come_and_go) {
  PageStore store;
  std::mt19937_64 random(1);
  std::map<uint64_t, PageId> held;
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t value = 1 + random() % 3000;
    const auto it = held.find(value);
    if (it == held.end()) {
      held[value] = store.intern(page_of(value).data());
    } else {
      ASSERT_EQ(std::memcmp(store.bytes(it->second), page_of(value).data(), kPageSize), 0);
      store.release(it->second);
      held.erase(it);
    }
    ASSERT_EQ(store.pages(), held.size());
  }
}

// A map beside the simple thing that it stands for.
struct Both {
  PageMap map;
  std::map<uint64_t, PageId> simple;
};

TEST(PageMap, copies_and_changes_like_a_map_and_tells_the_differences) {
  PageStore store;
  constexpr uint64_t kPages = (uint64_t{5} << 30) >> kPageShift;
  PageMaps maps(store, kPages);
  std::mt19937_64 random(2);
  {
    std::vector<Both> all{{PageMap(maps), {}}};
    for (int i = 0; i < 200; ++i) {
      Both next = all[random() % all.size()];
      for (uint64_t n = random() % 40; n != 0; --n) {
        const uint64_t page = random() % 2 == 0 ? random() % kPages : random() % 100;
        const PageId id = store.intern(page_of(random() % 50).data());
        next.map.set(page, id);
        next.simple[page] = id;
      }
      if (all.size() < 20) all.push_back(std::move(next));
      else all[random() % all.size()] = std::move(next);
    }
    const auto value = [](const Both& b, uint64_t page) { return b.simple.contains(page) ? b.simple.at(page) : kZeroPage; };
    for (const Both& a : all) {
      for (const auto& [page, id] : a.simple) ASSERT_EQ(a.map.get(page), id);
      for (const Both& b : all) {
        std::map<uint64_t, std::pair<PageId, PageId>> expected;
        for (const Both* side : {&a, &b})
          for (const auto& [page, id] : side->simple)
            if (value(a, page) != value(b, page)) expected[page] = {value(a, page), value(b, page)};
        std::map<uint64_t, std::pair<PageId, PageId>> found;
        a.map.differences(b.map, [&](uint64_t page, PageId here, PageId there) { found[page] = {here, there}; });
        ASSERT_EQ(found, expected);
      }
    }
  }
  EXPECT_EQ(store.pages(), 0u);
  EXPECT_EQ(maps.memory(), 0u);
}

TEST(PageMap, a_copy_costs_what_is_changed_in_it) {
  PageStore store;
  PageMaps maps(store, uint64_t{1} << 24);
  PageMap first(maps);
  for (uint64_t page = 0; page < 20'000; ++page) first.set(page * 3, store.intern(page_of(page + 1).data()));
  const uint64_t before = maps.memory();
  PageMap second = first;
  EXPECT_EQ(maps.memory(), before);
  second.set(30'000, store.intern(page_of(77'777).data()));
  EXPECT_LE(maps.memory() - before, maps.most_per_page());
  EXPECT_NE(first.get(30'000), second.get(30'000));
}

TEST(PageSet, knows_whether_ranges_meet_it) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint64_t> first, second;
    const uint64_t span = round % 2 == 0 ? 300 : uint64_t{1} << 52;
    for (auto* pages : {&first, &second}) {
      for (uint64_t n = random() % 30; n != 0; --n) pages->push_back(random() % span);
      std::sort(pages->begin(), pages->end());
      pages->erase(std::unique(pages->begin(), pages->end()), pages->end());
    }
    PageSet set;
    set.add(first);
    set.add(second);
    std::vector<uint64_t> all;
    std::set_union(first.begin(), first.end(), second.begin(), second.end(), std::back_inserter(all));
    ASSERT_EQ(set.pages(), all);
    std::vector<PageRange> ranges;
    for (uint64_t n = random() % 4; n != 0; --n) {
      const uint64_t begin = random() % span;
      ranges.push_back({begin, begin + random() % 20});
    }
    bool expected = false;
    for (const uint64_t page : all)
      for (const PageRange r : ranges) expected = expected || (r.first <= page && page <= r.last);
    ASSERT_EQ(set.meets(joined(ranges)), expected);
  }
}

}  // namespace
}  // namespace retrovisor
