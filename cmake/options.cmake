# Compiler flags and build options.
option(RV_WERROR "Warnings are errors" ON)
option(RV_BENCHMARKS "Build bench/" ON)
option(RV_FUZZERS "Build libFuzzer targets (clang)" OFF)
set(RV_SANITIZE "" CACHE STRING "Sanitizers, for example address,undefined")

add_library(rv_options INTERFACE)
target_include_directories(rv_options INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
target_compile_options(rv_options INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wcast-align -Woverloaded-virtual)
if(RV_WERROR)
  target_compile_options(rv_options INTERFACE -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False alarms where std::string's, std::vector's and std::optional's code is inlined (GCC bugs 105651, 105562, 106199, 80635).
  target_compile_options(rv_options INTERFACE -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread
                         -Wno-maybe-uninitialized)
endif()
if(RV_FUZZERS)
  target_compile_options(rv_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(RV_SANITIZE)
  target_compile_options(rv_options INTERFACE -fsanitize=${RV_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(rv_options INTERFACE -fsanitize=${RV_SANITIZE})
  # clang 19 cannot build preserve_none functions with AddressSanitizer: handlers return to a loop instead.
  target_compile_definitions(rv_options INTERFACE RV_NO_TAIL_CALLS)
endif()
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  add_link_options(-fuse-ld=lld)
endif()
