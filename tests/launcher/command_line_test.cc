#include "launcher/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/flag_values.h"
#include "launcher/trainer_process.h"
#include "tests/launcher/fixture.h"

namespace convoke {
namespace {

using ::testing::ElementsAre;
using testing::FakeRun;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TempFolder;
using Arguments = std::vector<std::string>;

template <typename T>
T parse(const Arguments& arguments) {
  ParsedCommand parsed;
  parse_command_line(arguments, parsed);
  if (const T* command = std::get_if<T>(&parsed.command)) return *command;
  ADD_FAILURE() << "another command";
  return {};
}

GenerateOptions generate(Arguments arguments) {
  arguments.insert(arguments.begin(), {"generate", "--model", "m"});
  return parse<GenerateOptions>(arguments);
}

/// The one line that a wrong command line ends with.
std::string refuse(const Arguments& arguments) {
  FakeRun run;
  EXPECT_EQ(run_command_line(arguments, run.context), kExitUsage);
  EXPECT_EQ(run.out.str(), "");
  const auto lines = FakeRun::split(run.err.str());
  EXPECT_EQ(lines.size(), 1u) << run.err.str();
  EXPECT_EQ(run.seen.engines, 0);
  return lines.empty() ? "" : lines.front();
}

std::string refuse_generate(Arguments arguments) {
  arguments.insert(arguments.begin(), {"generate", "--model", "m"});
  return refuse(arguments);
}

TEST(CommandLine, ReadsEveryEngineFlag) {
  const GenerateOptions options = generate({"--load-format",
                                            "dummy",
                                            "--dtype",
                                            "float32",
                                            "--max-model-len",
                                            "128",
                                            "--tp",
                                            "2",
                                            "--replicas",
                                            "3",
                                            "--device",
                                            "cpu",
                                            "--threads",
                                            "4",
                                            "--cpu-isa",
                                            "avx2",
                                            "--max-num-seqs",
                                            "5",
                                            "--max-num-batched-tokens",
                                            "64",
                                            "--prompt-chunk",
                                            "7",
                                            "--kv-cache-tokens",
                                            "1000",
                                            "--drafter",
                                            "ngram",
                                            "--draft-tokens",
                                            "9",
                                            "--draft-depth",
                                            "3",
                                            "--drafter-placement",
                                            "thread",
                                            "--draft-deadline-ms",
                                            "1.5",
                                            "--seed",
                                            "18446744073709551615",
                                            "-v",
                                            "hello"});
  const EngineOptions& engine = options.engine;
  EXPECT_EQ(engine.model, "m");
  EXPECT_EQ(engine.load_format, "dummy");
  EXPECT_EQ(engine.dtype, "float32");
  EXPECT_EQ(engine.max_model_len, 128);
  EXPECT_EQ(engine.tp, 2);
  EXPECT_EQ(engine.replicas, 3);
  EXPECT_EQ(engine.device, "cpu");
  EXPECT_EQ(engine.threads, 4);
  EXPECT_EQ(engine.cpu_isa, "avx2");
  EXPECT_EQ(engine.max_num_seqs, 5);
  EXPECT_EQ(engine.max_batched_tokens, 64);
  EXPECT_EQ(engine.prompt_chunk, 7);
  EXPECT_EQ(engine.kv_cache_tokens, 1000);
  EXPECT_EQ(engine.drafter.method, "ngram");
  EXPECT_EQ(engine.drafter.limits.max_nodes, 9);
  EXPECT_EQ(engine.drafter.limits.max_depth, 3);
  EXPECT_EQ(engine.drafter_placement, "thread");
  EXPECT_EQ(engine.draft_deadline_ms, 1.5);
  EXPECT_EQ(engine.seed, ~uint64_t(0));
  EXPECT_TRUE(engine.chatter);
  EXPECT_EQ(options.prompt, "hello");
  EXPECT_EQ(generate({"--tensor-parallel-size", "4"}).engine.tp, 4);
}

TEST(CommandLine, DefaultsAreTheEngines) {
  const GenerateOptions options = generate({});
  const EngineOptions standard;
  EXPECT_EQ(options.engine.max_num_seqs, standard.max_num_seqs);
  EXPECT_EQ(options.engine.tp, standard.tp);
  EXPECT_EQ(options.engine.drafter.method, "none");
  EXPECT_FALSE(options.engine.chatter);
  EXPECT_FALSE(options.prompt);
  EXPECT_FALSE(options.sampling.temperature);
  EXPECT_TRUE(options.use_generation_config);
}

TEST(CommandLine, ReadsEverySamplingFlag) {
  const SamplingFlags sampling = generate({"--max-tokens",
                                           "9",
                                           "--temperature",
                                           "0.5",
                                           "--top-p",
                                           "0.9",
                                           "--top-k",
                                           "-1",
                                           "--min-p",
                                           "0.1",
                                           "--repetition-penalty",
                                           "1.2",
                                           "--presence-penalty",
                                           "-0.5",
                                           "--frequency-penalty",
                                           "0.25",
                                           "--logit-bias",
                                           "7=2,3=-1.5",
                                           "--stop",
                                           "a",
                                           "--stop",
                                           "b c",
                                           "--min-tokens",
                                           "2",
                                           "--ignore-eos",
                                           "--logprobs",
                                           "0",
                                           "prompt"})
                                     .sampling;
  EXPECT_EQ(sampling.max_tokens, 9);
  EXPECT_EQ(sampling.temperature, 0.5f);
  EXPECT_EQ(sampling.top_p, 0.9f);
  EXPECT_EQ(sampling.top_k, -1);
  EXPECT_EQ(sampling.min_p, 0.1f);
  EXPECT_EQ(sampling.repetition_penalty, 1.2f);
  EXPECT_EQ(sampling.presence_penalty, -0.5f);
  EXPECT_EQ(sampling.frequency_penalty, 0.25f);
  EXPECT_THAT(sampling.logit_bias, ElementsAre(std::pair(3, -1.5f), std::pair(7, 2.0f)));
  EXPECT_THAT(sampling.stop, ElementsAre("a", "b c"));
  EXPECT_EQ(sampling.min_tokens, 2);
  EXPECT_TRUE(sampling.ignore_eos);
  EXPECT_EQ(sampling.logprobs, 0);
  EXPECT_EQ(generate({"--temperature=0", "p"}).sampling.temperature, 0.0f);
  EXPECT_THAT(generate({"--logit-bias", R"({"5": 1})"}).sampling.logit_bias,
              ElementsAre(std::pair(5, 1.0f)));
}

TEST(CommandLine, PromptAsArgumentOrFlag) {
  EXPECT_EQ(generate({"a b"}).prompt, "a b");
  EXPECT_EQ(generate({"-p", "a"}).prompt, "a");
  EXPECT_EQ(generate({"--prompt=--x"}).prompt, "--x");
  EXPECT_EQ(generate({"-"}).prompt, "-");
  EXPECT_EQ(generate({"--prompt-file", "f"}).prompt_file, "f");
  EXPECT_THAT(refuse_generate({"a", "b"}), HasSubstr("'b' is one argument too many"));
}

TEST(CommandLine, SpeculativeConfigIsTheSame) {
  const DrafterSpec spec =
      generate({"--speculative-config",
                R"({"method": "ngram", "num_speculative_tokens": 5, "draft_depth": 2})"})
          .engine.drafter;
  EXPECT_EQ(spec.method, "ngram");
  EXPECT_EQ(spec.limits.max_nodes, 5);
  EXPECT_EQ(spec.limits.max_depth, 2);
  ParsedCommand parsed;
  parse_command_line({"generate", "--model", "m", "--speculative-config",
                      R"({"method": "ngram", "prompt_lookup_max": 4})"},
                     parsed);
  ASSERT_EQ(parsed.warnings.size(), 1u);
  EXPECT_THAT(parsed.warnings[0], HasSubstr("'prompt_lookup_max' means nothing here"));
  EXPECT_THAT(refuse_generate({"--speculative-config", "{"}), HasSubstr("is not a JSON object"));
  EXPECT_THAT(refuse_generate({"--speculative-config", "{}"}), HasSubstr("has no \"method\""));
  EXPECT_THAT(refuse_generate({"--speculative-config", R"({"metod": "x"})"}),
              HasSubstr("key 'metod' is not one of method, model"));
  EXPECT_THAT(refuse_generate({"--speculative-config", R"({"method": 3})"}),
              HasSubstr("method: is not text"));
  EXPECT_THAT(
      refuse_generate({"--drafter", "ngram", "--speculative-config", R"({"method":"ngram"})"}),
      HasSubstr("--drafter is given, too"));
}

TEST(CommandLine, BadValuesAreNamed) {
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"--tp", "x", "convoke generate: --tp: 'x' is not a whole number from 1 to 1024"},
      {"--tensor-parallel-size", "0", "--tp: '0' is not a whole number"},
      {"--threads", "1.5", "--threads: '1.5' is not a whole number"},
      {"--max-num-seqs", "", "--max-num-seqs: '' is not"},
      {"--max-tokens", "99999999999999999999", "--max-tokens: '99999999999999999999' is not"},
      {"--temperature", "-1", "--temperature: '-1' is not a number from 0 to 100"},
      {"--temperature", "nan", "--temperature: 'nan' is not a number"},
      {"--temperature", "0.5x", "--temperature: '0.5x' is not a number"},
      {"--top-p", "0", "--top-p: '0' is not a number above 0, at most 1"},
      {"--top-p", "1.1", "--top-p: '1.1' is not a number above 0, at most 1"},
      {"--repetition-penalty", "0",
       "--repetition-penalty: '0' is not a number above 0, at most 100"},
      {"--device", "tpu", "--device: 'tpu' is not one of auto, cpu, cuda"},
      {"--load-format", "x", "--load-format: 'x' is not one of auto, dummy"},
      {"--drafter", "eggle", "eggle"},
      {"--seed", "-1", "--seed: '-1' is not a whole number from 0 to 2^64 - 1"},
      {"--stop", "", "--stop: is empty"},
      {"--logit-bias", "7", "--logit-bias: '7' is not TOKEN=BIAS"},
      {"--logit-bias", "7=1,7=2", "logit_bias: token 7 is given twice"},
      {"--logit-bias", "{]", "--logit-bias: '{]' is not a JSON object"},
  };
  for (const auto& [flag, value, message] : cases) {
    EXPECT_THAT(refuse_generate({flag, value}), HasSubstr(message));
  }
}

