// What tests may ask and tell the emulated devices (device.cc). Memory, streams and copies are
// those of kernels/cuda/device_runtime.h; this is what a real device has no counterpart for.
//
// Device memory cannot be touched by the host: reading it ends the process with a signal, except
// while the device itself works. A kernel's pointers, and those in what is copied to the device,
// must not lead to the host's memory. A stream runs when somebody waits for it and not before, on a
// thread of its own: what the host changes meanwhile shows in the results.
#pragma once

#include <cstdint>

namespace convoke::emulation {

/// How many devices there are (2 at first), all with compute capability `major`.0.
void set_devices(int count, int major = 9);

struct DeviceCounters {
  uint64_t allocations = 0;  ///< of device and pinned memory
  uint64_t to_device = 0;    ///< copies from the host
  uint64_t to_host = 0;      ///< copies to the host
  uint64_t waits = 0;        ///< of the host for a stream, those inside copies included
  uint64_t graphs = 0;       ///< that captures became
  uint64_t graph_launches = 0;
};
DeviceCounters& device_counters();
/// Bytes of device memory that are allocated now.
uint64_t device_bytes();
/// Devices do not reach each other's memory any more, or again (at first they do).
void cut_links(bool cut);
bool links_between(int device, int peer);
/// The next allocations of device memory fail once so many bytes are in use.
void limit_device_bytes(uint64_t bytes);

}  // namespace convoke::emulation
