#include "vmm/kvm/host_model.h"

#include <gtest/gtest.h>

namespace retrovisor::kvm {
namespace {

TEST(HostFlags, follow_the_processors_vendor) {
  EXPECT_EQ(processor_model_of("AuthenticAMD", false), ProcessorModel::amd);
  EXPECT_EQ(processor_model_of("HygonGenuine", true), ProcessorModel::amd_zen3);
  EXPECT_EQ(processor_model_of("GenuineIntel", false), ProcessorModel::intel);
  EXPECT_EQ(processor_model_of("CentaurHauls", false), ProcessorModel::model);
  EXPECT_EQ(processor_model_of("", false), ProcessorModel::model);
}

}  // namespace
}  // namespace retrovisor::kvm
