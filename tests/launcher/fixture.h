// A command run with a fake engine, and what it printed.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "launcher/command_context.h"
#include "tests/support/fake_engine.h"

namespace convoke::testing {

/// A folder of its own for a test, gone afterwards.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "convoke-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw_error(ErrorKind::kResource, "no temporary folder");
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

  std::filesystem::path write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }
  static std::string read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

 private:
  std::filesystem::path path_;
};

/// The streams and hooks of one command.
struct FakeRun {
  std::istringstream in;
  std::ostringstream out, err;
  std::atomic<int> interrupt{0};
  FakeEngineOptions engine_options;
  std::string corrupt_drafter;
  /// Of the engine, kept after it is gone.
  struct Seen {
    int engines = 0, submitted = 0, cancelled = 0, most_in_flight = 0;
    bool ended = false;
    std::vector<std::string> drafters_used;
    EngineOptions options;
  } seen;
  CommandContext context{in, out, err};

  FakeRun() {
    context.interrupt = &interrupt;
    context.start_engine = [this](const EngineOptions& options) { return start(options); };
  }

  std::vector<std::string> lines() const { return split(out.str()); }
  static std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
  }

 private:
  class Watched : public FakeEngine {
   public:
    Watched(FakeEngineOptions options, Seen& seen) : FakeEngine(std::move(options)), seen_(seen) {}
    ~Watched() override {
      seen_.submitted = submitted();
      seen_.cancelled = cancelled();
      seen_.most_in_flight = most_in_flight();
      seen_.ended = ended();
      seen_.drafters_used = drafters_used();
    }

   private:
    Seen& seen_;
  };

  std::unique_ptr<Engine> start(const EngineOptions& options) {
    ++seen.engines;
    seen.options = options;
    auto engine = std::make_unique<Watched>(engine_options, seen);
    engine->corrupt_drafter = corrupt_drafter;
    if (options.drafter.method != "none") engine->use_drafter(options.drafter);
    return engine;
  }
};

}  // namespace convoke::testing
