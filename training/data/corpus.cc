#include "training/data/corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <exception>
#include <thread>
#include <utility>

#include "kernels/check.h"
#include "launcher/replica.h"
#include "training/data/mix.h"

namespace convoke {

namespace {

constexpr size_t kBatchBytes = size_t{8} << 20;
/// No text worth training on has longer tokens on average.
constexpr size_t kBytesPerToken = 64;

/// Sequences [begin, end) came from document `number`.
struct DocumentRange {
  int64_t number = 0;
  int64_t begin = 0, end = 0;

  int64_t count() const { return end - begin; }
};

struct Encoded {
  TrainingDocument document;
  std::exception_ptr fault;
};

void encode(Encoded& encoded, const Tokenizer& tokenizer) {
  TrainingDocument& document = encoded.document;
  if (document.kind == TrainingDocument::Kind::kTokens) return;
  try {
    // A template writes the special tokens itself.
    const bool add = document.kind == TrainingDocument::Kind::kText;
    document.tokens = tokenizer.encode(document.text, {.add_special_tokens = add});
    document.text = {};
  } catch (...) {
    encoded.fault = std::current_exception();
  }
}

/// Each thread takes the next document; results stay where they are.
void encode_all(std::vector<Encoded>& batch, const Tokenizer& tokenizer, int threads) {
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i; (i = next.fetch_add(1)) < batch.size();) encode(batch[i], tokenizer);
  };
  std::vector<std::jthread> team;
  const size_t helpers = std::min(size_t(threads), batch.size());
  for (size_t t = 1; t < helpers; ++t) team.emplace_back(work);
  work();
}

void check(const CorpusOptions& options) {
  const auto refuse = [](const char* flag, const auto& value, const std::string& range) {
    throw_error(ErrorKind::kUsage, "{}: is {}, should be {}", flag, value, range);
  };
  if (options.sequence_length < 2) {
    refuse("--sequence-length", options.sequence_length, "2 or more");
  }
  if (options.min_length < 2 || options.min_length > options.sequence_length) {
    refuse("min_length", options.min_length,
           fmt::format("2 to the sequence length of {}", options.sequence_length));
  }
  if (!(options.held_out_share >= 0 && options.held_out_share <= 0.5)) {
    refuse("--held-out", options.held_out_share, "0 to 0.5");
  }
  if (options.max_tokens != 0 && options.max_tokens < options.min_length) {
    refuse(
        "--max-data-tokens", options.max_tokens,
        fmt::format("0 (no limit), or at least the {} tokens of one sequence", options.min_length));
  }
}

/// All documents in order, as windows.
class Windows {
 public:
  Windows(const CorpusOptions& options, const Tokenizer& tokenizer, int vocabulary,
          const RenderChat& render_chat)
      : options_(options),
        tokenizer_(tokenizer),
        vocabulary_(vocabulary),
        files_({options.files, vocabulary, render_chat}),
        used_(options.files.size(), false) {}

  void read() {
    const int threads = options_.threads > 0 ? options_.threads : usable_cpus();
    while (!limited) {
      std::vector<Encoded> batch = next_batch();
      if (batch.empty()) break;
      encode_all(batch, tokenizer_, threads);
      for (size_t i = 0; i < batch.size() && !limited; ++i) {
        if (batch[i].fault) std::rethrow_exception(batch[i].fault);
        add(batch[i].document);
      }
    }
    // The file in which the limit was reached has been used.
    const int complete = limited ? last_file_ : int(used_.size());
    for (int f = 0; f < complete; ++f) {
      if (used_[size_t(f)]) continue;
      throw_error(ErrorKind::kUsage, "{}: has no document of at least {} tokens",
                  options_.files[size_t(f)].string(), options_.min_length);
    }
  }

  TokenCorpus corpus;
  std::vector<DocumentRange> documents;
  int64_t short_documents = 0;
  bool limited = false;

