// Emulated devices: kernels/cuda/device_runtime.h in terms of the host.
#include "tests/support/cuda_emulation/device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/device_runtime.h"
#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/cuda_emulation/shared_pages.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace convoke::emulation {
/// What a stream does; `ready` says whether it can be begun (empty: at once). `run` says whether it
/// has ended, or waits for others and is to be called again.
struct Work {
  std::function<bool()> run;
  std::function<bool()> ready;
};
}  // namespace convoke::emulation

struct CUstream_st {
  std::vector<convoke::emulation::Work> work;  ///< that nobody has waited for yet
  bool running = false;                        ///< the worker has work of it
  bool capturing = false;
  std::vector<convoke::emulation::Work> captured;
};
struct CUgraphExec_st {
  std::vector<convoke::emulation::Work> work;
};

namespace convoke::emulation {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;
constexpr std::byte kPoison{0xff};  // NaN in every type

/// The stream that this thread captures: what a capture forbids is forbidden to the thread.
thread_local CUstream_st* capturing = nullptr;

void refuse_in_capture(const char* call) {
  if (capturing == nullptr) return;
  throw_error(ErrorKind::kResource,
              "CUDA: {} on an emulated device: operation not permitted when stream is capturing "
              "(cudaErrorStreamCaptureUnsupported)",
              call);
}

/// Ranges of memory by their begin.
class Ranges {
 public:
  struct Range {
    size_t bytes = 0;
    std::byte* mapping = nullptr;
    size_t mapped = 0;
    int file = -1;          ///< behind it, once other processes may have it
    bool imported = false;  ///< from another process
  };
  void add(const void* begin, const Range& range) { ranges_[address(begin)] = range; }
  bool has(const void* pointer) const {
    auto next = ranges_.upper_bound(address(pointer));
    if (next == ranges_.begin()) return false;
    --next;
    return address(pointer) < next->first + std::max<size_t>(next->second.bytes, 1);
  }
  Range take(const void* begin) {
    const auto at = ranges_.find(address(begin));
    CONVOKE_CHECK(at != ranges_.end());
    const Range range = at->second;
    ranges_.erase(at);
    return range;
  }
  Range* find(const void* begin) {
    const auto at = ranges_.find(address(begin));
    return at == ranges_.end() ? nullptr : &at->second;
  }
  template <typename Visit>
  void for_each(Visit visit) const {
    for (const auto& [begin, range] : ranges_) visit(range);
  }

 private:
  static uintptr_t address(const void* p) { return reinterpret_cast<uintptr_t>(p); }
  std::map<uintptr_t, Range> ranges_;
};

/// Memory of a process for others: what is in a MemoryHandle.
struct Shared {
  void* memory = nullptr;  ///< in its owner
  pid_t owner = 0;
  int file = -1;
  size_t mapped = 0, offset = 0, bytes = 0;
};
static_assert(sizeof(Shared) <= sizeof(cuda::MemoryHandle));

/// All devices of the process: their memory, and the thread that does their work.
class Devices {
 public:
  Devices() : worker_([this] { work(); }) {}
  ~Devices() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    worker_.join();
  }

  int count = 2;
  int major = 9;
  std::atomic<bool> links = true;
  uint64_t limit = uint64_t{1} << 40;
  DeviceCounters counters;

