#include "launcher/batch_lines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launcher/batch_output.h"
#include "tests/support/fake_engine.h"

namespace convoke {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string line(const std::string& body, const std::string& id = "r1") {
  return R"({"custom_id": ")" + id + R"(", "method": "POST", "url": "/v1/completions", "body": )" +
         body + "}";
}

BatchRequest parse(const std::string& body, const BatchDefaults& defaults = {}) {
  auto parsed = parse_batch_line(line(body), defaults);
  if (const auto* error = std::get_if<LineError>(&parsed)) {
    ADD_FAILURE() << error->message;
    return {};
  }
  return std::get<BatchRequest>(parsed);
}

LineError refuse(const std::string& text) {
  auto parsed = parse_batch_line(text, {});
  if (const auto* error = std::get_if<LineError>(&parsed)) return *error;
  ADD_FAILURE() << "accepted: " << text;
  return {};
}

std::string refuse_body(const std::string& body) {
  const LineError error = refuse(line(body));
  EXPECT_EQ(error.custom_id, "r1");
  EXPECT_EQ(error.code, "invalid_request");
  return error.message;
}

TEST(BatchLine, ReadsEveryField) {
  const BatchRequest request = parse(R"({"model": "m", "prompt": "hi", "n": 2, "best_of": 2,
    "echo": true, "suffix": "", "stop": ["a", "b"], "max_tokens": 7, "min_tokens": 2,
    "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "presence_penalty": 0.1,
    "frequency_penalty": -0.2, "repetition_penalty": 1.1, "logit_bias": {"9": 1, "3": -100},
    "ignore_eos": true, "stop_token_ids": [5], "seed": 99, "stream": true, "user": "u",
    "add_special_tokens": false})");
  EXPECT_EQ(request.custom_id, "r1");
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(std::get<std::string>(request.prompts.at(0)), "hi");
  EXPECT_EQ(request.n, 2);
  EXPECT_TRUE(request.echo);
  EXPECT_FALSE(request.add_special_tokens);
  EXPECT_THAT(request.stop, ElementsAre("a", "b"));
  const SamplingParams& sampling = request.sampling;
  EXPECT_EQ(sampling.max_tokens, 7);
  EXPECT_EQ(sampling.min_tokens, 2);
  EXPECT_EQ(sampling.temperature, 0.5f);
  EXPECT_EQ(sampling.top_p, 0.9f);
  EXPECT_EQ(sampling.top_k, 40);
  EXPECT_EQ(sampling.min_p, 0.05f);
  EXPECT_EQ(sampling.presence_penalty, 0.1f);
  EXPECT_EQ(sampling.frequency_penalty, -0.2f);
  EXPECT_EQ(sampling.repetition_penalty, 1.1f);
  EXPECT_THAT(sampling.logit_bias, ElementsAre(std::pair(3, -100.0f), std::pair(9, 1.0f)));
  EXPECT_TRUE(sampling.ignore_eos);
  EXPECT_THAT(sampling.stop_tokens, ElementsAre(5));
  EXPECT_EQ(sampling.seed, 99u);
  EXPECT_EQ(sampling.logprobs, -1);
  EXPECT_TRUE(request.unknown_fields.empty());
}

TEST(BatchLine, PromptsOfEveryForm) {
  EXPECT_EQ(parse(R"({"prompt": [1, 2]})").prompts.size(), 1u);
  EXPECT_THAT(std::get<1>(parse(R"({"prompt": [1, 2]})").prompts[0]), ElementsAre(1, 2));
  EXPECT_EQ(parse(R"({"prompt": ["a"]})").prompts.size(), 1u);
  EXPECT_EQ(parse(R"({"prompt": ["a", "b"], "n": 3})").choices(), 6);
  EXPECT_EQ(parse(R"({"prompt": [[1], [2, 3]]})").prompts.size(), 2u);
}

TEST(BatchLine, NullIsAbsent) {
  BatchDefaults defaults;
  defaults.sampling.temperature = 0.25f;
  defaults.stop = {"x"};
  const BatchRequest request = parse(
      R"({"prompt": "a", "temperature": null, "stop": null, "n": null, "other": null})", defaults);
  EXPECT_EQ(request.sampling.temperature, 0.25f);
  EXPECT_THAT(request.stop, ElementsAre("x"));
  EXPECT_TRUE(request.unknown_fields.empty());
}

