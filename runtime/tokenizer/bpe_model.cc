#include "runtime/tokenizer/bpe_model.h"

#include <algorithm>
#include <functional>

#include "runtime/tokenizer/byte_level.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

constexpr size_t kShortWord = 64;  // symbols; above this a heap beats scanning for the lowest rank
constexpr std::string_view kMark = "\xE2\x96\x81";  // U+2581, SentencePiece's space

/// Whether `text` has a U+2581 that follows another character.
bool has_inner_mark(std::string_view text) {
  for (size_t at = text.find(kMark); at != std::string_view::npos; at = text.find(kMark, at + 1)) {
    if (at > 0 && !text.substr(0, at).ends_with(kMark)) return true;
  }
  return false;
}

}  // namespace

bool BpeModel::can_encode_bytes(const JsonValue& json) {
  const auto empty = [&](const char* key) {
    const auto value = json.find(key);
    return !value || value->string().empty();
  };
  return empty("continuing_subword_prefix") && empty("end_of_word_suffix") &&
         !json.has("unk_token") && !json.boolean("byte_fallback", false);
}

BpeModel::BpeModel(const JsonValue& json, bool bytes) : bytes_(bytes) {
  if (const auto type = json.find("type"); type && type->string() != "BPE") {
    type->fail(fmt::format("model \"{}\" is not supported (BPE is)", type->string()));
  }
  if (const auto dropout = json.find("dropout")) {
    // Dropout makes the ids random: fine for training, never for inference.
    if (!dropout->raw().is_number() || dropout->raw().get<double>() != 0.0) {
      dropout->fail("is not supported unless null or 0");
    }
  }
  fuse_unk_ = json.boolean("fuse_unk", false);
  byte_fallback_ = json.boolean("byte_fallback", false);
  ignore_merges_ = json.boolean("ignore_merges", false);
  if (const auto value = json.find("unk_token")) unk_token_ = value->string();
  if (const auto value = json.find("continuing_subword_prefix")) prefix_ = value->string();
  if (const auto value = json.find("end_of_word_suffix")) suffix_ = value->string();
  read_vocabulary(json.at("vocab"));
  read_merges(json.at("merges"));
  prepare_symbols();
}

void BpeModel::read_vocabulary(const JsonValue& json) {
  json.require_object();
  const auto size = static_cast<int64_t>(json.size());
  // Vocabularies may have holes, but not so many that a table by id would be mostly holes.
  const int64_t highest = std::min<int64_t>(4 * size + 65536, INT32_MAX / 2);
  by_text_.reserve(json.size());
  std::vector<bool> taken;
  for (const auto& [token, value] : json.raw().items()) {
    if (!value.is_number_integer()) json.fail(fmt::format("\"{}\" has no integer id", token));
    const bool fits =
        value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(highest);
    if (!fits) {
      json.fail(fmt::format("\"{}\": id {} is not between 0 and {}", token, value.dump(), highest));
    }
    const auto id = value.get<size_t>();
    if (id >= taken.size()) taken.resize(std::max(id + 1, taken.size() * 2));
    if (taken[id]) json.fail(fmt::format("\"{}\": id {} is given twice", token, id));
    taken[id] = true;
    by_text_.emplace(token, static_cast<int32_t>(id));
  }
}

void BpeModel::read_merges(const JsonValue& json) {
  json.require_array();
  merges_ = PairTable(json.size());
  mark_starts_words_ = true;
  uint32_t rank = 0;
  for (size_t i = 0; i < json.size(); ++i) {
    const JsonValue merge = json.at(i);
    if (merge.is_array()) {
      if (merge.size() != 2) merge.fail("expected two tokens");
      add_merge(merge, rank++, merge.at(size_t{0}).string(), merge.at(size_t{1}).string());
      continue;
    }
    const std::string_view text = merge.string();
    if (text.starts_with("#version")) continue;  // a header line of merges.txt
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      merge.fail(fmt::format("expected \"left right\", found \"{}\"", text));
    }
    add_merge(merge, rank++, text.substr(0, space), text.substr(space + 1));
  }
}