  void* allocate(size_t bytes, const char* purpose) {
    const std::lock_guard lock(mutex_);
    if (bytes_ + bytes > limit) {
      throw_error(ErrorKind::kResource,
                  "CUDA: cudaMalloc of {:.1f} MB for {} on an emulated device: out of memory",
                  double(bytes) * 1e-6, purpose);
    }
    ++counters.allocations;
    bytes_ += bytes;
    // The end of the memory is close before a page that is never there.
    const size_t pages = (bytes + kPage - 1) / kPage * kPage;
    void* const mapping =
        mmap(nullptr, pages + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CONVOKE_CHECK(mapping != MAP_FAILED);
    auto* const base = static_cast<std::byte*>(mapping);
    CONVOKE_CHECK_EQ(mprotect(base, pages, PROT_READ | PROT_WRITE), 0);
    std::fill_n(base, pages, kPoison);
    if (!open_) CONVOKE_CHECK_EQ(mprotect(base, pages, PROT_NONE), 0);
    std::byte* const data = base + (pages - bytes) / kAlignment * kAlignment;
    device_.add(data, {bytes, base, pages});
    return data;
  }
  void release(void* memory) {
    const std::lock_guard lock(mutex_);
    const Ranges::Range range = device_.take(memory);
    if (!range.imported) bytes_ -= range.bytes;
    if (range.file >= 0) close(range.file);
    munmap(range.mapping, range.mapped + kPage);
  }
  /// By which other processes find the memory.
  Shared share(void* memory) {
    const std::lock_guard lock(mutex_);
    Ranges::Range* const range = device_.find(memory);
    CONVOKE_CHECK(range != nullptr && !range->imported);
    if (range->file < 0) {
      CONVOKE_CHECK_EQ(mprotect(range->mapping, range->mapped, PROT_READ | PROT_WRITE), 0);
      range->file = share_pages(range->mapping, range->mapped);
      if (!open_) CONVOKE_CHECK_EQ(mprotect(range->mapping, range->mapped, PROT_NONE), 0);
    }
    return {memory,
            getpid(),
            range->file,
            range->mapped,
            size_t(static_cast<std::byte*>(memory) - range->mapping),
            range->bytes};
  }
  /// Null: there is none.
  void* import(const Shared& shared) {
    const std::lock_guard lock(mutex_);
    std::byte* const pages = map_shared_pages(shared.owner, shared.file, shared.mapped, kPage);
    if (pages == nullptr) return nullptr;
    if (!open_) CONVOKE_CHECK_EQ(mprotect(pages, shared.mapped, PROT_NONE), 0);
    std::byte* const data = pages + shared.offset;
    device_.add(data, {shared.bytes, pages, shared.mapped, -1, true});
    return data;
  }
  bool imported(const void* memory) {
    const std::lock_guard lock(mutex_);
    const Ranges::Range* const range = device_.find(memory);
    return range != nullptr && range->imported;
  }
  void* allocate_pinned(size_t bytes) {
    const std::lock_guard lock(mutex_);
    ++counters.allocations;
    void* memory = nullptr;
    CONVOKE_CHECK_EQ(posix_memalign(&memory, kAlignment, std::max<size_t>(bytes, 1)), 0);
    std::fill_n(static_cast<std::byte*>(memory), bytes, kPoison);
    pinned_.add(memory, {bytes, nullptr, 0});
    return memory;
  }
  void release_pinned(void* memory) {
    const std::lock_guard lock(mutex_);
    pinned_.take(memory);
    std::free(memory);
  }
  void map(void* memory, size_t bytes) {
    const std::lock_guard lock(mutex_);
    mapped_.add(memory, {bytes, nullptr, 0});
  }
  void unmap(void* memory) {
    const std::lock_guard lock(mutex_);
    mapped_.take(memory);
  }

  bool on_device(const void* pointer) {
    const std::lock_guard lock(mutex_);
    return device_.has(pointer);
  }
  bool pinned(const void* pointer) {
    const std::lock_guard lock(mutex_);
    return pinned_.has(pointer);
  }
  /// Host memory that kernels may use.
  bool mapped(const void* pointer) {
    const std::lock_guard lock(mutex_);
    return mapped_.has(pointer);
  }
  uint64_t bytes() {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }
  void count_copy(bool to_device) {
    const std::lock_guard lock(mutex_);
    ++(to_device ? counters.to_device : counters.to_host);
  }

  void count_graph(bool launched) {
    const std::lock_guard lock(mutex_);
    ++(launched ? counters.graph_launches : counters.graphs);
  }

  /// Has the worker do all of it, and waits.
  void wait(CUstream_st& stream) {
    std::unique_lock lock(mutex_);
    ++counters.waits;
    submit(stream);
    idle_.wait(lock, [&] { return !stream.running; });
  }
  /// Has the worker do all of it.
  bool is_done(CUstream_st& stream) {
    const std::lock_guard lock(mutex_);
    submit(stream);
    return !stream.running;
  }

 private:
  /// A stream's work, as far as it has come.
  struct Running {
    CUstream_st* stream;
    std::vector<Work> work;
    size_t next = 0;
    bool begun = false;  ///< the next work
    bool waits = false;  ///< in the middle of it, for others
    bool ready() const { return !waits && (work[next].ready == nullptr || work[next].ready()); }
  };

  void submit(CUstream_st& stream) {
    // What was enqueued while the worker is at it comes after that.
    if (stream.running || stream.work.empty()) return;
    stream.running = true;
    running_.push_back({&stream, std::exchange(stream.work, {})});
    changed_.notify_all();
  }
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return ending_ || !running_.empty(); });
      if (ending_) return;
      const auto able = std::ranges::find_if(running_, &Running::ready);
      if (able == running_.end()) {  // streams that wait for others, which are still to come
        changed_.wait_for(lock, std::chrono::milliseconds(1));
        for (Running& r : running_) r.waits = false;
        continue;
      }
      Running mine = std::move(*able);
      running_.erase(able);
      run_what_is_ready(mine, lock);
      if (mine.next < mine.work.size()) {
        running_.push_back(std::move(mine));
        continue;
      }
      mine.stream->running = false;
      idle_.notify_all();
    }
  }
  void run_what_is_ready(Running& running, std::unique_lock<std::mutex>& lock) {
    protect(PROT_READ | PROT_WRITE);
    open_ = true;
    lock.unlock();
    bool came_further = false;
    do {
      running.waits = !running.work[running.next].run();
      came_further |= !running.waits || !running.begun;
      running.begun = running.waits;
      if (!running.waits) ++running.next;
    } while (running.next < running.work.size() && running.ready());
    lock.lock();
    if (came_further) {
      for (Running& r : running_) r.waits = false;  // it may have been for this
    }
    open_ = false;
    protect(PROT_NONE);
  }
  void protect(int how) const {
    device_.for_each([&](const Ranges::Range& range) {
      CONVOKE_CHECK_EQ(mprotect(range.mapping, range.mapped, how), 0);
    });
  }

  std::mutex mutex_;
  std::condition_variable changed_, idle_;
  std::vector<Running> running_;
  bool ending_ = false;
  bool open_ = false;  ///< the worker is at work: device memory can be touched
  uint64_t bytes_ = 0;
  Ranges device_, pinned_, mapped_;
  std::thread worker_;  // last: it uses the others
};

