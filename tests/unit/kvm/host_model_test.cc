#include "vmm/kvm/host_model.h"

#include <gtest/gtest.h>

namespace retrovisor::kvm {
namespace {

TEST(HostFlags, follow_the_processors_vendor) {
  EXPECT_EQ(processor_model_of("AuthenticAMD"), ProcessorModel::amd);
  EXPECT_EQ(processor_model_of("HygonGenuine"), ProcessorModel::amd);
  EXPECT_EQ(processor_model_of("GenuineIntel"), ProcessorModel::intel);
  EXPECT_EQ(processor_model_of("CentaurHauls"), ProcessorModel::model);
  EXPECT_EQ(processor_model_of(""), ProcessorModel::model);
}

}  // namespace
}  // namespace retrovisor::kvm
