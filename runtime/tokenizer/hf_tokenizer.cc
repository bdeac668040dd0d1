// Tokenizer made of the parts of a tokenizer.json:
//   added tokens -> normaliser -> added tokens -> pre-tokeniser -> model -> post-processor.
#include <algorithm>
#include <mutex>
#include <utility>

#include "runtime/tokenizer/added_tokens.h"
#include "runtime/tokenizer/bpe_model.h"
#include "runtime/tokenizer/decoder.h"
#include "runtime/tokenizer/normalizer.h"
#include "runtime/tokenizer/post_processor.h"
#include "runtime/tokenizer/pre_tokenizer.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/tokenizer_config.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

/// Longest text; positions inside a word are 32 bits wide.
constexpr size_t kLongestText = size_t{1} << 29;
constexpr size_t kKeptSymbols = size_t{1} << 20;

struct Scratch {
  RegexScratch regex;
  BpeScratch bpe;
};

/// Working memory for as many threads as encode at the same time.
class ScratchPool {
 public:
  std::unique_ptr<Scratch> take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        auto scratch = std::move(free_.back());
        free_.pop_back();
        return scratch;
      }
    }
    return std::make_unique<Scratch>();
  }

  void give_back(std::unique_ptr<Scratch> scratch) {
    if (scratch->bpe.symbols.capacity() > kKeptSymbols) scratch->bpe = BpeScratch{};
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

class ScratchLease {
 public:
  explicit ScratchLease(ScratchPool& pool) : pool_(pool), scratch_(pool.take()) {}
  ~ScratchLease() { pool_.give_back(std::move(scratch_)); }
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;
  Scratch* operator->() { return scratch_.get(); }

 private:
  ScratchPool& pool_;
  std::unique_ptr<Scratch> scratch_;
};

class HfTokenizer : public Tokenizer {
 public:
  HfTokenizer(const JsonValue& json, TokenizerConfig config);

  int vocabulary() const override { return static_cast<int>(text_.size()); }
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  std::unique_ptr<TokenStream> stream(bool skip_special_tokens) const override;

  std::optional<int32_t> token_to_id(std::string_view token) const override {
    return added_.token_to_id(token);
  }
  std::string id_to_token(int32_t id) const override;
  bool is_special(int32_t id) const override {
    return known(id) && special_[static_cast<size_t>(id)];
  }
  std::optional<int32_t> bos() const override { return bos_; }
  std::optional<int32_t> eos() const override { return eos_; }
  const std::string& chat_template() const override { return chat_template_; }

 private:
  class Stream;

  void add_tokens(const JsonValue& json, const TokenizerConfig& config);
  void list_tokens();
  void choose_post_processor(const JsonValue& json, const TokenizerConfig& config);
  bool known(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < text_.size() && known_[static_cast<size_t>(id)];
  }
  void push(DecodeChain& chain, int32_t id, bool skip_special_tokens) const {
    if (!known(id)) return;  // the reference passes over ids it does not know
    if (skip_special_tokens && special_[static_cast<size_t>(id)]) return;
    chain.push(text_[static_cast<size_t>(id)]);
  }

  PreTokenizer pre_tokenizer_;
  BpeModel model_;
  std::unique_ptr<Normalizer> normalizer_;
  AddedTokens added_;
  Decoder decoder_;
  PostProcessor post_processor_;
  std::vector<std::string> text_;  // by id: what decoding starts from
  std::vector<bool> known_, special_;
  std::optional<int32_t> bos_, eos_;
  std::string chat_template_;
  mutable ScratchPool scratch_;
};

PreTokenizer make_pre_tokenizer(const JsonValue& json) {
  const auto section = json.find("pre_tokenizer");
  PreTokenizer result = section ? PreTokenizer(*section) : PreTokenizer();
  if (!BpeModel::can_encode_bytes(json.at("model"))) result.map_bytes_to_characters();
  return result;
}

std::unique_ptr<Normalizer> make_normalizer_section(const JsonValue& json) {
  const auto section = json.find("normalizer");
  return section ? make_normalizer(*section) : nullptr;
}

Decoder make_decoder(const JsonValue& json) {
  const auto section = json.find("decoder");
  return section ? Decoder(*section) : Decoder();
}

HfTokenizer::HfTokenizer(const JsonValue& json, TokenizerConfig config)
    : pre_tokenizer_(make_pre_tokenizer(json)),
      model_(json.at("model"), pre_tokenizer_.ends_in_bytes()),
      normalizer_(make_normalizer_section(json)),
      added_(model_, normalizer_.get()),
      decoder_(make_decoder(json)),
      chat_template_(std::move(config.chat_template)) {
  if (const auto version = json.find("version"); version && version->string() != "1.0") {
    version->fail(fmt::format("\"{}\" is not supported (1.0 is)", version->string()));
  }
  add_tokens(json, config);
  list_tokens();
  choose_post_processor(json, config);
  if (config.clean_up) {
    for (const auto& [from, to] :
         std::initializer_list<std::pair<const char*, const char*>>{{" .", "."},
                                                                    {" ?", "?"},
                                                                    {" !", "!"},
                                                                    {" ,", ","},
                                                                    {" ' ", "'"},
                                                                    {" n't", "n't"},
                                                                    {" 'm", "'m"},
                                                                    {" 's", "'s"},
                                                                    {" 've", "'ve"},
                                                                    {" 're", "'re"}}) {
      decoder_.add_replacement(from, to);
    }
  }
}

void HfTokenizer::add_tokens(const JsonValue& json, const TokenizerConfig& config) {
  std::vector<AddedTokens::Request> requests;
  if (const auto list = json.find("added_tokens")) {
    list->require_array();
    for (size_t i = 0; i < list->size(); ++i) {
      const JsonValue token = list->at(i);
      requests.push_back(
          {read_added_token(token), token.integer("id", 0, INT32_MAX), token.where(), true});
    }
  }
  added_.add(requests);

  requests = config.added_tokens;
  for (const auto& token : config.special_tokens) {
    const bool listed =
        added_.has(token.content) ||
        std::any_of(requests.begin(), requests.end(), [&](const AddedTokens::Request& request) {
          return request.token.content == token.content;
        });
    if (!listed) requests.push_back({token, std::nullopt, "tokenizer_config.json", false});
  }
  added_.add(requests);
  added_.finish(json.where());
}

void HfTokenizer::list_tokens() {
  size_t size = 0;
  for (const auto& [text, id] : model_.tokens()) size = std::max(size, static_cast<size_t>(id) + 1);
  if (!added_.tokens().empty()) {
    size = std::max(size, static_cast<size_t>(added_.tokens().rbegin()->first) + 1);
  }
  text_.resize(size);
  known_.resize(size);
  for (const auto& [text, id] : model_.tokens()) {
    text_[static_cast<size_t>(id)] = text;
    known_[static_cast<size_t>(id)] = true;
  }
  for (const auto& [id, token] : added_.tokens()) {
    text_[static_cast<size_t>(id)] = added_.decode_text(id);
    known_[static_cast<size_t>(id)] = true;
  }
  // The reference tells special tokens by their text.
  special_.resize(size);
  for (size_t id = 0; id < size; ++id) special_[id] = known_[id] && added_.is_special(text_[id]);
}

void HfTokenizer::choose_post_processor(const JsonValue& json, const TokenizerConfig& config) {
  if (config.bos_token) bos_ = token_to_id(*config.bos_token);
  if (config.eos_token) eos_ = token_to_id(*config.eos_token);
  // add_bos_token and add_eos_token of tokenizer_config.json count for nothing where there is a
  // tokenizer.json: its post_processor decides.
  const auto section = json.find("post_processor");
  if (section) post_processor_ = PostProcessor(*section, vocabulary());
}

std::vector<int32_t> HfTokenizer::encode(std::string_view text,
                                         const EncodeOptions& options) const {
  if (text.size() > kLongestText) {
    throw_error(ErrorKind::kUsage, "a text of {} bytes is longer than {}", text.size(),
                kLongestText);
  }
  std::string repaired;
  if (!unicode::is_valid_utf8(text)) {
    repaired = unicode::replace_invalid(text);
    text = repaired;
  }
  ScratchLease scratch(scratch_);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  const auto push_id = [&](int32_t id) { ids.push_back(id); };
  const auto encode_word = [&](std::string_view word) { model_.encode(word, scratch->bpe, ids); };
  const auto encode_normalized = [&](std::string_view piece, bool at_start) {
    pre_tokenizer_.split(piece, at_start, scratch->regex, encode_word);
  };
  const bool skip_special = !options.parse_special_tokens;
  const auto encode_original = [&](std::string_view piece, bool at_start) {
    NormalizedText normalized{{}, at_start};
    if (normalizer_) {
      normalized.text = piece;
      normalizer_->apply(normalized, scratch->regex);
      piece = normalized.text;
    }
    added_.split(
        piece, true, skip_special,
        [&](std::string_view part, bool first) {
          encode_normalized(part, first && normalized.at_start);
        },
        push_id);
  };
  added_.split(text, false, skip_special, encode_original, push_id);
  return post_processor_.apply(std::move(ids), options.add_special_tokens);
}

std::string HfTokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  DecodeChain chain = decoder_.start();
  for (const int32_t id : ids) push(chain, id, skip_special_tokens);
  chain.finish();
  return std::move(chain.out());
}

