// Pages that were written, for any number of readers, each of whom is told of each page once between its takes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace retrovisor {

class WrittenPages {
 public:
  // Ends with its object, which the WrittenPages outlives.
  class Reader {
   public:
    ~Reader();
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    // Pages (numbers, ascending) written since the last call; of the first: since there is a machine.
    std::vector<uint64_t> take();

   private:
    friend class WrittenPages;
    explicit Reader(WrittenPages& pages);
    void note(uint64_t page);
    WrittenPages& pages_;
    std::vector<uint64_t> noted_;
    std::vector<bool> has_;
  };

  // `collect`: makes note() be called for everything written so far.
  WrittenPages(uint64_t page_limit, std::function<void()> collect);
  std::unique_ptr<Reader> reader() { return std::unique_ptr<Reader>(new Reader(*this)); }
  void note(uint64_t page);

 private:
  std::function<void()> collect_;
  std::vector<bool> ever_;
  std::vector<Reader*> readers_;
};

}  // namespace retrovisor
