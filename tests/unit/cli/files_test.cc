#include "cli/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace retrovisor::cli {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
 protected:
  Files() {
    std::string name = (fs::temp_directory_path() / "retrovisor-files-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~Files() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ / name; }
  std::string make(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
    return path(name);
  }
  static std::string text(const std::string& file) {
    std::ifstream in(file);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  fs::path folder_;
};

TEST_F(Files, links_lead_to_one_place_whether_there_is_a_file_or_not) {
  fs::create_symlink("target", path("link"));
  fs::create_symlink(path("link"), path("link to link"));
  auto place = find_place(path("link to link"), "-o");
  ASSERT_TRUE(place.ok());
  EXPECT_FALSE(place->exists);
  EXPECT_EQ(place->name, "target");
  make("target", "x");
  place = find_place(path("link to link"), "-o");
  ASSERT_TRUE(place.ok());
  EXPECT_TRUE(place->exists && place->regular && !place->stream());
  fs::create_symlink("loop", path("loop"));
  EXPECT_FALSE(find_place(path("loop"), "-o").ok());
  EXPECT_FALSE(find_place("", "-o").ok());
  EXPECT_FALSE(find_place(path("no/where"), "-o").ok());
  EXPECT_FALSE(find_place(path("new/"), "-o").ok());
  EXPECT_TRUE(find_place("/dev/null", "-o")->stream());
}

TEST_F(Files, a_file_that_is_open_already_is_no_name) {
  const int fd = open(make("f", "before").c_str(), O_WRONLY | O_APPEND);
  ASSERT_GE(fd, 0);
  const std::string name = "/dev/fd/" + std::to_string(fd);
  EXPECT_TRUE(find_place(name, "-o")->stream());
  ASSERT_TRUE(write_output(name, "-o", " after").ok());
  EXPECT_EQ(text(path("f")), "before after");
  CommandFiles files;
  files.input("--kernel", path("f"));
  files.output("-o", name);
  EXPECT_EQ(files.check().error().code, ErrorCode::bad_argument);
  close(fd);
}

TEST_F(Files, only_devices_may_be_named_twice) {
  CommandFiles devices;
  devices.input("--kernel", "/dev/null");
  devices.output("-o", "/dev/null");
  devices.output("--json-summary", "/dev/null");
  EXPECT_TRUE(devices.check().ok());
  CommandFiles inputs;
  inputs.input("--kernel", make("k", "k"));
  inputs.input("--initrd", path("k"));
  EXPECT_TRUE(inputs.check().ok());
  inputs.output("-o", path("k2"));
  EXPECT_TRUE(inputs.check().ok());
  inputs.listener("--gdb", "localhost:k2");
  EXPECT_TRUE(inputs.check().ok());
  inputs.listener("--gdb", "unix:" + path("k2"));
  EXPECT_FALSE(inputs.check().ok());
}

TEST_F(Files, the_old_file_stays_until_the_new_one_is_whole) {
  make("f", "old");
  {
    auto file = OutputFile::create(path("f"), "-o");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->write("half").ok());
    EXPECT_EQ(text(path("f")), "old");
    EXPECT_EQ(text(path("f.partial")), "half");
    const auto second = OutputFile::create(path("f"), "-o");
    ASSERT_FALSE(second.ok());
    EXPECT_NE(second.error().text().find("another process"), std::string::npos);
  }
  EXPECT_EQ(text(path("f")), "old");
  EXPECT_FALSE(fs::exists(path("f.partial")));
  {
    auto file = OutputFile::create(path("f"), "-o");
    ASSERT_TRUE(file->write("kept").ok());
    file->keep();
  }
  EXPECT_EQ(text(path("f.partial")), "kept");
  ASSERT_EQ(chmod(path("f").c_str(), 0600), 0);
  ASSERT_TRUE(write_output(path("f"), "-o", "new").ok());
  EXPECT_EQ(text(path("f")), "new");
  EXPECT_FALSE(fs::exists(path("f.partial")));
  struct stat status {};
  ASSERT_EQ(stat(path("f").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(Files, nothing_is_written_through_a_link_in_place_of_the_partial_file) {
  make("precious", "precious");
  fs::create_symlink("precious", path("f.partial"));
  EXPECT_FALSE(OutputFile::create(path("f"), "-o").ok());
  EXPECT_EQ(text(path("precious")), "precious");
}

TEST_F(Files, a_trace_that_was_not_finished_is_found_by_the_name_it_was_to_have) {
  EXPECT_EQ(*find_trace(path("t")), path("t"));
  make("t.partial", "x");
  EXPECT_EQ(*find_trace(path("t")), path("t.partial"));
  make("t", "x");
  EXPECT_EQ(*find_trace(path("t")), path("t"));
}

}  // namespace
}  // namespace retrovisor::cli
