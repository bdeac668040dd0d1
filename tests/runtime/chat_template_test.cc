// Chat templates against what transformers renders from them (tests/golden/make_chat_templates.py),
// and what no golden file shows: messages of errors, limits, time.
#include "runtime/chat_template/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "kernels/check.h"

namespace convoke {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;
using testing::StartsWith;

const std::filesystem::path kGolden =
    std::filesystem::path(CONVOKE_SOURCE_DIR) / "tests/golden/chat_templates";

ChatInput input_of(const ordered_json& json) {
  ChatInput input;
  input.messages = json.at("messages");
  input.add_generation_prompt = json.at("add_generation_prompt");
  input.bos_token = json.at("bos_token");
  input.eos_token = json.at("eos_token");
  input.tools = json.at("tools");
  input.extra = json.at("extra");
  return input;
}

/// What became of a case, in the words of the golden files.
ordered_json rendered(const std::string& source, const ChatInput& input) {
  std::optional<ChatTemplate> parsed;
  try {
    parsed = ChatTemplate::parse(source, "golden");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel) << error.what();
    EXPECT_THAT(error.what(), StartsWith("golden: line "));
    return {{"error", "syntax"}};
  }
  try {
    return {{"output", parsed->render(input)}};
  } catch (const Error& error) {
    const std::string what = error.what();
    const bool ours = what.rfind("golden: line ", 0) == 0;
    if (ours) return {{"error", "failed"}};
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return {{"error", "raised"}, {"message", what}};
  }
}

class Golden : public testing::TestWithParam<std::string> {};

TEST_P(Golden, RendersAsTransformers) {
  std::ifstream stream(kGolden / GetParam());
  const ordered_json golden = ordered_json::parse(stream);
  ASSERT_FALSE(golden.at("cases").empty());
  for (const ordered_json& one : golden.at("cases")) {
    // Families have one template and many inputs, snippets the other way round.
    const std::string source = one.contains("template") ? one["template"] : golden.at("template");
    const ordered_json& given = one.contains("input") ? one["input"] : golden.at("input");
    ordered_json expected = one;
    expected.erase("template");
    expected.erase("input");
    EXPECT_EQ(rendered(source, input_of(given)), expected)
        << (one.contains("template") ? source : given.dump());
  }
}