Devices& devices() {
  static Devices devices;
  return devices;
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif

/// Whether a word is an address in the host's mapped memory: first by its looks, so that numbers
/// cost nothing (and small ones behind another's padding, if there may be any, are let through),
/// then by asking the kernel. The address sanitizer's addresses look like small ones; it has all of
/// its heap mapped, whatever of it is in use.
bool leads_to_host(uint64_t word, bool padding) {
#if defined(__x86_64__)
  const uint64_t top = word >> 40;  // of programs, heaps (the sanitizers' too), libraries, stacks
  const bool looks =
      top == 0x7f || top == 0x7e || top == 0x55 || top == 0x56 || (top >= 0x60 && top <= 0x63);
  if (!looks || word % alignof(int32_t) != 0) return false;
  if ((padding || !kAddressSanitizer) && uint32_t(word) < 0x10000) return false;
  auto* const pointer = reinterpret_cast<void*>(word);
#if defined(__SANITIZE_ADDRESS__)
  if (__asan_address_is_poisoned(pointer) != 0) return false;
#endif
  if (devices().on_device(pointer) || devices().mapped(pointer)) return false;
  unsigned char resident = 0;
  if (mincore(reinterpret_cast<void*>(word / kPage * kPage), kPage, &resident) != 0) return false;
  return !kAddressSanitizer || (resident & 1) != 0;  // its heap is mapped before it is used
#else
  (void)word, (void)padding;
  return false;
#endif
}

void check_words(const void* data, size_t bytes, bool padding, const char* what) {
  for (size_t i = 0; i + sizeof(uint64_t) <= bytes; i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, static_cast<const std::byte*>(data) + i, sizeof word);
    if (!leads_to_host(word, padding)) continue;
    std::fprintf(stderr, "cuda emulation: %s: word %zu, %llx, is an address in host memory\n", what,
                 i / sizeof word, static_cast<unsigned long long>(word));
    std::abort();
  }
}

}  // namespace

