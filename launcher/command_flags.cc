#include "launcher/command_flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <sstream>
#include <utility>

#include "kernels/check.h"
#include "launcher/drafter_list.h"
#include "launcher/flag_group.h"
#include "launcher/flag_values.h"

namespace convoke {

namespace {

constexpr int kMaxInt = std::numeric_limits<int>::max();

void add_model_flags(CLI::App& app, CommonFlags& common) {
  EngineOptions& engine = common.engine;
  FlagGroup group(app, "Model");
  group.path("--model", engine.model, "DIR",
             "Hugging Face directory: config.json, safetensors, tokenizer.json");
  group.choice("--load-format", engine.load_format, {"auto", "dummy"},
               "dummy: random weights from config.json alone, to measure speed");
  group.choice(
      "--dtype", engine.dtype, {"auto", "float32", "bfloat16", "float16"},
      "weights in memory (auto: as the device does best; float16: GPUs only; weights of 8 bits "
      "stay so, and their checkpoint's scales of inputs are not used)");
  group.integer("--max-model-len", engine.max_model_len, 1, kMaxInt,
                "context in tokens (default: the model's)");
  group.choice("--generation-config", common.generation_config, {"auto", "none"},
               "auto: sampling defaults from the model's generation_config.json");
}

void add_place_flags(CLI::App& app, CommonFlags& common) {
  EngineOptions& engine = common.engine;
  FlagGroup group(app, "Where it runs");
  group.integer("--tp,--tensor-parallel-size", engine.tp, 1, 1024,
                "ranks (or threads, alone) that share one copy of the model (default: 1 alone,\n"
                "all that fit under mpirun / srun)");
  group.integer("--replicas", engine.replicas, 1, 4096, "copies of the model (default: 1)");
  group.choice("--device", engine.device, {"auto", "cpu", "cuda"},
               "what shards compute on (default: auto, the CPU; the CUDA backend is new)");
  group.choice("--gpu-matmul", engine.gpu_matmul, {"exact", "fast"},
               "matrix products on GPUs: exact keeps one order for every sum, so that no token\n"
               "depends on what shares a pass; fast: cuBLASLt's (default: exact)");
  group.choice("--gpu-graphs", engine.gpu_graphs, {"on", "off"},
               "replay decoding steps as CUDA graphs; changes no bit (default: on)");
  group.choice("--gpu-collectives", engine.gpu_collectives, {"auto", "ipc", "nccl", "host"},
               "how the GPUs of --tp add up; the bits are the same. ipc: one kernel over each\n"
               "other's memory, on one host (default: auto, that for few rows, NCCL for many;\n"
               "what is not there is done without, in the end through host memory)");
  group.integer("--threads", engine.threads, 0, 4096,
                "CPU threads of a process (default: 0, all its cores)");
  group.choice("--cpu-isa", engine.cpu_isa, {"auto", "portable", "avx2", "avx512-bf16", "amx-bf16"},
               "instruction set; results are bit-equal only within one (default: auto)");
  group.integer("--max-num-seqs", engine.max_num_seqs, 1, 65536,
                "sequences decoded together, per replica (default: 16)");
  group.integer("--max-num-batched-tokens", engine.max_batched_tokens, 1, 1 << 20,
                "rows of one pass (default: 512)");
  group.integer("--prompt-chunk", engine.prompt_chunk, 1, 1 << 20,
                "longest piece of a prompt in one pass (default: --max-num-batched-tokens)");
  group.integer("--kv-cache-tokens", engine.kv_cache_tokens, 1, int64_t(1) << 40,
                "room for keys and values (default: from memory and --max-num-seqs)");
}

void add_draft_flags(CLI::App& app, CommonFlags& common, bool several) {
  FlagGroup group(app, "Speculation (costs or saves time, never changes a token)");
  if (several) {
    group.texts("--drafters", "LIST",
                "drafters to compare, e.g. none,lookahead,medusa:DIR,pass:DIR,eagle:DIR\n"
                "(default: none,ngram); entries end at a comma before the name of a method, or,\n"
                "where there is a ';', there; 'random' for DIR measures costs without weights;\n"
                "may be given several times",
                [&common](const std::string& flag, const std::vector<std::string>& values) {
                  common.drafters.clear();
                  for (const std::string& value : values) {
                    std::ranges::move(parse_drafter_list(flag, value),
                                      std::back_inserter(common.drafters));
                  }
                });
  } else {
    group.text(
        "--drafter", "METHOD[:DIR]",
        "none, ngram, lookahead, eagle:DIR, eagle3:DIR, medusa:DIR, pass:DIR or draft-model:DIR\n"
        "(default: none)",
        [&common](const std::string&, const std::string& value) {
          common.drafter = DrafterSpec::parse(value);
        });
    group.text("--speculative-config", "JSON",
               "the same as {\"method\", \"model\", \"num_speculative_tokens\", \"draft_depth\"}",
               [&common](const std::string&, const std::string& value) {
                 common.speculative_config =
                     parse_speculative_config(value, common.ignored_speculative);
               });
  }
  group.text("--draft-tokens", "auto|N",
             "tokens of a draft tree: chosen for speed step by step, or fixed (default: auto)",
             [&common](const std::string& flag, const std::string& value) {
               common.draft_tokens.reset();
               if (value != "auto") common.draft_tokens = int(parse_int(flag, value, 0, 1024));
             });
  group.integer("--draft-depth", common.draft_depth, 1, 64, "deepest draft (default: 8)");
  group.integer("--draft-top-k", common.draft_top_k, 1, 64,
                "continuations looked at after each draft token (default: by the size of trees)");
  group.choice("--draft-ahead", common.draft_ahead, {"auto", "on", "off"},
               "draft while the target works (default: auto, where the drafter has a rank)");
  group.flag("--no-shared-noise", common.unshared_noise,
             "rank drafts without the noise of the pick rule, to compare");
  group.choice(
      "--draft-device", common.engine.draft_device, {"auto", "cpu", "cuda"},
      "what heads and draft models compute on (default: auto, as --device: the GPU of the\n"
      "first shard, or, with a rank or process of its own, one that no shard has)");
  group.choice("--drafter-placement", common.engine.drafter_placement,
               {"auto", "thread", "process", "rank"},
               "beside the coordinator, as its child process, or on a rank of its own");
  group.number("--draft-deadline-ms", common.engine.draft_deadline_ms, 0, 1e6,
               "how long a pass waits for a draft (default: 0, chosen by the coordinator)");
}

void add_sampling_flags(CLI::App& app, CommonFlags& common, const char* title,
                        const char* max_tokens) {
  SamplingFlags& sampling = common.sampling;
  FlagGroup group(app, title);
  group.integer("--max-tokens", sampling.max_tokens, 1, kMaxInt, max_tokens);
  group.number("--temperature", sampling.temperature, 0, 100, "0 = always the likeliest token");
  group.number("--top-p", sampling.top_p, 0, 1, "keep the likeliest tokens of this total", true);
  group.integer("--top-k", sampling.top_k, -1, kMaxInt, "keep the K likeliest; 0 or -1 = off");
  group.number("--min-p", sampling.min_p, 0, 1,
               "drop tokens less likely than this share of the top");
  group.number("--repetition-penalty", sampling.repetition_penalty, 0, 100,
               "over prompt and output; above 1 discourages", true);
  group.number("--presence-penalty", sampling.presence_penalty, -100, 100,
               "once per token of the output");
  group.number("--frequency-penalty", sampling.frequency_penalty, -100, 100,
               "per occurrence in the output");
  group.text("--logit-bias", "ID=X,...", "added to tokens' logits; JSON object or list",
             [&sampling](const std::string& flag, const std::string& value) {
               sampling.logit_bias = parse_logit_bias(flag, value);
             });
  group.texts("--stop", "TEXT", "end before this text; may be given several times",
              [&sampling](const std::string& flag, const std::vector<std::string>& values) {
                for (const std::string& value : values) {
                  if (value.empty()) throw_error(ErrorKind::kUsage, "{}: is empty", flag);
                }
                sampling.stop = values;
              });
  group.integer("--min-tokens", sampling.min_tokens, 0, kMaxInt, "no end before so many tokens");
  group.flag("--ignore-eos", sampling.ignore_eos, "go on behind the model's end token");
  group.integer("--logprobs", sampling.logprobs, 0, 20,
                "log-probabilities of each token and of the N likeliest");
}

void add_general_flags(CLI::App& app, CommonFlags& common, bool quiet) {
  FlagGroup group(app, "General");
  group.text("--seed", "N", "decides every random choice (default: 0)",
             [&common](const std::string& flag, const std::string& value) {
               common.engine.seed = parse_uint64(flag, value);
             });
  group
      .text("--config", "FILE.toml",
            "flags by name; [sections] are commands, the command line wins",
            [&common](const std::string& flag, const std::string& value) {
              if (value.empty()) throw_error(ErrorKind::kUsage, "{}: is empty", flag);
              common.config = value;
            })
      ->configurable(false);
  group.flag("--json", common.json, "one JSON object on standard output");
  if (quiet) group.flag("-q,--quiet", common.quiet, "no progress");
  group.flag("-v,--verbose", common.verbose, "say what is put together, and log");
  app.set_help_flag("-h,--help", "this text")->group("General");
}

CLI::App* add_command(CLI::App& app, const char* name, const char* description,
                      const char* footer) {
  CLI::App* command = app.add_subcommand(name, description);
  command->footer(footer);
  command->get_formatter()->column_width(34);
  return command;
}

void finish_common(EngineOptions& engine, CommonFlags& common, std::vector<std::string>& warnings) {
  engine = common.engine;
  if (engine.model.empty()) {
    throw_error(ErrorKind::kUsage, "--model: is missing; give a Hugging Face model directory");
  }
  if (common.drafter && common.speculative_config) {
    throw_error(ErrorKind::kUsage,
                "--speculative-config: --drafter is given, too; use one of them");
  }
  if (common.drafter) engine.drafter = *common.drafter;
  if (common.speculative_config) engine.drafter = *common.speculative_config;
  const auto set_limits = [&](DrafterSpec& spec) {
    if (common.draft_tokens) {
      spec.limits.max_nodes = *common.draft_tokens;
      spec.auto_size = false;
    }
    if (common.draft_depth) spec.limits.max_depth = *common.draft_depth;
    if (common.draft_top_k) spec.limits.top_k = *common.draft_top_k;
    if (common.draft_ahead != "auto") spec.ahead = common.draft_ahead == "on";
    if (common.unshared_noise) spec.shared_noise = false;
  };
  set_limits(engine.drafter);
  for (DrafterSpec& spec : common.drafters) set_limits(spec);
  engine.chatter = common.verbose;
  for (const std::string& key : common.ignored_speculative) {
    warnings.push_back("--speculative-config: '" + key + "' means nothing here and is ignored");
  }
}

}  // namespace

CLI::App* add_generate(CLI::App& app, GenerateOptions& options, CommonFlags& common) {
  CLI::App* command = add_command(
      app, "generate", "Continue one prompt; the text streams to standard output.",
      "Sampling settings that are not given come from generation_config.json (see\n"
      "--generation-config). On a terminal, accepted draft tokens are green (NO_COLOR: never).\n\n"
      "  convoke generate --model DIR 'Once upon a time'\n"
      "  convoke generate --model DIR --drafter ngram --stats --temperature 0 --prompt-file "
      "main.py\n"
      "  echo 'def main():' | convoke generate --model DIR --stop 'class ' --json -");
  FlagGroup group(*command, "Prompt and output");
  command
      ->add_option_function<std::string>(
          "prompt,-p,--prompt", [&options](const std::string& text) { options.prompt = text; },
          "text to continue; - = standard input")
      ->type_name("TEXT")
      ->group("Prompt and output");
  group.text(
      "--prompt-file", "FILE", "read the prompt from a file; - = standard input",
      [&options](const std::string&, const std::string& value) { options.prompt_file = value; });
  group.flag("--echo", options.echo, "print the prompt before its continuation");
  group.flag("--stats", options.stats, "what speculation did, on standard error at the end");
  add_model_flags(*command, common);
  add_draft_flags(*command, common, false);
  add_sampling_flags(*command, common, "Sampling", "longest continuation (default: 256)");
  add_place_flags(*command, common);
  add_general_flags(*command, common, false);
  return command;
}

CLI::App* add_batch(CLI::App& app, BatchOptions& options, CommonFlags& common) {
  CLI::App* command = add_command(
      app, "batch", "Answer a file of requests in OpenAI batch form.",
      "Each line of the input is {\"custom_id\", \"method\": \"POST\", \"url\": "
      "\"/v1/completions\",\n"
      "\"body\": {\"prompt\", \"max_tokens\", ...}}. Results are appended as they finish, in any "
      "order,\n"
      "each one durably: a job that was killed goes on with --resume, which skips the custom_ids\n"
      "that are answered, and ends with the same lines. A line that cannot be run becomes an "
      "error\n"
      "line, which is an answer, too. A request without \"seed\" gets one from --seed and its\n"
      "custom_id, so results depend neither on order nor on time (\"created\" is always 0).\n\n"
      "What a body leaves out is taken from the flags, then from generation_config.json, then\n"
      "OpenAI's defaults (temperature 1, 16 tokens).\n\n"
      "  convoke batch --model DIR --drafter ngram -i requests.jsonl -o results.jsonl --resume\n"
      "  mpirun -np 5 convoke batch --model DIR --tp 4 --drafter ngram -i in.jsonl -o out.jsonl");
  FlagGroup group(*command, "Files");
  group.path("-i,--input-file", options.input, "FILE", "requests; - = standard input");
  group.path("-o,--output-file", options.output, "FILE", "results; a new or empty file");
  group.flag("--resume", options.resume, "complete the output file of an earlier run");
  group.text("--served-model-name", "NAME", "name in results (default: the directory's)",
             [&options](const std::string&, const std::string& value) {
               options.served_model_name = value;
             });
  add_model_flags(*command, common);
  add_draft_flags(*command, common, false);
  add_sampling_flags(*command, common, "Sampling, for what a body leaves out",
                     "longest output (default: 16)");
  FlagGroup(*command, "Sampling, for what a body leaves out")
      .flag("--override", options.override_bodies, "sampling flags go over the bodies, too");
  add_place_flags(*command, common);
  add_general_flags(*command, common, true);
  return command;
}

CLI::App* add_bench(CLI::App& app, BenchOptions& options, CommonFlags& common) {
  CLI::App* command = add_command(
      app, "bench", "Compare drafters on the same prompts, and passes with the machine's floor.",
      "Prompts run one at a time; drafters take turns of a few prompts in rotating order, each "
      "after\n"
      "a warm-up. Plain decoding (none) is always among them and its outputs are what the others "
      "must\n"
      "equal. Speed-ups are against none, and against lookahead and medusa where they are in the "
      "list.\n"
      "Sampling flags go over what the prompts' bodies say; stop strings are not used.\n\n"
      "  convoke bench --model DIR --prompts requests.jsonl --drafters none,ngram --temperature 1\n"
      "  convoke bench --model DIR --prompts requests.jsonl --drafters "
      "lookahead,pass:DIR,eagle:DIR "
      "\\\n"
      "      --sweep lookahead-tokens=1..8 --sweep temperature=0,1 --report report.html\n"
      "  convoke bench --model DIR --load-format dummy --prompts requests.jsonl "
      "--drafters eagle:random");
  FlagGroup group(*command, "What is measured");
  group.path("--prompts", options.prompts, "FILE", "requests as for convoke batch");
  group.integer("--limit", options.limit, 1, kMaxInt, "use only the first N requests");
  group.integer("--repeat", options.repeat, 1, 1000,
                "runs of each prompt; the median counts (default: 1)");
  group.integer("--turn", options.turn, 1, kMaxInt,
                "prompts that one drafter runs before the next has its turn (default: 4)");
  static const std::string sweep_help =
      "measure at every value, e.g. temperature=0,0.5,1 or lookahead-tokens=1..8; given\n"
      "twice, at every pair. Names: " +
      sweep_names();
  group.texts("--sweep", "NAME=VALUES", sweep_help.c_str(),
              [&options](const std::string& flag, const std::vector<std::string>& values) {
                options.sweeps.clear();
                for (const std::string& value : values) {
                  options.sweeps.push_back(parse_sweep(flag, value));
                }
              });
  group.path("--report", options.report, "FILE.html",
             "write a page with tables and charts, readable without a network");
  group.flag("--compare-logits", options.compare_logits,
             "outputs are equal only if the logits of every token are, bit for bit");
  group.text("--floor-rows", "LIST", "rows of the passes to measure (default: 1,4,8,16,32)",
             [&options](const std::string& flag, const std::string& value) {
               options.floor_rows = parse_int_list(flag, value, 1, 4096);
             });
  command
      ->add_flag_callback(
          "--no-floor", [&options] { options.floor = false; }, "do not measure the machine")
      ->group("What is measured");
  add_model_flags(*command, common);
  add_draft_flags(*command, common, true);
  add_sampling_flags(*command, common, "Sampling, over what the prompts say", "longest output");
  add_place_flags(*command, common);
  add_general_flags(*command, common, true);
  return command;
}

CLI::App* add_inspect(CLI::App& app, InspectOptions& options) {
  CLI::App* command = add_command(
      app, "inspect",
      "Say what a model's or drafter's directory holds, what it needs, and what is wrong with it.",
      "  convoke inspect DIR --tp 4\n"
      "  convoke inspect DRAFTER --model DIR");
  FlagGroup group(*command, "General");
  group.path("directory", options.directory, "DIR",
             "Hugging Face model directory, or a drafter's directory or file");
  group.path("--model", options.model, "DIR", "of a drafter: check that it fits this target");
  group.integer("--tp,--tensor-parallel-size", options.tp, 1, 1024,
                "memory of each of so many ranks (default: 1)");
  group.flag("--json", options.json, "one JSON object on standard output");
  command->set_help_flag("-h,--help", "this text")->group("General");
  return command;
}

void finish_generate(GenerateOptions& options, CommonFlags& common,
                     std::vector<std::string>& warnings) {
  finish_common(options.engine, common, warnings);
  options.sampling = common.sampling;
  options.use_generation_config = common.generation_config == "auto";
  options.json = common.json;
  options.verbose = common.verbose;
}

void finish_batch(BatchOptions& options, CommonFlags& common, std::vector<std::string>& warnings) {
  finish_common(options.engine, common, warnings);
  if (options.input.empty()) throw_error(ErrorKind::kUsage, "--input-file: is missing");
  if (options.output.empty()) throw_error(ErrorKind::kUsage, "--output-file: is missing");
  options.sampling = common.sampling;
  options.use_generation_config = common.generation_config == "auto";
  options.json = common.json;
  options.verbose = common.verbose;
  options.quiet = common.quiet;
}

void finish_bench(BenchOptions& options, CommonFlags& common, std::vector<std::string>& warnings) {
  if (common.drafters.empty()) {
    common.drafters = {DrafterSpec::parse("none"), DrafterSpec::parse("ngram")};
  }
  finish_common(options.engine, common, warnings);
  if (options.prompts.empty()) throw_error(ErrorKind::kUsage, "--prompts: is missing");
  options.drafters = options.engine.later_drafters = common.drafters;
  check_sweeps("--sweep", options.sweeps, options.drafters);
  // Here rather than where the batch is run: every rank of a job has to know.
  options.engine.max_num_seqs =
      std::max(options.engine.max_num_seqs, largest_batch(options.sweeps));
  options.sampling = common.sampling;
  options.use_generation_config = common.generation_config == "auto";
  options.json = common.json;
  options.verbose = common.verbose;
  options.quiet = common.quiet;
}

void refuse_argument(const std::string& argument, const CLI::App& command,
                     const std::string& name) {
  if (!argument.starts_with('-')) {
    throw_error(ErrorKind::kUsage, "'{}' is one argument too many", argument);
  }
  const std::string flag = argument.substr(0, argument.find('='));
  const std::string guess = closest(flag, flag_names(command));
  throw_error(ErrorKind::kUsage, "{}: there is no such flag{}; see convoke {} --help", flag,
              guess.empty() ? "" : fmt::format(", perhaps {}", guess), name);
}

std::vector<std::string> flag_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

}  // namespace convoke
