#include "training/train_flags.h"

#include <limits>

#include "launcher/command_flags.h"
#include "launcher/config_file.h"
#include "launcher/flag_group.h"
#include "runtime/lookahead_table.h"

namespace convoke::training {
namespace {

constexpr int kMaxInt = std::numeric_limits<int>::max();

constexpr const char* kDescription =
    "Train a drafter for a model, so that the runtime decodes it faster. The model stays as it is.";

constexpr const char* kFooter =
    "METHOD is eagle, eagle3, pass or medusa. The result in --out loads at once: --drafter "
    "METHOD:DIR.\n"
    "FILE is text, or JSONL with a \"text\", \"messages\" (put into words by the model's chat\n"
    "template) or \"tokens\" per line. What the model itself would say teaches best: --regenerate\n"
    "lets it continue the beginnings of the texts first.\n"
    "\n"
    "  convoke train eagle --model DIR --data corpus.jsonl --out heads/eagle\n"
    "  convoke train eagle3 --model DIR --data chats.jsonl --regenerate --out heads/eagle3 \\\n"
    "      --optimizer muon --epochs 3\n"
    "  convoke train pass --model DIR --data corpus.jsonl --out heads/pass --resume\n"
    "\n"
    "A run that was interrupted or killed goes on with --resume and the same flags, and ends with "
    "the\n"
    "weights of an undisturbed one.";

void add_file_flags(CLI::App& app, TrainOptions& options) {
  app.add_option_function<std::string>(
         "method",
         [&options](const std::string& value) {
           for (const Method method :
                {Method::kEagle, Method::kEagle3, Method::kPass, Method::kMedusa}) {
             if (value == method_name(method)) {
               options.method = method;
               return;
             }
           }
           throw_error(ErrorKind::kUsage,
                       "'{}' is not a method to train; there are eagle, eagle3, pass, medusa",
                       value);
         },
         "what to train")
      ->type_name("METHOD")
      ->required()
      ->group("Files");
  FlagGroup group(app, "Files");
  group.path("--model", options.model, "DIR", "the target: a Hugging Face directory");
  group
      .texts("--data", "FILE", "texts to learn from; one or more, and may be given again",
             [&options](const std::string&, const std::vector<std::string>& values) {
               options.data.assign(values.begin(), values.end());
             })
      ->allow_extra_args(true);
  group.path("--out", options.out, "DIR", "where the drafter goes; a new or empty directory");
  group.path("--init", options.init, "DIR",
             "begin with the weights of this drafter (default: anew)");
  group.flag("--resume", options.resume, "go on with an interrupted run in --out");
}

void add_data_flags(CLI::App& app, TrainOptions& options) {
  FlagGroup group(app, "Data");
  group.integer("--sequence-length", options.sequence_length, 16, kMaxInt,
                "tokens of a training sequence (default: 512, or the model's context)");
  group.number("--held-out", options.held_out_share, 0, 0.5,
               "share of the texts that is only measured on (default: 0.02)");
  group.integer("--max-data-tokens", options.max_data_tokens, 0, int64_t(1) << 50,
                "read no more than this (default: 0, all)");
  group.flag("--regenerate", options.regenerate,
             "let the target continue the texts' beginnings, and learn from that");
  group.integer("--regenerate-sequences", options.regenerate_sequences, 0, int64_t(1) << 40,
                "how many (default: 0, one for every sequence of the data)");
  group.integer("--regenerate-prompt-tokens", options.regenerate_prompt_tokens, 1, kMaxInt,
                "how much of each is kept as the beginning (default: 64)");
  group.text("--regenerate-temperatures", "LIST", "by turns (default: 0,1)",
             [&options](const std::string& flag, const std::string& value) {
               options.regenerate_temperatures.clear();
               std::istringstream parts(value);
               for (std::string part; std::getline(parts, part, ',');) {
                 options.regenerate_temperatures.push_back(float(parse_number(flag, part, 0, 100)));
               }
             });
}

void add_recipe_flags(CLI::App& app, TrainOptions& options) {
  FlagGroup group(app, "Recipe");
  group.integer("--steps", options.steps, 0, int64_t(1) << 40,
                "optimizer steps (default: 0, as many as --epochs takes)");
  group.number("--epochs", options.epochs, 0, 1e6, "passes over the data (default: 1)", true);
  group.integer("--batch-size", options.batch_size, 1, 1 << 20, "sequences a step (default: 8)");
  group.integer("--micro-batch", options.micro_batch, 0, 1 << 20,
                "sequences that fit into memory at once (default: 0, the whole batch)");
  group.number("--learning-rate", options.learning_rate, 0, 10, "at its height (default: 0.001)",
               true);
  group.integer("--warmup", options.warmup, 0, int64_t(1) << 40,
                "steps up to it; a cosine leads down to a twentieth (default: 100)");
  group.choice("--optimizer", options.optimizer, {"adamw", "muon"},
               "muon: orthogonalised steps for matrices, in fewer of them (default: adamw)");
  group.number("--weight-decay", options.weight_decay, 0, 10, "of matrices (default: 0)");
  group.number("--clip", options.clip, 0, 1e9, "largest gradient norm; 0 = any (default: 0.5)");
  group.number("--depth-decay", options.depth_decay, 0, 1,
               "weight of a guess d tokens ahead: X^d (default: 0.8; eagle 1)", true);
  group.choice("--labels", options.labels, {"target", "text"},
               "pass, medusa: learn the target's distribution or the text's tokens\n"
               "(default: target)");
  group.integer("--seed", options.seed, 0, std::numeric_limits<int64_t>::max(), "(default: 0)");
}

void add_head_flags(CLI::App& app, TrainOptions& options) {
  FlagGroup eagle(app, "EAGLE heads");
  eagle.integer("--unroll", options.unroll, 1, 64,
                "guesses in a row that are learnt together (default: eagle 1, eagle3 7)");
  eagle.number("--token-weight", options.token_weight, 0, 1e6,
               "of the soft cross-entropy (default: eagle 0.1, eagle3 1)");
  eagle.number("--feature-weight", options.feature_weight, 0, 1e6,
               "of the distance to the target's feature (default: eagle 1)");
  eagle.number("--feature-noise", options.feature_noise, 0, 1e6,
               "on the features that enter (default: eagle 0.2)");
  eagle.integer("--draft-vocabulary", options.draft_vocabulary, 0, 1 << 24,
                "only so many of the most frequent tokens are drafted\n"
                "(default: 0, all; eagle3 at most 32000)");
  eagle.integer("--intermediate-size", options.intermediate, 0, 1 << 24,
                "width of the head's MLP (default: 0, the target's)");
  eagle.text("--feature-layers", "LIST",
             "eagle3: layers whose inputs are seen; their number = the last output\n"
             "(default: 2, half of them, and the third from the end)",
             [&options](const std::string& flag, const std::string& value) {
               options.feature_layers = parse_int_list(flag, value, 0, kMaxInt);
             });
  FlagGroup medusa(app, "Medusa heads");
  medusa.integer("--medusa-heads", options.medusa_heads, 1, 64, "(default: 5)");
  medusa.integer("--medusa-layers", options.medusa_layers, 1, 16, "of each head (default: 1)");
  FlagGroup pass(app, "PaSS embeddings");
  pass.integer("--lookahead-tokens", options.lookahead_tokens, 1, kMaxLookahead, "(default: 8)");
  pass.integer("--prefixes", options.prefixes, 1, 4096,
               "places of a text from which a step looks ahead (default: 16)");
}

void add_progress_flags(CLI::App& app, TrainOptions& options) {
  FlagGroup group(app, "Progress");
  group.integer("--eval-every", options.eval_every, 1, int64_t(1) << 40,
                "steps between looks at the held-out texts (default: 200)");
  group.integer("--eval-sequences", options.eval_sequences, 1, kMaxInt,
                "of them that are looked at (default: 64)");
  group.integer("--patience", options.patience, 0, kMaxInt,
                "end after so many looks without a better one (default: 0, never)");
  group.integer("--checkpoint-every", options.checkpoint_every, 1, int64_t(1) << 40,
                "steps between checkpoints (default: 200)");
  app.add_flag_callback(
         "--no-measure", [&options] { options.measure = false; },
         "do not measure the speed-up in the runtime at the end")
      ->group("Progress");
}

void add_place_flags(CLI::App& app, TrainOptions& options, std::string& config) {
  FlagGroup group(app, "Where it runs");
  group.text("--device", "auto|cpu|cuda[:N]", "(default: auto)",
             [&options](const std::string& flag, const std::string& value) {
               if (value != "auto" && value != "cpu" && !value.starts_with("cuda")) {
                 throw_error(ErrorKind::kUsage, "{}: '{}' is not auto, cpu, cuda or cuda:N", flag,
                             value);
               }
               options.device = value;
             });
  group.choice("--precision", options.precision, {"auto", "float32", "bfloat16"},
               "of matrix products (default: auto, bfloat16 where the device is made for it)");
  group.choice("--head-dtype", options.head_dtype, {"bfloat16", "float32"},
               "of the weights in --out (default: bfloat16)");
  group.integer("--threads", options.threads, 0, 4096, "CPU threads (default: 0, all cores)");
  FlagGroup general(app, "General");
  general
      .text("--config", "FILE.toml", "flags from a file, by their long names",
            [&config](const std::string&, const std::string& value) { config = value; })
      ->configurable(false);
  general.flag("--json", options.json, "one JSON object with the results on standard output");
  general.flag("-q,--quiet", options.quiet, "no progress");
  general.flag("-v,--verbose", options.verbose, "more about start-up");
  app.set_help_flag("-h,--help", "this text")->group("General");
}

void finish(TrainOptions& options) {
  const auto require = [](bool given, const char* flag) {
    if (!given) throw_error(ErrorKind::kUsage, "{}: is missing", flag);
  };
  require(!options.model.empty(), "--model");
  require(!options.data.empty(), "--data");
  require(!options.out.empty(), "--out");
  if (options.regenerate_temperatures.empty()) {
    throw_error(ErrorKind::kUsage, "--regenerate-temperatures: is empty");
  }
}

}  // namespace

std::variant<ShowText, TrainOptions> parse_train_flags(const std::vector<std::string>& arguments) {
  TrainOptions options;
  std::string config;
  CLI::App app(kDescription, "convoke train");
  app.footer(kFooter);
  app.get_formatter()->column_width(34);
  app.allow_extras();
  add_file_flags(app, options);
  add_data_flags(app, options);
  add_recipe_flags(app, options);
  add_head_flags(app, options);
  add_progress_flags(app, options);
  add_place_flags(app, options, config);
  if (arguments.empty()) return ShowText{app.help(), kExitUsage};
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // as it asks
  } catch (const CLI::CallForHelp&) {
    return ShowText{app.help(), kExitOk};
  } catch (const CLI::ParseError& error) {
    throw_error(ErrorKind::kUsage, "{}", error.what());
  }
  if (!app.remaining().empty()) refuse_argument(app.remaining().front(), app, "train");
  if (!config.empty()) apply_config_file(config, {&app}, app);
  finish(options);
  return options;
}

}  // namespace convoke::training