TEST(BatchLine, DefaultsAreOpenAIs) {
  const SamplingParams sampling = parse(R"({"prompt": "a"})").sampling;
  EXPECT_EQ(sampling.temperature, 1.0f);
  EXPECT_EQ(sampling.max_tokens, 16);
}

TEST(BatchLine, OverridesGoOverTheBody) {
  BatchDefaults defaults;
  defaults.overrides.temperature = 0.0f;
  defaults.overrides.stop = {"end"};
  const BatchRequest request =
      parse(R"({"prompt": "a", "temperature": 1, "top_p": 0.5, "stop": "x"})", defaults);
  EXPECT_EQ(request.sampling.temperature, 0.0f);
  EXPECT_EQ(request.sampling.top_p, 0.5f);
  EXPECT_THAT(request.stop, ElementsAre("end"));
}

TEST(BatchLine, SeedsComeFromTheRequestOrItsName) {
  BatchDefaults defaults;
  defaults.job_seed = 5;
  const uint64_t named = parse(R"({"prompt": "a"})", defaults).sampling.seed;
  EXPECT_EQ(named, derive_seed(5, "r1"));
  EXPECT_EQ(parse(R"({"prompt": "a", "seed": -1})").sampling.seed, ~uint64_t(0));
  EXPECT_EQ(parse(R"({"prompt": "a", "seed": 18446744073709551615})").sampling.seed, ~uint64_t(0));
  EXPECT_EQ(choice_seed(9, 0), 9u);
  EXPECT_NE(choice_seed(9, 1), choice_seed(9, 2));
}

TEST(BatchLine, UnknownFieldsAreNamed) {
  EXPECT_THAT(parse(R"({"prompt": "a", "guided_json": {}, "zeta": 1})").unknown_fields,
              ::testing::UnorderedElementsAre("guided_json", "zeta"));
}

TEST(BatchLine, RefusesBrokenLines) {
  for (const char* text : {"", "{", "[]x", "nul", "\xFF\xFE", "{\"custom_id\": \"\x80\"}", "\"a",
                           "{\"a\": 1e999}", "{\"custom_id\": \"r\",}"}) {
    const LineError error = refuse(text);
    EXPECT_EQ(error.code, "invalid_json") << text;
    EXPECT_EQ(error.custom_id, std::nullopt);
    EXPECT_THAT(error.message, HasSubstr("not JSON"));
    EXPECT_TRUE(std::ranges::all_of(error.message, [](char c) { return c >= 32; }));
  }
  EXPECT_EQ(refuse(std::string(100000, '[')).code, "invalid_json");
  EXPECT_EQ(refuse(std::string(100000, '[') + std::string(100000, ']')).code, "invalid_request");
}

TEST(BatchLine, RefusesLinesWithoutAName) {
  for (const char* text : {"{}", "[]", "1", "null", R"({"custom_id": 5})", R"({"custom_id": ""})",
                           R"({"custom_id": null})"}) {
    const LineError error = refuse(text);
    EXPECT_EQ(error.code, "invalid_request") << text;
    EXPECT_EQ(error.custom_id, std::nullopt) << text;
  }
}

TEST(BatchLine, RefusesOtherEndpoints) {
  const auto message = [](const std::string& rest) {
    return refuse(R"({"custom_id": "c", "body": {"prompt": "a"})" + rest + "}").message;
  };
  EXPECT_THAT(message(""), HasSubstr("url: is missing"));
  EXPECT_THAT(message(R"(, "url": "/v1/embeddings")"), HasSubstr("/v1/embeddings"));
  EXPECT_THAT(message(R"(, "url": "/v1/chat/completions")"), HasSubstr("use /v1/completions"));
  EXPECT_THAT(message(R"(, "url": "/v1/completions", "method": "GET")"), HasSubstr("method"));
  EXPECT_EQ(refuse(R"({"custom_id": "c", "url": "/v1/completions"})").message, "body: is missing");
}