class HfTokenizer::Stream : public TokenStream {
 public:
  Stream(const HfTokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_(skip_special_tokens), chain_(tokenizer.decoder_.start()) {}

  std::string push(int32_t id) override {
    tokenizer_.push(chain_, id, skip_);
    return std::exchange(chain_.out(), {});
  }
  std::string finish() override {
    if (!finished_) chain_.finish();
    finished_ = true;
    return std::exchange(chain_.out(), {});
  }

 private:
  const HfTokenizer& tokenizer_;
  bool skip_;
  bool finished_ = false;
  DecodeChain chain_;
};

std::unique_ptr<TokenStream> HfTokenizer::stream(bool skip_special_tokens) const {
  return std::make_unique<Stream>(*this, skip_special_tokens);
}

std::string HfTokenizer::id_to_token(int32_t id) const {
  if (const AddedToken* token = added_.find(id)) return token->content;
  return known(id) ? text_[static_cast<size_t>(id)] : "";
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::load(const std::filesystem::path& directory) {
  const auto path = directory / "tokenizer.json";
  if (!std::filesystem::exists(path)) {
    throw_error(ErrorKind::kModel,
                "{}: there is no tokenizer.json (a tokenizer.model must be converted first, for "
                "example by saving the model's tokenizer with transformers)",
                directory.string());
  }
  const nlohmann::json json = read_json_file(path);
  const JsonValue root(json, path.string());
  root.require_object();
  return std::make_unique<HfTokenizer>(root, read_tokenizer_config(directory));
}

std::unique_ptr<Tokenizer> Tokenizer::parse(std::string_view tokenizer_json,
                                            std::string_view tokenizer_config,
                                            const std::string& name) {
  const std::string file = name + "/tokenizer.json", config_file = name + "/tokenizer_config.json";
  const nlohmann::json json = parse_json(tokenizer_json, file);
  const nlohmann::json config = parse_json(tokenizer_config, config_file);
  const JsonValue root(json, file);
  root.require_object();
  return std::make_unique<HfTokenizer>(root, read_tokenizer_config(JsonValue(config, config_file)));
}

}  // namespace convoke