void BpeModel::add_merge(const JsonValue& json, uint32_t rank, std::string_view left,
                         std::string_view right) {
  const auto id = [&](std::string_view token) {
    const auto found = token_to_id(token);
    if (!found) json.fail(fmt::format("token \"{}\" is not in the vocabulary", token));
    return *found;
  };
  if (left.empty() || right.empty()) json.fail("an empty token");
  if (right.size() < prefix_.size()) {
    json.fail(fmt::format("\"{}\" lacks the continuing_subword_prefix \"{}\"", right, prefix_));
  }
  const std::string joined = fmt::format("{}{}", left, right.substr(prefix_.size()));
  const int32_t left_id = id(left), right_id = id(right);
  merges_.insert(left_id, right_id, {rank, id(joined)});
  if (has_inner_mark(joined)) mark_starts_words_ = false;
}

void BpeModel::prepare_symbols() {
  byte_ids_.fill(-1);
  fallback_ids_.fill(-1);
  for (size_t byte = 0; byte < 256; ++byte) {
    std::string character;
    unicode::append_code_point(character, byte_level::characters()[byte]);
    byte_ids_[byte] = token_to_id(character).value_or(-1);
    fallback_ids_[byte] = token_to_id(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
  for (const auto& [text, id] : by_text_) {
    if (text.empty()) continue;
    if (text.size() == unicode::character_bytes(text[0])) {
      size_t at = 0;
      character_ids_.emplace(unicode::next_code_point(text, at), id);
    }
    if (!ignore_merges_) continue;
    std::string raw;
    if (!bytes_) {
      whole_words_.emplace(text, id);
    } else if (byte_level::append_bytes(raw, text)) {
      whole_words_.emplace(std::move(raw), id);
    }
  }
  if (unk_token_) unk_id_ = token_to_id(*unk_token_);

  // Words may be cut before a U+2581 if nothing that is encoded depends on what lies across: no
  // merge (see above), no character that vanishes, no affix that depends on the place in the word.
  const bool all_bytes = byte_fallback_ && std::find(fallback_ids_.begin(), fallback_ids_.end(),
                                                     -1) == fallback_ids_.end();
  const bool nothing_vanishes = unk_id_.has_value() || all_bytes;
  mark_starts_words_ = mark_starts_words_ && !bytes_ && nothing_vanishes && prefix_.empty() &&
                       suffix_.empty() && character_ids_.contains(0x2581);
}

std::optional<int32_t> BpeModel::token_to_id(std::string_view token) const {
  const auto it = by_text_.find(token);
  if (it == by_text_.end()) return std::nullopt;
  return it->second;
}

void BpeModel::encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    if (const auto it = whole_words_.find(word); it != whole_words_.end()) {
      out.push_back(it->second);
      return;
    }
  }
  if (!mark_starts_words_) {
    encode_piece(word, scratch, out);
    return;
  }
  size_t begin = 0;
  for (size_t at = word.find(kMark); at != std::string_view::npos;) {
    const bool after_mark = at > begin && word.substr(begin, at - begin).ends_with(kMark);
    if (at > begin && !after_mark) {
      encode_piece(word.substr(begin, at - begin), scratch, out);
      begin = at;
    }
    at = word.find(kMark, at + kMark.size());
  }
  if (begin < word.size()) encode_piece(word.substr(begin), scratch, out);
}

void BpeModel::encode_piece(std::string_view piece, BpeScratch& scratch,
                            std::vector<int32_t>& out) const {
  const bool cached = piece.size() <= WordCache::kLongestWord;
  if (cached) {
    if (const auto* ids = scratch.cache.find(piece)) {
      out.insert(out.end(), ids->begin(), ids->end());
      return;
    }
  }
  encode_uncached(piece, scratch);
  out.insert(out.end(), scratch.word_ids.begin(), scratch.word_ids.end());
  if (cached) scratch.cache.insert(piece, scratch.word_ids);
}

void BpeModel::encode_uncached(std::string_view piece, BpeScratch& scratch) const {
  scratch.ids.clear();
  if (bytes_) {
    for (const char c : piece) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
      if (id >= 0) scratch.ids.push_back(id);  // unknown and without unk_token: left out
    }
  } else {
    read_characters(piece, scratch);
  }
  if (scratch.ids.size() <= kShortWord) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
}

