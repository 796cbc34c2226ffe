#include "vmm/kvm/host_flags.h"

#include <gtest/gtest.h>

namespace retrovisor::kvm {
namespace {

TEST(HostFlags, follow_the_processors_vendor) {
  EXPECT_EQ(undefined_flags_of("AuthenticAMD"), UndefinedFlags::amd);
  EXPECT_EQ(undefined_flags_of("HygonGenuine"), UndefinedFlags::amd);
  EXPECT_EQ(undefined_flags_of("GenuineIntel"), UndefinedFlags::model);
  EXPECT_EQ(undefined_flags_of("CentaurHauls"), UndefinedFlags::model);
  EXPECT_EQ(undefined_flags_of(""), UndefinedFlags::model);
}

}  // namespace
}  // namespace retrovisor::kvm
