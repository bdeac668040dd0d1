// Token ids of words seen before. Natural text repeats its words, so most words cost one lookup.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace convoke {

/// Bounded (about 4 MB); forgets everything when full. For one thread at a time.
class WordCache {
 public:
  static constexpr size_t kLongestWord = 48;  ///< bytes; longer words hardly ever return

  /// Ids of `word`, or null. The span is valid until the next insert.
  const std::span<const int32_t>* find(std::string_view word) {
    if (entries_.empty()) return nullptr;
    const Entry& entry = entries_[slot(word)];
    if (entry.word_bytes == 0) return nullptr;
    found_ = std::span<const int32_t>(ids_).subspan(entry.ids_at, entry.ids_count);
    return &found_;
  }

  /// `word` must not be there; 1 to kLongestWord bytes.
  void insert(std::string_view word, std::span<const int32_t> ids) {
    if (entries_.empty()) entries_.resize(kSlots);
    if (count_ >= kSlots / 2) clear();
    Entry& entry = entries_[slot(word)];
    entry = {static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(ids_.size()),
             static_cast<uint16_t>(word.size()), static_cast<uint16_t>(ids.size())};
    text_.insert(text_.end(), word.begin(), word.end());
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    ++count_;
  }

 private:
  static constexpr size_t kSlots = size_t{1} << 16;
  struct Entry {
    uint32_t text_at = 0, ids_at = 0;
    uint16_t word_bytes = 0, ids_count = 0;
  };

  static uint64_t hash(std::string_view word) {
    uint64_t value = word.size() * 0x9E3779B97F4A7C15ull;
    const auto mix = [&](uint64_t bits) {
      value = (value ^ bits) * 0xD6E8FEB86659FD93ull;
      value ^= value >> 32;
    };
    size_t at = 0;
    for (; at + 8 <= word.size(); at += 8) {
      uint64_t bits;
      std::memcpy(&bits, word.data() + at, 8);
      mix(bits);
    }
    if (at < word.size()) {
      uint64_t bits = 0;
      std::memcpy(&bits, word.data() + at, word.size() - at);
      mix(bits);
    }
    return value ^ (value >> 29);
  }

  size_t slot(std::string_view word) const {
    size_t at = hash(word) & (kSlots - 1);
    while (entries_[at].word_bytes != 0) {
      const Entry& entry = entries_[at];
      if (entry.word_bytes == word.size() &&
          std::memcmp(text_.data() + entry.text_at, word.data(), word.size()) == 0) {
        break;
      }
      at = (at + 1) & (kSlots - 1);
    }
    return at;
  }

  void clear() {
    entries_.assign(kSlots, Entry{});
    text_.clear();
    ids_.clear();
    count_ = 0;
  }

  std::vector<Entry> entries_;
  std::vector<char> text_;
  std::vector<int32_t> ids_;
  size_t count_ = 0;
  std::span<const int32_t> found_;
};

}  // namespace convoke
