# One interface target carries the flags that every target of ours uses.
add_library(convoke_flags INTERFACE)
target_include_directories(convoke_flags INTERFACE ${PROJECT_SOURCE_DIR})
set(convoke_flags -Wall -Wextra -Wno-missing-field-initializers -Wshadow -Wnon-virtual-dtor
  -Woverloaded-virtual
  # Exactness: a product and a sum are fused only where the source says fma.
  -ffp-contract=off)
if(CONVOKE_WERROR)
  list(APPEND convoke_flags -Werror)
endif()
# nvcc has its own spelling of all this (kernels/CMakeLists.txt).
target_compile_options(convoke_flags INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:${convoke_flags}>")
if(CONVOKE_SANITIZE)
  # With sanitizers GCC takes what the standard library's <regex> moves for uninitialised.
  set(convoke_sanitize -fsanitize=${CONVOKE_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_compile_options(convoke_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:C,CXX>:${convoke_sanitize}>")
  target_link_options(convoke_flags INTERFACE -fsanitize=${CONVOKE_SANITIZE})
endif()
find_program(CONVOKE_MOLD mold)
if(CONVOKE_MOLD)
  target_link_options(convoke_flags INTERFACE -fuse-ld=mold)
endif()
find_program(CONVOKE_CCACHE ccache)
if(CONVOKE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CONVOKE_CCACHE})
endif()
