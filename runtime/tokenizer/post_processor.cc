#include "runtime/tokenizer/post_processor.h"

#include <utility>

namespace convoke {

PostProcessor::PostProcessor() {
  pieces_.push_back({true, {}});
}

PostProcessor::PostProcessor(const JsonValue& json, int32_t vocabulary) : PostProcessor() {
  add(json, vocabulary);
}

void PostProcessor::add(const JsonValue& json, int32_t vocabulary) {
  const std::string type = json.string("type");
  if (type == "ByteLevel") return;
  if (type == "Sequence") {
    const JsonValue list = json.at("processors");
    list.require_array();
    for (size_t i = 0; i < list.size(); ++i) add(list.at(i), vocabulary);
    return;
  }
  if (found_) json.fail("a second template in a Sequence is not supported");
  found_ = true;
  pieces_.clear();
  if (type == "TemplateProcessing") {
    read_template(json, vocabulary);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    read_pair(json, vocabulary);
  } else {
    json.fail(
        fmt::format("post_processor \"{}\" is not supported (TemplateProcessing, "
                    "RobertaProcessing, BertProcessing, ByteLevel and Sequence are)",
                    type));
  }
}

void PostProcessor::read_template(const JsonValue& json, int32_t vocabulary) {
  const JsonValue list = json.at("single");
  list.require_array();
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonValue piece = list.at(i);
    if (const auto text = piece.find("Sequence")) {
      if (text->string("id") != "A") text->fail("only sequence A can be in \"single\"");
      pieces_.push_back({true, {}});
      continue;
    }
    const auto special = piece.find("SpecialToken");
    if (!special) piece.fail("expected {\"Sequence\": ...} or {\"SpecialToken\": ...}");
    const std::string name = special->string("id");
    const JsonValue ids = json.at("special_tokens").at(name.c_str()).at("ids");
    ids.require_array();
    Piece result{false, {}};
    for (size_t k = 0; k < ids.size(); ++k) {
      result.ids.push_back(static_cast<int32_t>(ids.at(k).integer(0, vocabulary - 1)));
    }
    pieces_.push_back(std::move(result));
  }
}

void PostProcessor::read_pair(const JsonValue& json, int32_t vocabulary) {
  const auto id = [&](const char* key) {
    const JsonValue pair = json.at(key);
    pair.require_array();
    if (pair.size() != 2) pair.fail("expected [token, id]");
    return static_cast<int32_t>(pair.at(size_t{1}).integer(0, vocabulary - 1));
  };
  pieces_.push_back({false, {id("cls")}});
  pieces_.push_back({true, {}});
  pieces_.push_back({false, {id("sep")}});
}

std::vector<int32_t> PostProcessor::apply(std::vector<int32_t> ids, bool add_special_tokens) const {
  if (pieces_.size() == 1 && pieces_[0].is_text) return ids;
  std::vector<int32_t> out;
  out.reserve(ids.size() + pieces_.size());
  for (const auto& piece : pieces_) {
    if (piece.is_text) {
      out.insert(out.end(), ids.begin(), ids.end());
    } else if (add_special_tokens) {
      out.insert(out.end(), piece.ids.begin(), piece.ids.end());
    }
  }
  return out;
}

}  // namespace convoke