TEST(CommandLine, UnknownThingsAreNamed) {
  EXPECT_THAT(refuse_generate({"--temprature", "1"}),
              HasSubstr("--temprature: there is no such flag, perhaps --temperature"));
  EXPECT_THAT(refuse_generate({"--xyzzy=1"}), HasSubstr("--xyzzy: there is no such flag; see"));
  EXPECT_THAT(refuse({"generat"}),
              HasSubstr("'generat' is not a command; there are generate, batch"));
  EXPECT_THAT(refuse({"generate", "p"}), HasSubstr("--model: is missing"));
  EXPECT_THAT(refuse({"batch", "--model", "m"}), HasSubstr("--input-file: is missing"));
  EXPECT_THAT(refuse({"batch", "--model", "m", "-i", "x"}), HasSubstr("--output-file: is missing"));
  EXPECT_THAT(refuse({"bench", "--model", "m"}), HasSubstr("--prompts: is missing"));
  EXPECT_THAT(refuse({"inspect"}), HasSubstr("DIR: the model directory"));
  EXPECT_THAT(refuse_generate({"--tp"}), HasSubstr("--tp"));
}

TEST(CommandLine, TrainingIsAnotherProgramsToRead) {
  ParsedCommand parsed;
  parse_command_line({"train", "eagle", "--help", "--model", "m"}, parsed);
  EXPECT_EQ(parsed.name, "convoke train");
  EXPECT_EQ(std::get<TrainCommand>(parsed.command).arguments,
            (std::vector<std::string>{"eagle", "--help", "--model", "m"}));
  parse_command_line({"--help"}, parsed);
  EXPECT_THAT(std::get<ShowText>(parsed.command).text, HasSubstr("train"));
  // There is none beside this test.
  try {
    become_trainer({"eagle"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_THAT(error.what(), HasSubstr("convoke-train is not there"));
    EXPECT_THAT(error.what(), HasSubstr("./run build training"));
  }
}

TEST(CommandLine, BatchAndBench) {
  const BatchOptions batch = parse<BatchOptions>(
      {"batch", "--model", "m", "-i", "a", "-o", "b", "--resume", "--quiet", "--json", "--override",
       "--served-model-name", "name", "--generation-config", "none"});
  EXPECT_EQ(batch.input, "a");
  EXPECT_EQ(batch.output, "b");
  EXPECT_TRUE(batch.resume && batch.quiet && batch.json && batch.override_bodies);
  EXPECT_EQ(batch.served_model_name, "name");
  EXPECT_FALSE(batch.use_generation_config);

  const BenchOptions bench = parse<BenchOptions>(
      {"bench", "--model", "m", "--prompts", "p", "--drafters", "none,ngram", "--draft-tokens", "4",
       "--limit", "2", "--repeat", "3", "--floor-rows", "1, 8", "--compare-logits", "--no-floor"});
  EXPECT_EQ(bench.prompts, "p");
  ASSERT_EQ(bench.drafters.size(), 2u);
  EXPECT_EQ(bench.drafters[1].method, "ngram");
  EXPECT_EQ(bench.drafters[1].limits.max_nodes, 4);
  EXPECT_EQ(bench.limit, 2);
  EXPECT_EQ(bench.repeat, 3);
  EXPECT_THAT(bench.floor_rows, ElementsAre(1, 8));
  EXPECT_TRUE(bench.compare_logits);
  EXPECT_FALSE(bench.floor);
  EXPECT_EQ(parse<BenchOptions>({"bench", "--model", "m", "--prompts", "p"}).drafters.size(), 2u);
  EXPECT_THAT(refuse({"bench", "--model", "m", "--prompts", "p", "--drafters", "none,,ngram"}),
              HasSubstr("--drafters: an entry is empty"));
}

TEST(CommandLine, ConfigurationFile) {
  const TempFolder folder;
  const auto path = folder.write("c.toml",
                                 "# a comment\n"
                                 "model = \"from-file\"\n"
                                 "max_num_seqs = 3\n"
                                 "temperature = 0.5\n"
                                 "ignore-eos = true\n"
                                 "drafters = \"none\"\n"
                                 "tp = 2\n"
                                 "[generate]\n"
                                 "max-tokens = 11\n"
                                 "tp = 4\n"
                                 "stop = [\"a\", \"b\"]\n"
                                 "[batch]\n"
                                 "input-file = \"in\"\n");
  const GenerateOptions options =
      parse<GenerateOptions>({"generate", "--config", path.string(), "--temperature", "1", "p"});
  EXPECT_EQ(options.engine.model, "from-file");
  EXPECT_EQ(options.engine.max_num_seqs, 3);
  EXPECT_EQ(options.engine.tp, 4) << "the section goes over the rest";
  EXPECT_EQ(options.sampling.temperature, 1.0f) << "the command line goes over the file";
  EXPECT_TRUE(options.sampling.ignore_eos);
  EXPECT_EQ(options.sampling.max_tokens, 11);
  EXPECT_THAT(options.sampling.stop, ElementsAre("a", "b"));
  const BatchOptions batch = parse<BatchOptions>({"batch", "--config", path.string(), "-o", "out"});
  EXPECT_EQ(batch.input, "in");
  EXPECT_EQ(batch.engine.tp, 2);
  EXPECT_FALSE(batch.sampling.max_tokens);
}

TEST(CommandLine, MistakesInConfigurationFiles) {
  const TempFolder folder;
  const auto refused = [&](const std::string& text) {
    const auto path = folder.write("c.toml", text);
    return refuse({"generate", "--config", path.string(), "p"});
  };
  EXPECT_THAT(refused("modle = \"m\"\n"),
              HasSubstr("c.toml: there is no key 'modle', perhaps 'model'"));
  EXPECT_THAT(refused("[generate]\ninput-file = \"x\"\n"),
              HasSubstr("no key 'input-file' in section [generate]"));
  EXPECT_THAT(refused("[serve]\nport = 1\n"), HasSubstr("there is no section [serve]"));
  EXPECT_THAT(refused("tp = \"many\"\n"), HasSubstr("c.toml: --tp: 'many' is not a whole number"));
  EXPECT_THAT(refused("config = \"other.toml\"\n"), HasSubstr("there is no key 'config'"));
  EXPECT_THAT(refuse({"generate", "--config", "/no/such.toml"}),
              HasSubstr("--config: cannot read /no/such.toml"));
  EXPECT_THAT(refuse({"generate", "--config", "/"}), HasSubstr("--config: cannot read /"));
}

TEST(CommandLine, HelpIsOnStandardOutput) {
  FakeRun run;
  EXPECT_EQ(run_command_line({"--help"}, run.context), kExitOk);
  for (const char* word :
       {"generate", "batch", "bench", "inspect", "train", "mpirun", "Exit codes"}) {
    EXPECT_THAT(run.out.str(), HasSubstr(word));
  }
  for (const char* word : {"serve ", "drafter-worker"}) {
    EXPECT_THAT(run.out.str(), Not(HasSubstr(word)));
  }
  for (const char* command : {"generate", "batch", "bench", "inspect"}) {
    FakeRun help;
    EXPECT_EQ(run_command_line({command, "--help"}, help.context), kExitOk);
    EXPECT_THAT(help.out.str(), HasSubstr("convoke " + std::string(command)));
    EXPECT_EQ(help.err.str(), "");
  }
  FakeRun version;
  EXPECT_EQ(run_command_line({"--version"}, version.context), kExitOk);
  EXPECT_THAT(version.out.str(), ::testing::MatchesRegex("convoke [0-9.]+\n"));
  FakeRun nothing;
  EXPECT_EQ(run_command_line({}, nothing.context), kExitUsage);
  EXPECT_THAT(nothing.err.str(), HasSubstr("generate"));
}

TEST(CommandLine, OtherRanksPlayTheirPart) {
  FakeRun run;
  run.context.run_as_worker_rank = [](const EngineOptions& options) {
    return std::optional(options.tp == 2 ? 7 : 8);
  };
  EXPECT_EQ(run_command_line({"generate", "--model", "m", "--tp", "2", "p"}, run.context), 7);
  EXPECT_EQ(run.seen.engines, 0);
  run.context.run_as_worker_rank = [](const EngineOptions&) { return std::optional<int>(); };
  EXPECT_EQ(run_command_line({"generate", "--model", "m", "p"}, run.context), kExitOk);
  EXPECT_EQ(run.seen.engines, 1);
}

TEST(CommandLine, OneRankSaysWhatIsWrong) {
  FakeRun run;
  run.context.first_rank = false;
  EXPECT_EQ(run_command_line({"generate", "--tp", "x"}, run.context), kExitUsage);
  EXPECT_EQ(run_command_line({"--help"}, run.context), kExitOk);
  EXPECT_EQ(run.out.str() + run.err.str(), "");
}

TEST(CommandLine, ErrorsBecomeExitCodes) {
  const auto code = [](ErrorKind kind, int interrupt) {
    FakeRun run;
    run.interrupt = interrupt;
    run.context.start_engine = [&](const EngineOptions&) -> std::unique_ptr<Engine> {
      throw_error(kind, "why");
    };
    const int result = run_command_line({"generate", "--model", "m", "p"}, run.context);
    EXPECT_EQ(run.err.str(), "convoke generate: why\n");
    return result;
  };
  EXPECT_EQ(code(ErrorKind::kUsage, 0), kExitUsage);
  EXPECT_EQ(code(ErrorKind::kModel, 0), kExitFailure);
  EXPECT_EQ(code(ErrorKind::kPeer, 0), kExitFailure);
  EXPECT_EQ(code(ErrorKind::kCancelled, 15), 143);
}

TEST(CommandLine, HiddenAndInjectedCommands) {
  FakeRun run;
  run.context.run_drafter_worker = [](const Arguments& arguments) { return int(arguments.size()); };
  EXPECT_EQ(run_command_line({"drafter-worker", "--a", "b"}, run.context), 2);
  run.context.run_inspect = [](const InspectOptions& command, std::ostream& out, std::ostream&) {
    out << command.directory.string() << command.tp << command.json;
    return 0;
  };
  EXPECT_EQ(run_command_line({"inspect", "dir", "--tp", "4", "--json"}, run.context), 0);
  EXPECT_EQ(run.out.str(), "dir41");
}

TEST(Closest, OffersOnlyWhatIsNear) {
  EXPECT_EQ(closest("--modle", {"--model", "--mode-x"}), "--model");
  EXPECT_EQ(closest("--zzzzzzz", {"--model"}), "");
  EXPECT_EQ(closest("", {}), "");
}

}  // namespace
}  // namespace convoke
