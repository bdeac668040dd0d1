// The launches of a program, written down with their arguments before any of them runs.
//
// A program's kernels are cheap to write down and dear to launch one by one. Two programs that
// wrote down the same bytes are the same work, so a graph that was made of one stands for the other
// (graph_cache.h): nobody has to say what a program depends on.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <type_traits>
#include <vector>

#include "kernels/cuda/stream.h"

namespace convoke::cuda {

/// Makes the bytes of equal objects equal.
template <typename T>
void clear_padding(T& object) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
  __builtin_clear_padding(&object);
#endif
#endif
  (void)object;
}

class LaunchLog {
 public:
  /// Adds work: `call(stream)` enqueues it on a stream without a log, maybe more than once. All
  /// that it depends on is in its bytes, and in the memory that these point to when it runs.
  template <typename Call>
  void add(Call call) {
    static_assert(std::is_trivially_copyable_v<Call> && alignof(Call) <= kAlignment);
    clear_padding(call);
    const Header header = {&issue_one<Call>, sizeof(Call)};
    const size_t at = bytes_.size();
    bytes_.resize(at + kHeader + padded(sizeof(Call)));
    std::memcpy(&bytes_[at], &header, sizeof header);
    std::memcpy(&bytes_[at + kHeader], &call, sizeof call);
    ++count_;
  }

  /// Enqueues all of it in order.
  void issue(const CudaStream& stream) const {
    for (size_t at = 0; at < bytes_.size();) {
      Header header;
      std::memcpy(&header, &bytes_[at], sizeof header);
      header.issue(stream, &bytes_[at + kHeader]);
      at += kHeader + padded(header.bytes);
    }
  }

  bool empty() const { return count_ == 0; }
  int count() const { return count_; }
  void clear() { bytes_.clear(), count_ = 0; }
  bool operator==(const LaunchLog& other) const {
    return bytes_.size() == other.bytes_.size() &&
           std::memcmp(bytes_.data(), other.bytes_.data(), bytes_.size()) == 0;
  }

 private:
  struct Header {
    void (*issue)(const CudaStream&, const void*);  ///< one for each kind of call
    size_t bytes;
  };
  static constexpr size_t kAlignment = 16, kHeader = 16;
  static_assert(sizeof(Header) <= kHeader && __STDCPP_DEFAULT_NEW_ALIGNMENT__ >= kAlignment);

  static constexpr size_t padded(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  template <typename Call>
  static void issue_one(const CudaStream& stream, const void* call) {
    (*std::launder(static_cast<const Call*>(call)))(stream);
  }

  std::vector<std::byte> bytes_;
  int count_ = 0;
};

/// Does it now, or writes it down where the stream has a log.
template <typename Call>
void enqueue(const CudaStream& stream, Call call) {
  stream.log != nullptr ? stream.log->add(call) : call(stream);
}

}  // namespace convoke::cuda
