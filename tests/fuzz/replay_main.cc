// Runs a fuzz target without libFuzzer: every file of a corpus, then seeded mutations of them.
//
//   x_fuzz [--mutations N] [--seed S] FILE-OR-FOLDER...
//
// The same arguments always run the same inputs. When one kills the program (signal, sanitizer,
// uncaught exception, more than 10 s), its bytes are written to ./crash-input, to be run again
// alone: `x_fuzz crash-input`.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// Present when a sanitizer is linked in; it ends the process without a signal.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*)());

namespace {

constexpr int kSecondsPerInput = 10;
constexpr size_t kMaxInput = size_t{1} << 20;

using Input = std::vector<uint8_t>;

/// What is being run, for the handlers; plain data, so that a handler may read it.
const uint8_t* current_data = nullptr;
size_t current_size = 0;

void save_current_input() {
  const int file = open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0) return;
  const ssize_t written = write(file, current_data, current_size);
  close(file);
  constexpr std::string_view kSaved = "the input at fault is in ./crash-input\n";
  if (written == static_cast<ssize_t>(current_size)) {
    [[maybe_unused]] const ssize_t said = write(STDERR_FILENO, kSaved.data(), kSaved.size());
  }
}

extern "C" void on_signal(int number) {
  save_current_input();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

void install_handlers() {
  for (const int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGALRM}) {
    // Sanitizers handle these themselves, with a better report, and then call us back.
    if (__sanitizer_set_death_callback != nullptr && number != SIGALRM && number != SIGABRT) {
      continue;
    }
    std::signal(number, on_signal);
  }
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(save_current_input);
}

void run_one(const Input& input) {
  // An exact heap copy: a read one byte past the end is then seen by the address sanitizer.
  const Input copy(input);
  current_data = copy.data();
  current_size = copy.size();
  alarm(kSecondsPerInput);
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
  alarm(0);
}

/// SplitMix64: small, seeded, the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// 0 <= result < bound; bound > 0.
  size_t below(size_t bound) { return static_cast<size_t>(next() % bound); }

 private:
  uint64_t state_;
};

constexpr std::array<uint64_t, 16> kInterestingNumbers = {0,
                                                          1,
                                                          2,
                                                          7,
                                                          8,
                                                          127,
                                                          128,
                                                          255,
                                                          0x7fff,
                                                          0xffff,
                                                          0x7fffffff,
                                                          0xffffffff,
                                                          0x80000000,
                                                          100'000'000,
                                                          ~uint64_t{0},
                                                          uint64_t{1} << 63};

constexpr std::array<std::string_view, 30> kInterestingTexts = {"-1",
                                                                "0",
                                                                "1e999",
                                                                "1e-999",
                                                                "18446744073709551616",
                                                                "9223372036854775807",
                                                                "null",
                                                                "true",
                                                                "false",
                                                                "NaN",
                                                                "Infinity",
                                                                "0.5",
                                                                "{}",
                                                                "[]",
                                                                "{",
                                                                "}",
                                                                "[",
                                                                "]",
                                                                "\"",
                                                                "\\",
                                                                "\\u0000",
                                                                "\\ud800",
                                                                ",",
                                                                ":",
                                                                "\n",
                                                                "\r\n",
                                                                "../",
                                                                "/",
                                                                "\xef\xbf\xbd",
                                                                "\xc3"};

void overwrite(Input& input, size_t at, const void* bytes, size_t size) {
  std::memcpy(input.data() + at, bytes, std::min(size, input.size() - at));
}

template <typename Iterator>
void insert(Input& input, size_t at, Iterator begin, Iterator end) {
  input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), begin, end);
}

void erase(Input& input, size_t at, size_t size) {
  const auto begin = input.begin() + static_cast<std::ptrdiff_t>(at);
  input.erase(begin, begin + static_cast<std::ptrdiff_t>(std::min(size, input.size() - at)));
}

void mutate_once(Input& input, const Input& other, Random& random) {
  const size_t at = input.empty() ? 0 : random.below(input.size());
  const std::string_view text = kInterestingTexts[random.below(kInterestingTexts.size())];
  const uint64_t number = kInterestingNumbers[random.below(kInterestingNumbers.size())];
  switch (input.empty() ? 4 : random.below(9)) {
    case 0:  // one bit
      input[at] ^= static_cast<uint8_t>(1u << random.below(8));
      break;
    case 1:  // one byte
      input[at] = static_cast<uint8_t>(random.next());
      break;
    case 2:  // cut the end off
      input.resize(at);
      break;
    case 3:  // cut a piece out
      erase(input, at, 1 + random.below(32));
      break;
    case 4:  // a text that parsers trip over
      insert(input, at, text.begin(), text.end());
      break;
    case 5:  // the same, in place of what was there
      overwrite(input, at, text.data(), text.size());
      break;
    case 6:  // a number of 1, 2, 4 or 8 bytes
      overwrite(input, at, &number, size_t{1} << random.below(4));
      break;
    case 7: {  // a piece of the input again, somewhere else
      const size_t size = std::min(input.size() - at, 1 + random.below(64));
      const Input piece(input.begin() + static_cast<std::ptrdiff_t>(at),
                        input.begin() + static_cast<std::ptrdiff_t>(at + size));
      insert(input, random.below(input.size() + 1), piece.begin(), piece.end());
      break;
    }
    case 8: {  // the end of another input
      const size_t from = other.empty() ? 0 : random.below(other.size());
      input.resize(at);
      input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
      break;
    }
  }
  if (input.size() > kMaxInput) input.resize(kMaxInput);
}

Input read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    std::exit(2);
  }
  return Input(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

/// In order of name, so that a run does not depend on the file system.
std::vector<Input> read_corpus(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::filesystem::path> files;
  for (const auto& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Input> corpus;
  for (const auto& file : files) corpus.push_back(read_file(file));
  return corpus;
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t mutations = 0;
  uint64_t seed = 1;
  std::vector<std::filesystem::path> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if ((arg == "--mutations" || arg == "--seed") && i + 1 < argc) {
      (arg == "--seed" ? seed : mutations) = std::stoull(argv[++i]);
    } else {
      paths.emplace_back(arg);
    }
  }
  const std::vector<Input> corpus = read_corpus(paths);
  if (corpus.empty()) {
    std::fprintf(stderr, "usage: %s [--mutations N] [--seed S] FILE-OR-FOLDER...\n", argv[0]);
    return 2;  // an empty corpus tests nothing: say so instead of passing
  }
  install_handlers();
  run_one({});
  for (const Input& input : corpus) run_one(input);
  Random random(seed);
  for (uint64_t i = 0; i < mutations; ++i) {
    Input input = corpus[i % corpus.size()];
    const size_t steps = size_t{1} << random.below(4);
    for (size_t step = 0; step < steps; ++step) {
      mutate_once(input, corpus[random.below(corpus.size())], random);
    }
    run_one(input);
  }
  std::printf("%zu inputs and %llu mutations\n", corpus.size(),
              static_cast<unsigned long long>(mutations));
  return 0;
}