TEST(BatchLine, RefusesWrongValuesByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "prompt: is missing"},
      {R"({"prompt": null})", "prompt: is missing"},
      {R"({"prompt": ""})", "prompt: is empty"},
      {R"({"prompt": []})", "prompt: is empty"},
      {R"({"prompt": [[]]})", "prompt: is empty"},
      {R"({"prompt": ["a", ""]})", "prompt: is empty"},
      {R"({"prompt": 5})", "prompt: 5 is neither"},
      {R"({"prompt": {}})", "prompt: an object is neither"},
      {R"({"prompt": [1, "a"]})", "prompt: \"a\" is not a whole number"},
      {R"({"prompt": [-1]})", "prompt: -1 is not"},
      {R"({"prompt": [1.5]})", "prompt: 1.5 is not"},
      {R"({"prompt": [4294967296]})", "prompt: 4294967296 is not"},
      {R"({"prompt": "a", "max_tokens": 0})", "max_tokens: 0 is not"},
      {R"({"prompt": "a", "max_tokens": 1e3})", "max_tokens: 1000.0 is not"},
      {R"({"prompt": "a", "max_tokens": 99999999999})", "max_tokens: 99999999999 is not"},
      {R"({"prompt": "a", "max_tokens": "5"})", "max_tokens: \"5\" is not"},
      {R"({"prompt": "a", "temperature": "hot"})", "temperature: \"hot\" is not a number"},
      {R"({"prompt": "a", "temperature": 1e300})", "temperature: 1e+300 is out of range"},
      {R"({"prompt": "a", "n": 0})", "n: 0 is not"},
      {R"({"prompt": "a", "n": 2, "best_of": 3})", "best_of"},
      {R"({"prompt": "a", "echo": 1})", "echo: 1 is neither"},
      {R"({"prompt": "a", "echo": true, "logprobs": 1})", "echo: cannot"},
      {R"({"prompt": "a", "suffix": "x"})", "suffix: is not supported"},
      {R"({"prompt": "a", "stop": ""})", "stop: an empty"},
      {R"({"prompt": "a", "stop": [1]})", "stop: 1 is neither"},
      {R"({"prompt": "a", "logit_bias": []})", "logit_bias: a list is not"},
      {R"({"prompt": "a", "logit_bias": {"x": 1}})", "logit_bias: \"x\" is not a token"},
      {R"({"prompt": "a", "logit_bias": {"1": true}})", "logit_bias: true is not a number"},
      {R"({"prompt": "a", "logit_bias": {"1": 1, "01": 2}})", "token 1 is given twice"},
      {R"({"prompt": "a", "seed": 1.5})", "seed: 1.5 is not"},
      {R"({"prompt": "a", "model": 3})", "model: 3 is not"},
      {R"({"prompt": "a", "logprobs": true})", "logprobs: true is not"},
      {R"({"prompt": "a", "stop_token_ids": 3})", "stop_token_ids: 3 is not a list"},
      {R"(7)", "body: 7 is not an object"},
  };
  for (const auto& [body, message] : cases) EXPECT_THAT(refuse_body(body), HasSubstr(message));
  std::string many = R"({"n": 128, "prompt": ["a")";
  for (int i = 0; i < 40; ++i) many += R"(, "a")";
  EXPECT_THAT(refuse_body(many + "]}"), HasSubstr("more than"));
}

TEST(BatchLine, LongValuesAreQuotedShortly) {
  const std::string message =
      refuse_body(R"({"prompt": "a", "n": ")" + std::string(5000, 'x') + "\"}");
  EXPECT_LT(message.size(), 200u);
}

TEST(BatchOutput, HashesTellPartsApart) {
  EXPECT_EQ(hash_name({"a", "b"}).size(), 32u);
  EXPECT_NE(hash_name({"a", "b"}), hash_name({"ab", ""}));
  EXPECT_NE(hash_name({"a"}), hash_name({"b"}));
  EXPECT_EQ(hash_name({"a"}), hash_name({"a"}));
}

RequestOutput tokens(std::vector<int32_t> list, FinishReason finish) {
  RequestOutput output;
  for (const int32_t token : list) {
    output.tokens.push_back({});
    output.tokens.back().token = token;
  }
  output.finish = finish;
  return output;
}

TEST(BatchOutput, ResultIsInOpenAIsForm) {
  const testing::FakeTokenizer tokenizer;
  TextAssembler text(tokenizer, {});
  text.take(tokens({'o', 'k', '"'}, FinishReason::kStop));
  const BatchRequest request = parse(R"({"prompt": "a", "model": "demo"})");
  const FinishedChoice choice{&text, {}};
  const std::string result = result_line(request, "m", 3, {&choice, 1}, 11);
  EXPECT_EQ(result.find('\n'), std::string::npos);
  EXPECT_TRUE(result.starts_with(R"({"id":"batch_req_)"));
  const json parsed = json::parse(result);
  EXPECT_EQ(parsed["custom_id"], "r1");
  EXPECT_TRUE(parsed["error"].is_null());
  EXPECT_EQ(parsed["response"]["status_code"], 200);
  EXPECT_TRUE(parsed["response"]["request_id"].is_string());
  const json& body = parsed["response"]["body"];
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "demo");
  EXPECT_EQ(body["created"], 0);
  EXPECT_EQ(body["choices"].dump(),
            R"([{"finish_reason":"stop","index":0,"logprobs":null,"text":"ok\""}])");
  EXPECT_EQ(body["usage"].dump(),
            R"({"completion_tokens":3,"prompt_tokens":11,"total_tokens":14})");
  EXPECT_EQ(result, result_line(request, "m", 3, {&choice, 1}, 11));
  EXPECT_NE(result, result_line(request, "m", 4, {&choice, 1}, 11)) << "another job, another id";
}

