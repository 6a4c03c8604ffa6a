# One interface target carries the flags of all our own code.
add_library(mmtune_flags INTERFACE)
target_compile_options(mmtune_flags INTERFACE -Wall -Wextra -Wpedantic -Werror)
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-march=x86-64-v3 MMTUNE_HAS_X86_64_V3)
if(MMTUNE_HAS_X86_64_V3)
  # Any machine of the last ten years; never -march=native, so that a build runs elsewhere.
  target_compile_options(mmtune_flags INTERFACE -march=x86-64-v3)
endif()
# The fused multiply-adds that compilers insert by themselves would make results depend on the compiler.
target_compile_options(mmtune_flags INTERFACE -ffp-contract=off -Wno-missing-field-initializers)
if(MMTUNE_SANITIZE)
  target_compile_options(mmtune_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(mmtune_flags INTERFACE -fsanitize=address,undefined)
endif()