void set_devices(int count, int major) {
  devices().count = count;
  devices().major = major;
}

DeviceCounters& device_counters() {
  return devices().counters;
}

uint64_t device_bytes() {
  return devices().bytes();
}

void cut_links(bool cut) {
  devices().links = !cut;
}
bool links_between(int device, int peer) {
  return device == peer || devices().links;
}

void limit_device_bytes(uint64_t bytes) {
  devices().limit = bytes;
}

void check_argument_words(const void* argument, size_t bytes) {
  check_words(argument, bytes, /*padding=*/false, "a kernel's argument");
}

void enqueue(CUstream_st* stream, std::function<void()> work, std::function<bool()> ready) {
  (stream->capturing ? stream->captured : stream->work)
      .push_back({[work = std::move(work)] {
                    work();
                    return true;
                  },
                  std::move(ready)});
}

void enqueue_in_turns(CUstream_st* stream, std::function<bool()> work) {
  (stream->capturing ? stream->captured : stream->work).push_back({std::move(work), {}});
}

}  // namespace convoke::emulation

namespace convoke::cuda {

using emulation::devices;

int device_count(std::string* why) {
  if (devices().count == 0 && why != nullptr) *why = "emulated: there is none";
  return devices().count;
}

int device_at(const std::string& address) {
  for (int d = 0; d < devices().count; ++d) {
    if (address == "emulated:" + std::to_string(d)) return d;
  }
  return -1;
}

DeviceInfo device_info(int device) {
  select_device(device);
  return {"emulated",      "emulated:" + std::to_string(device), devices().major, 0,
          size_t{1} << 40, (size_t{1} << 40) - devices().bytes()};
}

void select_device(int device) {
  CONVOKE_CHECK(device >= 0 && device < devices().count);
}

void* allocate_device(size_t bytes, const char* purpose) {
  emulation::refuse_in_capture("cudaMalloc");
  return devices().allocate(bytes, purpose);
}
void free_device(void* memory) noexcept {
  CONVOKE_CHECK(emulation::capturing == nullptr);
  devices().release(memory);
}
void* allocate_pinned(size_t bytes, const char*) {
  emulation::refuse_in_capture("cudaHostAlloc");
  return devices().allocate_pinned(bytes);
}
void free_pinned(void* memory) noexcept {
  CONVOKE_CHECK(emulation::capturing == nullptr);
  devices().release_pinned(memory);
}

void* allocate_mapped(size_t bytes, const char* purpose) {
  void* const memory = allocate_pinned(bytes, purpose);
  devices().map(memory, bytes);
  return memory;
}
void free_mapped(void* memory) noexcept {
  devices().unmap(memory);
  free_pinned(memory);
}

bool reaches_peer(int device, int peer) {
  return emulation::links_between(device, peer);
}
void reach_peer(int device, int peer) {
  CONVOKE_CHECK(emulation::links_between(device, peer));
}
MemoryHandle export_memory(void* memory) {
  const emulation::Shared shared = devices().share(memory);
  MemoryHandle handle = {};
  std::memcpy(handle.data(), &shared, sizeof shared);
  return handle;
}
void* import_memory(const MemoryHandle& handle) {
  emulation::Shared shared;
  std::memcpy(&shared, handle.data(), sizeof shared);
  // Of threads that pass for processes: as it lies.
  const bool mine = shared.owner == getpid() && devices().on_device(shared.memory);
  void* const memory = mine ? shared.memory : devices().import(shared);
  if (memory == nullptr) {
    throw_error(ErrorKind::kResource, "CUDA: cudaIpcOpenMemHandle: no such memory is emulated");
  }
  return memory;
}
void release_import(void* memory) noexcept {
  if (devices().imported(memory)) devices().release(memory);
}

CUstream_st* create_stream() {
  return new CUstream_st;
}
void destroy_stream(CUstream_st* stream) noexcept {
  CONVOKE_CHECK(stream->work.empty() && !stream->capturing && !stream->running);
  delete stream;
}

void enqueue_copy(CUstream_st* stream, void* to, size_t to_pitch, const void* from,
                  size_t from_pitch, size_t row_bytes, size_t rows) {
  if (row_bytes == 0 || rows == 0) return;
  CONVOKE_CHECK(row_bytes <= to_pitch && row_bytes <= from_pitch);
  const bool to_host = !devices().on_device(to), from_host = !devices().on_device(from);
  // As CUDA has it: what is not pinned is copied before the call returns.
  const bool waits = (to_host && !devices().pinned(to)) || (from_host && !devices().pinned(from));
  if (waits) emulation::refuse_in_capture("cudaMemcpyAsync of memory that is not pinned");
  if (from_host) {
    for (size_t r = 0; r < rows; ++r) {
      emulation::check_words(static_cast<const std::byte*>(from) + r * from_pitch, row_bytes,
                             /*padding=*/true, "what is copied to the device");
    }
  }
  emulation::enqueue(stream, [=] {
    // When it is done, so that a graph's copies count each time it is launched.
    if (to_host || from_host) devices().count_copy(!to_host);
    for (size_t r = 0; r < rows; ++r) {
      std::memcpy(static_cast<std::byte*>(to) + r * to_pitch,
                  static_cast<const std::byte*>(from) + r * from_pitch, row_bytes);
    }
  });
  if (waits) synchronise(stream);
}

bool copies_asynchronously(const void* memory) {
  return devices().on_device(memory) || devices().pinned(memory);
}

void synchronise(CUstream_st* stream) {
  emulation::refuse_in_capture("cudaStreamSynchronize");
  devices().wait(*stream);
}

bool is_done(CUstream_st* stream) {
  emulation::refuse_in_capture("cudaStreamQuery");
  return devices().is_done(*stream);
}

void begin_capture(CUstream_st* stream) {
  emulation::refuse_in_capture("cudaStreamBeginCapture");
  stream->capturing = true;
  emulation::capturing = stream;
}

CUgraphExec_st* end_capture(CUstream_st* stream) {
  CONVOKE_CHECK(stream->capturing && emulation::capturing == stream);
  stream->capturing = false;
  emulation::capturing = nullptr;
  devices().count_graph(/*launched=*/false);
  return new CUgraphExec_st{std::exchange(stream->captured, {})};
}

void drop_capture(CUstream_st* stream) noexcept {
  stream->capturing = false;
  stream->captured.clear();
  emulation::capturing = nullptr;
}

void launch_graph(CUgraphExec_st* graph, CUstream_st* stream) {
  emulation::refuse_in_capture("cudaGraphLaunch");
  devices().count_graph(/*launched=*/true);
  stream->work.insert(stream->work.end(), graph->work.begin(), graph->work.end());
}

void destroy_graph(CUgraphExec_st* graph) noexcept {
  delete graph;
}

}  // namespace convoke::cuda