 private:
  /// Documents of some megabytes in all, at least one unless there is no more.
  std::vector<Encoded> next_batch() {
    size_t text_limit = SIZE_MAX;
    if (options_.max_tokens > 0) {
      const auto wanted = size_t(options_.max_tokens) - corpus.tokens.size();
      text_limit = std::min(wanted, SIZE_MAX / kBytesPerToken) * kBytesPerToken;
    }
    std::vector<Encoded> batch;
    for (size_t bytes = 0; bytes < std::min(kBatchBytes, text_limit);) {
      auto document = files_.next(text_limit);
      if (!document) break;
      // A token list counts as the text it stands for.
      bytes += document->text.size() + 4 * document->tokens.size() + 1;
      batch.push_back({std::move(*document), nullptr});
    }
    return batch;
  }

  void check_tokens(const TrainingDocument& document) const {
    const auto highest = std::ranges::max_element(document.tokens);
    if (highest == document.tokens.end() || *highest < vocabulary_) return;
    throw_error(ErrorKind::kModel,
                "{}: the tokenizer gives token {} ('{}'), and the model has a vocabulary of {}",
                options_.files[size_t(document.file)].string(), *highest,
                tokenizer_.id_to_token(*highest), vocabulary_);
  }

  void add(const TrainingDocument& document) {
    check_tokens(document);
    const DocumentRange range{number_++, corpus.size(), 0};
    add_windows(document);
    last_file_ = document.file;
    if (corpus.size() == range.begin) {
      short_documents += limited ? 0 : 1;
      return;
    }
    used_[size_t(document.file)] = true;
    documents.push_back({range.number, range.begin, corpus.size()});
  }

  void add_windows(const TrainingDocument& document) {
    std::span<const int32_t> rest = document.tokens;
    const auto bos = tokenizer_.bos();
    const bool prefixed = document.kind != TrainingDocument::Kind::kTokens && bos &&
                          !rest.empty() && rest.front() == *bos;
    if (prefixed) rest = rest.subspan(1);
    const size_t room = size_t(options_.sequence_length) - (prefixed ? 1 : 0);
    while (!rest.empty()) {
      const size_t taken = std::min(room, rest.size());
      add_window(prefixed ? bos : std::nullopt, rest.first(taken));
      if (limited) return;
      rest = rest.subspan(taken);
    }
  }

  void add_window(std::optional<int32_t> prefix, std::span<const int32_t> body) {
    window_.clear();
    if (prefix) window_.push_back(*prefix);
    window_.insert(window_.end(), body.begin(), body.end());
    if (window_.size() < size_t(options_.min_length)) return;
    if (options_.max_tokens > 0) {
      const auto left = size_t(options_.max_tokens) - corpus.tokens.size();
      limited = window_.size() >= left;
      if (limited) window_.resize(left);
      if (window_.size() < size_t(options_.min_length)) return;
    }
    corpus.add(window_);
  }

  const CorpusOptions& options_;
  const Tokenizer& tokenizer_;
  int vocabulary_;
  TextFiles files_;
  std::vector<bool> used_;  ///< files with a sequence
  int last_file_ = 0;
  int64_t number_ = 0;  ///< of the next document
  std::vector<int32_t> window_;
};

uint64_t score(uint64_t seed, const DocumentRange& document) {
  return mix64(mix64(seed) ^ uint64_t(document.number));
}

/// Which of `documents` (two or more) are held out.
std::vector<bool> choose_documents(const std::vector<DocumentRange>& documents, int64_t sequences,
                                   const CorpusOptions& options) {
  std::vector<bool> held(documents.size(), false);
  if (options.held_out_share == 0) return held;
  size_t count = 0, lowest = documents.size(), highest = 0;
  const auto score_of = [&](size_t d) { return score(options.seed, documents[d]); };
  for (size_t d = 0; d < documents.size(); ++d) {
    if (2 * documents[d].count() > sequences) continue;
    held[d] = double(score_of(d) >> 11) * 0x1p-53 < options.held_out_share;
    count += held[d] ? 1 : 0;
    if (lowest == documents.size() || score_of(d) < score_of(lowest)) lowest = d;
    if (score_of(d) > score_of(highest)) highest = d;
  }
  // Of two documents, one at least has no more than half.
  if (count == 0) held[lowest] = true;
  if (count == documents.size()) held[highest] = false;
  return held;
}

