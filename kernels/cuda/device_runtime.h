// What the host side of kernels/cuda uses of the machine: memory, streams, copies. Implemented by
// device_runtime.cu over the CUDA runtime, and by the emulation (tests/support/cuda_emulation) for
// tests without a GPU, as device.cuh is for kernels.
//
// Calls go to the device that the calling thread selected last. What fails throws Error(kResource)
// that names the CUDA call, the device, CUDA's reason and what to do about it.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "kernels/cuda/stream.h"

struct CUgraphExec_st;

namespace convoke::cuda {

struct DeviceInfo {
  std::string name;          ///< "NVIDIA H100 80GB HBM3"
  std::string address;       ///< on its host's bus: "0000:3b:00.0"
  int major = 0, minor = 0;  ///< compute capability
  size_t total_bytes = 0;
  size_t free_bytes = 0;  ///< now
};

/// Devices that this process can use. Without a driver or a device 0, and `why` (if not null) is
/// what CUDA says about it.
int device_count(std::string* why = nullptr);
/// Which device of this process has this address on the host's bus; negative: none.
int device_at(const std::string& address);
/// Selects the device on the way.
DeviceInfo device_info(int device);
void select_device(int device);

/// Aligned to 256 bytes; `purpose` says in an error what the memory was for.
void* allocate_device(size_t bytes, const char* purpose);
void free_device(void* memory) noexcept;
/// Host memory that the device copies from and to on its own.
void* allocate_pinned(size_t bytes, const char* purpose);
void free_pinned(void* memory) noexcept;

/// Pinned host memory that kernels read and write at the same address.
void* allocate_mapped(size_t bytes, const char* purpose);
void free_mapped(void* memory) noexcept;

// Memory of one device in kernels of another.

/// Whether kernels of `device` can use memory of `peer` once they may (reach_peer); both as this
/// process numbers them.
bool reaches_peer(int device, int peer);
/// From now on they may. Selects `device` on the way.
void reach_peer(int device, int peer);
/// Names memory of allocate_device(), which this process owns, to other processes of the host.
using MemoryHandle = std::array<std::byte, 64>;
MemoryHandle export_memory(void* memory);
/// That of another process, at an address for kernels of the selected device.
void* import_memory(const MemoryHandle& handle);
void release_import(void* memory) noexcept;

CUstream_st* create_stream();
/// What was enqueued must be done.
void destroy_stream(CUstream_st* stream) noexcept;

/// Enqueues a copy of `rows` rows of `row_bytes` bytes that lie so many bytes apart, between any
/// two of device and host memory. Host memory that is not pinned makes the call wait.
void enqueue_copy(CUstream_st* stream, void* to, size_t to_pitch, const void* from,
                  size_t from_pitch, size_t row_bytes, size_t rows);
/// Whether a copy from or to this memory waits for nothing: the device's, or pinned.
bool copies_asynchronously(const void* memory);
/// Whether all that was enqueued is done, or has failed.
bool is_done(CUstream_st* stream);
/// Waits for all that was enqueued. Also where errors of kernels show.
void synchronise(CUstream_st* stream);

// Graphs. Between begin_capture and end_capture what is enqueued on the stream is recorded instead;
// the calling thread must not wait, allocate, free or copy memory that is not pinned meanwhile.

void begin_capture(CUstream_st* stream);
/// The recorded work as a graph that can be launched again and again, with the same arguments.
CUgraphExec_st* end_capture(CUstream_st* stream);
/// After an error: ends the capture, if there still is one.
void drop_capture(CUstream_st* stream) noexcept;
/// Enqueues the graph's work.
void launch_graph(CUgraphExec_st* graph, CUstream_st* stream);
void destroy_graph(CUgraphExec_st* graph) noexcept;

}  // namespace convoke::cuda