void BpeModel::read_characters(std::string_view piece, BpeScratch& scratch) const {
  int pending_unknown = 0;  // unknown characters not yet written (more than one only when fused)
  const auto flush = [&] {
    if (pending_unknown > 0) scratch.ids.push_back(*unk_id_);
    pending_unknown = 0;
  };
  std::string spelled;
  for (size_t at = 0; at < piece.size();) {
    const size_t begin = at;
    const uint32_t code_point = unicode::next_code_point(piece, at);
    std::string_view text = piece.substr(begin, at - begin);
    int32_t id = -1;
    const bool continues = begin > 0 && !prefix_.empty();
    const bool ends = at == piece.size() && !suffix_.empty();
    if (continues || ends) {
      spelled = fmt::format("{}{}{}", continues ? prefix_ : "", text, ends ? suffix_ : "");
      text = spelled;
      id = token_to_id(text).value_or(-1);
    } else if (const auto it = character_ids_.find(code_point); it != character_ids_.end()) {
      id = it->second;
    }
    if (id >= 0) {
      flush();
      scratch.ids.push_back(id);
      continue;
    }
    // The reference writes byte tokens before an unknown character that is still pending.
    if (byte_fallback_ && append_byte_tokens(text, scratch)) continue;
    if (!unk_token_) continue;
    if (!unk_id_) {
      throw_error(ErrorKind::kModel,
                  "tokenizer.json: model.unk_token: \"{}\" is not in the vocabulary, but the text "
                  "has a character that needs it (U+{:04X})",
                  *unk_token_, code_point);
    }
    if (!fuse_unk_) flush();
    ++pending_unknown;
  }
  flush();
}

bool BpeModel::append_byte_tokens(std::string_view text, BpeScratch& scratch) const {
  for (const char c : text) {
    if (fallback_ids_[static_cast<uint8_t>(c)] < 0) return false;
  }
  for (const char c : text) scratch.ids.push_back(fallback_ids_[static_cast<uint8_t>(c)]);
  return true;
}

/// Repeats the merge of lowest rank, leftmost first, by scanning.
void BpeModel::merge_short(BpeScratch& scratch) const {
  auto& ids = scratch.word_ids;
  auto& ranks = scratch.ranks;
  ids = scratch.ids;
  ranks.clear();
  for (size_t i = 0; i + 1 < ids.size(); ++i)
    ranks.push_back(merges_.find(ids[i], ids[i + 1]).rank);
  while (!ranks.empty()) {
    const auto lowest = std::min_element(ranks.begin(), ranks.end());
    if (*lowest == PairTable::kNoRank) break;
    const auto at = static_cast<size_t>(lowest - ranks.begin());
    ids[at] = merges_.find(ids[at], ids[at + 1]).id;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    ranks.erase(lowest);
    if (at > 0) ranks[at - 1] = merges_.find(ids[at - 1], ids[at]).rank;
    if (at < ranks.size()) ranks[at] = merges_.find(ids[at], ids[at + 1]).rank;
  }
}

/// The same with a heap: n log n. An entry of the heap is stale when the pair at its position has
/// another rank by now.
void BpeModel::merge_long(BpeScratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& queue = scratch.queue;
  const auto count = static_cast<int32_t>(scratch.ids.size());
  symbols.clear();
  queue.clear();
  for (int32_t i = 0; i < count; ++i) {
    symbols.push_back({scratch.ids[static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
  }
  const auto symbol = [&](int32_t at) -> BpeScratch::Symbol& {
    return symbols[static_cast<size_t>(at)];
  };
  const auto find = [&](int32_t at) {
    const auto& left = symbol(at);
    if (left.id < 0 || left.next < 0) return PairTable::Merge{};
    return merges_.find(left.id, symbol(left.next).id);
  };
  const auto entry = [](uint32_t rank, int32_t at) {
    return static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(at);
  };
  const auto push = [&](int32_t at) {
    const auto merge = find(at);
    if (merge.rank == PairTable::kNoRank) return;
    queue.push_back(entry(merge.rank, at));
    std::push_heap(queue.begin(), queue.end(), std::greater<>());
  };
  for (int32_t i = 0; i + 1 < count; ++i) {
    const auto merge = find(i);
    if (merge.rank != PairTable::kNoRank) queue.push_back(entry(merge.rank, i));
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    const auto rank = static_cast<uint32_t>(queue.back() >> 32);
    const auto at = static_cast<int32_t>(queue.back() & UINT32_MAX);
    queue.pop_back();
    const auto merge = find(at);
    if (merge.rank != rank) continue;
    auto& left = symbol(at);
    auto& right = symbol(left.next);
    left.id = merge.id;
    left.next = right.next;
    right.id = -1;  // gone
    if (left.next >= 0) symbol(left.next).previous = at;
    if (left.previous >= 0) push(left.previous);
    push(at);
  }
  scratch.word_ids.clear();
  for (const auto& s : symbols) {
    if (s.id >= 0) scratch.word_ids.push_back(s.id);
  }
}

}  // namespace convoke