std::vector<std::string> golden_files() {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(kGolden)) {
    out.push_back(entry.path().filename().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

INSTANTIATE_TEST_SUITE_P(ChatTemplate, Golden, testing::ValuesIn(golden_files()),
                         [](const auto& row) { return row.param.substr(0, row.param.find('.')); });

ChatInput hello() {
  ChatInput input;
  input.messages = ordered_json::parse(R"([{"role": "user", "content": "Hi"}])");
  return input;
}

std::string render(const std::string& source, const ChatInput& input = hello()) {
  return ChatTemplate::parse(source, "model/chat_template.jinja").render(input);
}

struct Failure {
  ErrorKind kind;
  std::string what;
};

Failure failure_of(const std::string& source, const ChatInput& input = hello()) {
  try {
    ADD_FAILURE() << "no error: " << render(source, input);
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
  return {};
}

void expect_model_error(const std::string& source, const std::string& what) {
  const Failure failure = failure_of(source);
  EXPECT_EQ(failure.kind, ErrorKind::kModel) << source;
  EXPECT_EQ(failure.what, "model/chat_template.jinja: " + what) << source;
}

TEST(ChatTemplate, SyntaxErrorsNameTemplateAndLine) {
  expect_model_error("a\n{% if x %}\n{{ 1 +* }}", "line 3: expected an expression, found \"*\"");
  expect_model_error("\n\n{% frob %}", "line 3: unknown tag \"frob\"");
  expect_model_error("{% if x %}\n{% for y in x %}\n{% endif %}",
                     "line 3: unknown tag \"endif\"; {% for %} of line 2 wants endfor or else");
  expect_model_error("a\n{% if x %}b\n\n",
                     "line 3: the template ends inside of {% if %} of line 2");
  expect_model_error("{{ x\n| nope }}", "line 2: no filter named 'nope'");
  expect_model_error("{{ x is\nnope }}", "line 1: no test named 'nope'");
  expect_model_error("{{ x", "line 1: expected '}}', found the end of the template");
  expect_model_error("{{ (1] }}", "line 1: unexpected ']', expected ')'");
  expect_model_error("\n{{ ; }}", "line 2: expected an expression, found \";\"");
  expect_model_error("{{ a ? b }}", "line 1: unexpected character \"?\"");
  expect_model_error("{{ 'a }}", "line 1: a string is not closed");
  expect_model_error("{# a", "line 1: missing end of comment tag");
  expect_model_error("{% raw %} a", "line 1: missing end of raw directive");
  expect_model_error("{{ 99999999999999999999 }}",
                     "line 1: the integer 99999999999999999999 does not fit 64 bits");
  expect_model_error("{% break %}", "line 1: {% break %} outside of a loop");
  expect_model_error("{% for x in y recursive %}{% endfor %}",
                     "line 1: recursive loops are not supported");
  expect_model_error("{% include 'a' %}", "line 1: unknown tag \"include\"");
  expect_model_error("{% set x.y() = 1 %}", "line 1: expected '%}', found \"(\"");
}

TEST(ChatTemplate, WhatTheTemplateRaisesIsTheWholeMessage) {
  const Failure failure = failure_of("\n{{ raise_exception('only ' ~ messages | length) }}");
  EXPECT_EQ(failure.kind, ErrorKind::kUsage);
  EXPECT_EQ(failure.what, "only 1");
}

TEST(ChatTemplate, FaultsOfRenderingNameTemplateAndLine) {
  const auto expect = [](const std::string& source, const std::string& what) {
    const Failure failure = failure_of(source);
    EXPECT_EQ(failure.kind, ErrorKind::kUsage) << source;
    EXPECT_EQ(failure.what, "model/chat_template.jinja: " + what) << source;
  };
  expect("a\n{% for m in messages %}\n{{ m.content.x.y }}\n{% endfor %}",
         "line 3: 'str object' has no attribute 'x'");
  expect("{{ tools[0].x }}", "line 1: None has no element 0");
  expect("\n{{ frob(1) }}", "line 2: 'frob' is undefined");
  expect("{{ 'a' +\n1 }}", "line 1: can only concatenate str (not \"int\") to str");
  expect("{{ messages.append(1) }}",
         "line 1: access to attribute 'append' of 'list' object is unsafe.");
  expect("{{ 'a'.encode() }}", "line 1: the method 'encode' of texts is not supported");
  expect("{{ 9223372036854775807 + 1 }}", "line 1: integer result does not fit 64 bits");
  expect("{% macro m() %}\n{{ none + 1 }}{% endmacro %}\n\n{{ m() }}",
         "line 2: unsupported operand type(s) for +: 'NoneType' and 'int'");
}

TEST(ChatTemplate, MessagesMustBeObjectsInAnArray) {
  ChatInput input = hello();
  input.messages = ordered_json::object();
  EXPECT_THAT(failure_of("", input).what, HasSubstr("messages must be an array"));
  input.messages = ordered_json::array({"text"});
  EXPECT_THAT(failure_of("", input).what, HasSubstr("every message must be an object"));
  input = hello();
  input.tools = 5;
  EXPECT_THAT(failure_of("", input).what, HasSubstr("tools must be an array or null"));
  input = hello();
  input.extra = ordered_json::array();
  EXPECT_THAT(failure_of("", input).what, HasSubstr("must be an object or null"));
  input = hello();
  input.messages[0]["content"] = 18446744073709551615u;
  EXPECT_THAT(failure_of("{{ messages }}", input).what, HasSubstr("18446744073709551615"));
  EXPECT_EQ(failure_of("{{ messages }}", input).kind, ErrorKind::kUsage);
}

TEST(ChatTemplate, Variables) {
  ChatInput input = hello();
  const std::string shown =
      "{{ bos_token is defined }} {{ tools is none }} {{ documents is none }}";
  EXPECT_EQ(render(shown, input), "False True True");
  input.bos_token = "<s>";
  input.tools = ordered_json::parse(R"([{"z": 1, "a": {"y": 2, "b": 3}}])");
  input.extra = {{"documents", 7}, {"enable_thinking", false}};
  EXPECT_EQ(render(shown, input), "True False False");
  EXPECT_EQ(render("{{ tools | tojson }} {{ enable_thinking }}", input),
            R"([{"z": 1, "a": {"y": 2, "b": 3}}] False)");
}

TEST(ChatTemplate, TheClockCanBeSet) {
  ChatInput input = hello();
  input.now = 1700000000;
  const std::time_t now = *input.now;
  std::tm local{};
  localtime_r(&now, &local);
  char expected[64];
  std::strftime(expected, sizeof expected, "%d %b %Y %H:%M:%S", &local);
  EXPECT_EQ(render("{{ strftime_now('%d %b %Y %H:%M:%S') }}", input), expected);
  EXPECT_THAT(failure_of("{{ strftime_now('%Y' * 5000) }}").what, HasSubstr("exceeds"));
}

TEST(ChatTemplate, BytesThatAreNoUtf8AreReplaced) {
  ChatInput input = hello();
  input.messages[0]["content"] = "a\xFFz";
  EXPECT_EQ(render("\xC3{{ messages[0].content }}", input),
            "\xEF\xBF\xBD"
            "a\xEF\xBF\xBDz");
}

/// What a hostile template asks for ends soon, whatever it is.
void expect_refused(const std::string& source, const std::string& what) {
  const auto begin = std::chrono::steady_clock::now();
  const Failure failure = failure_of(source);
  EXPECT_EQ(failure.kind, ErrorKind::kModel) << source.substr(0, 100);
  EXPECT_THAT(failure.what, HasSubstr(what)) << source.substr(0, 100);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

TEST(ChatTemplate, WorkIsBounded) {
  const std::string what = "asks for more work";
  expect_refused("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                 what);
  expect_refused("{{ 'a' * 9999999999 }}", what);
  expect_refused("{{ [0] * 9999999999 }}", what);
  expect_refused("{{ '%999999999s' % 1 }}", what);
  expect_refused("{{ '{:>999999999}'.format(1) }}", what);
  expect_refused("{{ 'x' | center(999999999) }}", what);
  expect_refused("{{ 'x'.zfill(9999999999) }}", what);
  expect_refused("{{ 'a\\nb' | indent(999999999) }}", what);
  expect_refused("{{ [1] | tojson(indent=999999999) }}", what);
  expect_refused("{{ [1] | batch(9999999999, 0) | list }}", what);
  expect_refused("{{ [] | slice(9999999999) | list }}", what);
  expect_refused(
      "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
      "{% endfor %}",
      what);
  expect_refused(
      "{% set ns = namespace(s='a') %}{% for i in range(99) %}"
      "{% set ns.s = ns.s.replace('a', 'aaaa') %}{% endfor %}",
      what);
  expect_refused(
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}"
      "{% endfor %}{{ ns.l }}",
      what);
  expect_refused(
      "{% set s = 'a' * 2000000 %}{% set t = s[1000000:] ~ 'b' %}{% for i in range(99999) %}"
      "{{ t in s }}{% endfor %}",
      what);
  expect_refused(
      "{% set s = 'a' * 99999 %}{% set x %}{% for i in range(9999) %}{{ s }}{% endfor %}{% endset "
      "%}",
      "the output exceeds 67108864 bytes");
}

TEST(ChatTemplate, NestingIsBounded) {
  const auto repeated = [](const std::string& text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
  };
  for (const char* opening : {"(", "[", "{1:", "not ", "- ", "a if ", "a[", "f(", "x|join("}) {
    expect_refused("{{ " + repeated(opening, 5000), "");
  }
  for (const char* link : {".a", "|trim", "()", "[0]", " + a", " and a", " ~ (a"}) {
    expect_refused("{{ a" + repeated(link, 5000) + " }}", "");
  }
  expect_refused(repeated("{% if a %}", 5000), "nests too deeply");
  expect_refused(repeated("{% for a in b %}", 5000), "nests too deeply");
  // A chain as long as templates have them is no nesting.
  EXPECT_EQ(render("{{ ''" + repeated(" ~ 'a'", 2000) + " }}"), std::string(2000, 'a'));
  EXPECT_EQ(render("{{ ''" + repeated(" + 'a'", 100) + " }}"), std::string(100, 'a'));
  EXPECT_EQ(render("{% if no %}" + repeated("{% elif no %}", 2000) + "{% else %}x{% endif %}"),
            "x");

  expect_refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "too deeply");
  const std::string nest =
      "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}"
      "{% set ns.l = [ns.l] %}{% endfor %}";
  expect_refused(nest + "{{ ns.l }}", "too deeply");
  expect_refused(nest + "{{ ns.l | tojson }}", "too deeply");
  expect_refused(nest + "{% set a = ns.l %}" + nest + "{{ ns.l == a }}", "too deeply");
  expect_refused(
      "{% set ns = namespace(t=(1,)) %}{% for i in range(9999) %}{% set ns.t = (ns.t,) %}"
      "{% endfor %}{{ {ns.t: 1} }}",
      "too deeply");
  expect_refused("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", "too deeply");
}

TEST(ChatTemplate, SizesAreBounded) {
  expect_refused(std::string(300 << 10, 'a'), "has 307200 bytes, more than 262144");
  ChatInput input = hello();
  input.messages[0]["content"] = std::string(17 << 20, 'a');
  EXPECT_EQ(failure_of("{{ messages[0].content }}", input).kind, ErrorKind::kUsage);
  input.messages[0]["content"] = std::string(15 << 20, 'a');
  EXPECT_EQ(
      render("{% for m in messages %}{{ m.role ~ m.content | trim + '!' }}{% endfor %}", input)
          .size(),
      (15u << 20) + 5);
  ordered_json deep = 1;
  for (int i = 0; i < 200; ++i) deep = ordered_json::array({deep});
  input.messages[0]["content"] = deep;
  EXPECT_THAT(failure_of("{{ messages }}", input).what,
              HasSubstr("nest more than 100 levels deep"));
}

TEST(ChatTemplate, WorkLimitIsTheCallers) {
  const auto parsed = ChatTemplate::parse("{% for i in range(1000) %}{{ i }}{% endfor %}", "t");
  EXPECT_THROW((void)parsed.render(hello(), 10000), Error);
  EXPECT_EQ(parsed.render(hello(), 10000000).size(), 2890u);
}

TEST(ChatTemplate, ManyThreadsRenderOneTemplate) {
  const auto parsed = ChatTemplate::parse(
      "{% macro m(x) %}<{{ x }}>{% endmacro %}{% for i in range(500) %}{{ m('a' ~ i) }}{% endfor "
      "%}",
      "t");
  const std::string expected = parsed.render(hello());
  std::vector<std::string> outputs(4);
  std::vector<std::thread> threads;
  for (std::string& out : outputs) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) out = parsed.render(hello());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& out : outputs) EXPECT_EQ(out, expected);
}

}  // namespace
}  // namespace convoke
