// Training text as token sequences, divided into what is learnt from and what is only measured on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "runtime/tokenizer/tokenizer.h"
#include "training/data/text_files.h"

namespace convoke {

/// Sequences of different lengths, one behind the other.
struct TokenCorpus {
  std::vector<int32_t> tokens;
  std::vector<int64_t> begins;  ///< where sequence i begins in `tokens`; it ends where i + 1 begins

  int64_t size() const { return int64_t(begins.size()); }
  bool empty() const { return begins.empty(); }
  std::span<const int32_t> sequence(int64_t i) const;
  void add(std::span<const int32_t> sequence);
  /// A fingerprint of all sequences, their order and their borders; the same on every machine.
  uint64_t digest() const;
};

struct CorpusOptions {
  std::vector<std::filesystem::path> files;
  int sequence_length = 512;     ///< tokens of a sequence at most, >= 2
  int min_length = 8;            ///< shorter sequences are left out; 2 to sequence_length
  double held_out_share = 0.02;  ///< of the documents, 0 to 0.5; 0 holds nothing out
  int64_t max_tokens = 0;        ///< in all sequences together; 0 = no limit
  uint64_t seed = 0;             ///< chooses what is held out, nothing else
  int threads = 0;               ///< for encoding; 0 = all cores. No influence on the result
};

struct CorpusSplit {
  TokenCorpus train, held_out;
  int64_t documents = 0;           ///< with at least one sequence
  int64_t held_out_documents = 0;  ///< of those; 0 if windows of the only one are held out
  int64_t short_documents = 0;     ///< without a sequence, because of min_length
  bool limited = false;            ///< max_tokens ended reading

  /// Of both parts: what a resumed training compares before it goes on.
  uint64_t digest() const;
};

/// Reads the files and cuts their documents into windows of at most `sequence_length` tokens.
///
/// Text is encoded like a prompt, the words of a chat template with the special tokens they spell.
/// If a document then begins with the tokenizer's BOS, each of its windows does, since that is how
/// prompts begin. `tokens` are cut as they are.
///
/// A document is held out as a whole, by a hash of seed and its number; at least one is if there
/// are two, and never one with more than half of all sequences. Of an only document, the last
/// windows are held out if it has two or more.
///
/// Reading ends with the document that reaches `max_tokens` (its last window is cut there); what
/// lies far behind that place is not looked at. Of a file that is one text, 64 bytes are read per
/// token still wanted. Memory: the sequences, and some megabytes or the longest document.
///
/// Throws Error(kUsage) for a bad option and for a file without any sequence, and whatever
/// TextFiles throws. Error(kModel) if the tokenizer gives an id outside `vocabulary`, which is the
/// model's.
CorpusSplit load_corpus(const CorpusOptions& options, const Tokenizer& tokenizer, int vocabulary,
                        const RenderChat& render_chat);

}  // namespace convoke
