// An engine without a model: tokens are a function of prompt, seed and position alone, whatever
// else is in flight and however they are grouped into outputs. Single-threaded.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "launcher/engine.h"

namespace convoke::testing {

/// Ids 0-255 are bytes, from 256 on `words`, then <s>, </s> (both special).
class FakeTokenizer : public Tokenizer {
 public:
  explicit FakeTokenizer(std::vector<std::string> words = {"hello", " world", " the", "\xC3\xA9",
                                                           "\n\n", "STOP", "\xE2\x9C"});
  int vocabulary() const override { return eos_id() + 1; }
  /// Longest match of words, then bytes; <s> in front if asked.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  std::optional<int32_t> token_to_id(std::string_view token) const override;
  std::string id_to_token(int32_t id) const override;
  bool is_special(int32_t id) const override { return id >= bos_id(); }
  std::optional<int32_t> bos() const override { return bos_id(); }
  std::optional<int32_t> eos() const override { return eos_id(); }
  const std::string& chat_template() const override { return template_; }

  int32_t bos_id() const { return 256 + int32_t(words_.size()); }
  int32_t eos_id() const { return bos_id() + 1; }

 private:
  std::vector<std::string> words_;
  std::string template_;
};

struct FakeEngineOptions {
  int max_model_len = 512;
  int max_num_seqs = 4;
  int longest_output = 5;  ///< tokens per output, 1 to this many, as if drafts were accepted
  uint64_t grouping = 0;   ///< changes how tokens are grouped and which request comes next
  int fail_after = -1;     ///< outputs until receive() throws Error(kPeer)
  int pause_every = 0;     ///< every so many calls receive() has nothing
  std::set<std::string> refused_drafters;
  /// Output tokens for a prompt, instead of random ones; the end token ends them.
  std::function<std::optional<std::vector<int32_t>>(const std::vector<int32_t>& prompt)> script;
  /// Ends a request with kError after its first token.
  std::function<bool(const std::vector<int32_t>& prompt)> breaks;
};

class FakeEngine : public Engine {
 public:
  explicit FakeEngine(FakeEngineOptions options = {});

  const ModelConfig& config() const override { return config_; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  const EngineInfo& info() const override { return info_; }
  void submit(const SubmitRequest& request) override;
  void cancel(uint64_t request) override;
  std::optional<RequestOutput> receive(Clock::time_point deadline) override;
  void use_drafter(const DrafterSpec& spec) override;
  FloorReport measure_floor(std::span<const int> row_counts) override;
  void shutdown() override { ended_ = true; }

  int most_in_flight() const { return most_in_flight_; }
  int submitted() const { return submitted_; }
  int cancelled() const { return cancelled_; }
  bool ended() const { return ended_; }
  const std::vector<std::string>& drafters_used() const { return drafters_used_; }
  /// The drafter's outputs differ from the others' (a defect that bench must find).
  std::string corrupt_drafter;

 private:
  struct Active {
    SubmitRequest request;
    std::vector<int32_t> planned;  ///< all output tokens
    FinishReason finish = FinishReason::kLength;
    int32_t stop_token = -1;
    size_t sent = 0;
    bool cancelled = false;
    RequestStats stats;
  };

  void plan(Active& active) const;
  RequestOutput next_output(Active& active);
  uint64_t random();

  FakeEngineOptions options_;
  FakeTokenizer tokenizer_;
  ModelConfig config_;
  EngineInfo info_;
  std::map<uint64_t, Active> active_;
  std::string drafter_ = "none";
  std::vector<std::string> drafters_used_;
  uint64_t random_state_;
  int outputs_ = 0, calls_ = 0, submitted_ = 0, cancelled_ = 0, most_in_flight_ = 0;
  bool ended_ = false;
};

}  // namespace convoke::testing