TEST(BatchOutput, EchoStandsBeforeTheText) {
  const testing::FakeTokenizer tokenizer;
  TextAssembler text(tokenizer, {});
  text.take(tokens({'b'}, FinishReason::kLength));
  const FinishedChoice choice{&text, "a"};
  const json parsed =
      json::parse(result_line(parse(R"({"prompt": "a"})"), "m", 0, {&choice, 1}, 1));
  EXPECT_EQ(parsed["response"]["body"]["choices"][0]["text"], "ab");
  EXPECT_EQ(parsed["response"]["body"]["model"], "m");
}

TEST(BatchOutput, LogprobsInOpenAIsForm) {
  const testing::FakeTokenizer tokenizer;
  TextAssembler text(tokenizer, {});
  RequestOutput output = tokens({0xC3, 0xA9, 'b'}, FinishReason::kLength);
  const float values[] = {-0.1f, -std::numeric_limits<float>::infinity(), -2.5f};
  for (size_t i = 0; i < 3; ++i) {
    const int32_t token = output.tokens[i].token;
    output.tokens[i].logprobs = {{token, values[i]}, {token, values[i]}, {'z', -3.0f}, {-1, 0}};
  }
  text.take(output);
  const FinishedChoice choice{&text, {}};
  const json parsed =
      json::parse(result_line(parse(R"({"prompt": "a", "logprobs": 2})"), "m", 0, {&choice, 1}, 1));
  const json& logprobs = parsed["response"]["body"]["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"].dump(), R"(["<0xC3>","<0xA9>","b"])");
  EXPECT_EQ(logprobs["token_logprobs"].dump(), "[-0.1,-9999.0,-2.5]");
  EXPECT_EQ(logprobs["text_offset"].dump(), "[0,0,1]") << "in characters";
  EXPECT_EQ(logprobs["top_logprobs"][2].dump(), R"({"b":-2.5,"z":-3.0})");
}

TEST(BatchOutput, AnsweredLinesAreRecognised) {
  const testing::FakeTokenizer tokenizer;
  TextAssembler text(tokenizer, {});
  text.take(tokens({}, FinishReason::kStop));
  const FinishedChoice choice{&text, {}};
  const auto result =
      parse_answered_line(result_line(parse(R"({"prompt": "a"})"), "m", 0, {&choice, 1}, 1));
  ASSERT_TRUE(result);
  EXPECT_EQ(result->kind, AnsweredLine::Kind::kRequest);
  EXPECT_EQ(result->key, "r1");

  const auto refused = parse_answered_line(error_line({"r2", "invalid_request", "why"}, "", 4, 1));
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->kind, AnsweredLine::Kind::kRequest);
  EXPECT_EQ(refused->key, "r2");

  const LineError twice{"r3", std::string(kDuplicateCode), "again"};
  const auto duplicate = parse_answered_line(error_line(twice, "", 5, 2));
  ASSERT_TRUE(duplicate);
  EXPECT_EQ(duplicate->kind, AnsweredLine::Kind::kDuplicate);
  EXPECT_EQ(duplicate->key, "r3");

  const std::string broken = error_line({std::nullopt, "invalid_json", "bad"}, "{x", 6, 3);
  EXPECT_THAT(broken, HasSubstr("line 6: bad"));
  const auto malformed = parse_answered_line(broken);
  ASSERT_TRUE(malformed);
  EXPECT_EQ(malformed->kind, AnsweredLine::Kind::kMalformed);
  EXPECT_EQ(malformed->key, malformed_key("{x"));

  for (const char* other : {"", "{}", "[1]", "{\"id\": 4, \"custom_id\": \"a\"}", "text",
                            R"({"id": "x", "custom_id": null, "response": null, "error": {}})"}) {
    EXPECT_FALSE(parse_answered_line(other)) << other;
  }
}

}  // namespace
}  // namespace convoke