/// Which sequences are held out.
std::vector<bool> choose_sequences(const Windows& windows, const CorpusOptions& options,
                                   int64_t& held_documents) {
  const int64_t sequences = windows.corpus.size();
  std::vector<bool> held(size_t(sequences), false);
  if (windows.documents.size() == 1) {
    if (sequences == 1 || options.held_out_share == 0) return held;
    const auto share = std::llround(options.held_out_share * double(sequences));
    const auto count = std::max<int64_t>(1, std::min<int64_t>(share, sequences - 1));
    std::fill(held.end() - count, held.end(), true);
    return held;
  }
  const auto documents = choose_documents(windows.documents, sequences, options);
  for (size_t d = 0; d < documents.size(); ++d) {
    const DocumentRange& range = windows.documents[d];
    held_documents += documents[d] ? 1 : 0;
    std::fill(held.begin() + range.begin, held.begin() + range.end, bool(documents[d]));
  }
  return held;
}

/// Takes the sequences marked in `held` out of `corpus`, which closes up in place.
TokenCorpus extract(TokenCorpus& corpus, const std::vector<bool>& held) {
  TokenCorpus extracted;
  int64_t kept = 0, end = 0;
  for (int64_t i = 0, count = corpus.size(); i < count; ++i) {
    // What lies at and behind sequence i has not been moved yet.
    const int64_t begin = corpus.begins[size_t(i)];
    const int64_t next =
        i + 1 < count ? corpus.begins[size_t(i) + 1] : int64_t(corpus.tokens.size());
    const auto tokens = std::span(corpus.tokens).subspan(size_t(begin), size_t(next - begin));
    if (held[size_t(i)]) {
      extracted.add(tokens);
      continue;
    }
    std::copy(tokens.begin(), tokens.end(), corpus.tokens.begin() + end);
    corpus.begins[size_t(kept++)] = end;
    end += int64_t(tokens.size());
  }
  corpus.begins.resize(size_t(kept));
  corpus.tokens.resize(size_t(end));
  return extracted;
}

}  // namespace

std::span<const int32_t> TokenCorpus::sequence(int64_t i) const {
  CONVOKE_CHECK(i >= 0 && i < size());
  const int64_t begin = begins[size_t(i)];
  const int64_t end = i + 1 < size() ? begins[size_t(i) + 1] : int64_t(tokens.size());
  return std::span(tokens).subspan(size_t(begin), size_t(end - begin));
}

void TokenCorpus::add(std::span<const int32_t> sequence) {
  begins.push_back(int64_t(tokens.size()));
  tokens.insert(tokens.end(), sequence.begin(), sequence.end());
}

uint64_t TokenCorpus::digest() const {
  uint64_t hash = mix64(uint64_t(size()));
  for (int64_t i = 0; i < size(); ++i) {
    const auto tokens_of = sequence(i);
    hash = mix64(hash ^ tokens_of.size());
    for (const int32_t token : tokens_of) hash = mix64(hash ^ uint32_t(token));
  }
  return hash;
}

uint64_t CorpusSplit::digest() const {
  return mix64(train.digest() ^ mix64(held_out.digest()));
}

CorpusSplit load_corpus(const CorpusOptions& options, const Tokenizer& tokenizer, int vocabulary,
                        const RenderChat& render_chat) {
  check(options);
  Windows windows(options, tokenizer, vocabulary, render_chat);
  windows.read();
  CorpusSplit split;
  split.documents = int64_t(windows.documents.size());
  split.short_documents = windows.short_documents;
  split.limited = windows.limited;
  const auto held = choose_sequences(windows, options, split.held_out_documents);
  split.train = std::move(windows.corpus);
  split.held_out = extract(split.train, held);
  return split;
}

}  // namespace convoke
