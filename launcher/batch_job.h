// The heart of `convoke batch`: which lines are in flight, answered or still to come.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "launcher/batch_lines.h"
#include "launcher/batch_output.h"
#include "launcher/engine.h"
#include "launcher/text_assembler.h"

namespace convoke {

/// What earlier runs left in the output file. Memory: some 100 bytes per line.
class Answers {
 public:
  void add(const AnsweredLine& line);
  /// Whether the request, or the `occurrence`-th line of that key, was answered before.
  bool has(AnsweredLine::Kind kind, std::string_view key, int occurrence) const;

 private:
  std::unordered_set<std::string> requests_;  ///< hashes of custom_ids
  std::unordered_map<std::string, int> duplicates_, malformed_;
};

struct BatchCounts {
  int64_t before = 0;    ///< answered by an earlier run
  int64_t answered = 0;  ///< results written by this one
  int64_t refused = 0;   ///< error lines written by this one
  int64_t failed = 0;    ///< requests that the engine gave up; nothing is written for them
  int64_t tokens = 0;    ///< generated
  int64_t done() const { return before + answered + refused + failed; }
};

/// Not thread-safe.
class BatchJob {
 public:
  struct Config {
    BatchDefaults defaults;
    std::string model;  ///< name in results whose body has none
    std::function<bool(std::string_view)> is_our_model;
    std::function<void(std::string_view)> write;  ///< a line of output
    std::function<void(const std::string&)> warn;
  };

  BatchJob(Engine& engine, Config config, Answers answers);

  /// Takes a line of the input: queues its requests, writes an error line, or finds it answered.
  void take_line(std::string_view line, int64_t number);
  /// Takes an output of the engine.
  void take_output(const RequestOutput& output);
  /// Asks the engine to give up everything in flight.
  void cancel_all();

  /// Engine requests that were queued and not yet ended.
  int64_t in_flight() const { return int64_t(flights_.size()); }
  const BatchCounts& counts() const { return counts_; }
  const RequestStats& stats() const { return stats_; }

 private:
  struct Line;
  /// A request to the engine: choice `index` of a line.
  struct Flight {
    std::shared_ptr<Line> line;
    size_t index = 0;
  };

  void refuse(LineError error, std::string_view content, int64_t number, int occurrence);
  void queue(BatchRequest request, std::string_view content, int64_t number);
  std::vector<std::vector<int32_t>> encode(BatchRequest& request) const;
  void submit(const std::shared_ptr<Line>& line, std::vector<std::vector<int32_t>> prompts);
  void finish_line(Line& line);
  void fail_line(Line& line, const std::string& why);
  void cancel_line(const Line& line);
  void warn_about(const BatchRequest& request);
  void warn_once(const std::string& key, const std::string& message);

  Engine& engine_;
  Config config_;
  Answers answers_;
  std::unordered_set<std::string> seen_;  ///< hashes of the custom_ids of this run's input
  std::unordered_map<std::string, int> repeats_;
  std::unordered_map<uint64_t, Flight> flights_;  ///< by the engine's request id
  uint64_t next_request_ = 1;
  bool cancelled_ = false;
  BatchCounts counts_;
  RequestStats stats_;
  std::set<std::string> warned_;
};

}  // namespace convoke
