# CONVOKE_CUDA=AUTO: where nvcc is found, kernels/cuda is compiled for GPUs too; ON insists on it.
# Its tests need neither a toolkit nor a GPU: they compile the sources against an emulation.
set(CONVOKE_CUDA AUTO CACHE STRING "Compile the CUDA kernels with nvcc: AUTO, ON or OFF")
set_property(CACHE CONVOKE_CUDA PROPERTY STRINGS AUTO ON OFF)
set(CONVOKE_CUDA_ARCHITECTURES 90 CACHE STRING
  "GPU architectures to compile for, 80 to 100, in CMake's notation (90, or \"80-real;90\")")

set(CONVOKE_HAVE_CUDA FALSE)
# What nvcc compiles is the same with sanitizers, which see host code only.
if(CONVOKE_CUDA STREQUAL "ON" OR (CONVOKE_CUDA STREQUAL "AUTO" AND NOT CONVOKE_SANITIZE))
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(CONVOKE_NVCC nvcc HINTS /usr/local/cuda/bin $ENV{CUDA_HOME}/bin)
    if(CONVOKE_NVCC)
      # Not CMAKE_CUDA_COMPILER: that would be taken as working without a look.
      set(ENV{CUDACXX} ${CONVOKE_NVCC})
    endif()
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${CONVOKE_CUDA_ARCHITECTURES})
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # a CMake older than the toolkit
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    set(CONVOKE_HAVE_CUDA TRUE)
    # What the toolkit may have besides.
    get_filename_component(convoke_toolkit "${CMAKE_CUDA_COMPILER}" DIRECTORY)
    get_filename_component(convoke_toolkit "${convoke_toolkit}" DIRECTORY)
    find_path(CONVOKE_CUBLASLT_INCLUDE cublasLt.h
      HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} ${convoke_toolkit}/include)
    find_path(CONVOKE_NCCL_INCLUDE nccl.h
      HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} ${convoke_toolkit}/include)
    find_path(CONVOKE_CUDA_LIBRARIES NAMES libcublasLt.so libnccl.so libcudart.so
      HINTS ${convoke_toolkit}/lib64 ${convoke_toolkit}/lib NO_CACHE)
    if(NOT CONVOKE_CUDA_LIBRARIES)
      set(CONVOKE_CUDA_LIBRARIES "")
    endif()
  elseif(CONVOKE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "CONVOKE_CUDA=ON, but no nvcc was found that works: put one on the PATH, set "
      "CUDACXX to it, or configure with -DCONVOKE_CUDA=OFF")
  endif()
endif()
if(CONVOKE_HAVE_CUDA)
  message(STATUS "CUDA kernels: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, architectures "
    "${CONVOKE_CUDA_ARCHITECTURES}")
  foreach(convoke_part CUBLASLT NCCL)
    if(NOT CONVOKE_${convoke_part}_INCLUDE)
      message(STATUS "CUDA kernels: without ${convoke_part}, whose header was not found")
    endif()
  endforeach()
else()
  message(STATUS "CUDA kernels: not compiled for GPUs (CONVOKE_CUDA=${CONVOKE_CUDA})")
endif()
