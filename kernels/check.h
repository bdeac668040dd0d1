// Errors and checks, used by every layer.
//
// Two kinds of trouble, never mixed: a CHECK guards against a mistake in our own code and ends the
// process; an Error reports what the world did wrong (a file, a flag, a peer, the clock) and is
// caught where something can be done about it, at the latest in main() or at a mailbox.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace convoke {

/// Who has to act on an Error. Decides exit codes and HTTP status, never control flow inside a
/// layer.
enum class ErrorKind {
  kUsage,     ///< A flag, request field or configuration value; the caller corrects it.
  kModel,     ///< A checkpoint, tokenizer or config file; the message names file and tensor or key.
  kResource,  ///< Memory, disk, permissions.
  kPeer,      ///< Another rank or actor: gone, silent or talking nonsense.
  kTimeout,   ///< A bounded wait ended.
  kCancelled  ///< Somebody asked for the end.
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

/// throw_error(ErrorKind::kModel, "{}: tensor '{}' ...", path, name)
template <typename... Args>
[[noreturn]] void throw_error(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

namespace detail {
[[noreturn]] void check_failed(const char* file, int line, const char* what,
                               const std::string& values);

template <typename A, typename B>
[[noreturn]] void check_op_failed(const char* file, int line, const char* what, const A& a,
                                  const B& b) {
  check_failed(file, line, what, fmt::format("{} against {}", a, b));
}
}  // namespace detail
}  // namespace convoke

#define CONVOKE_CHECK(condition)                                           \
  do {                                                                     \
    if (!(condition)) [[unlikely]]                                         \
      ::convoke::detail::check_failed(__FILE__, __LINE__, #condition, ""); \
  } while (false)

#define CONVOKE_CHECK_OP(op, a, b)                                                        \
  do {                                                                                    \
    const auto& check_a_ = (a);                                                           \
    const auto& check_b_ = (b);                                                           \
    if (!(check_a_ op check_b_)) [[unlikely]]                                             \
      ::convoke::detail::check_op_failed(__FILE__, __LINE__, #a " " #op " " #b, check_a_, \
                                         check_b_);                                       \
  } while (false)

#define CONVOKE_CHECK_EQ(a, b) CONVOKE_CHECK_OP(==, a, b)
#define CONVOKE_CHECK_NE(a, b) CONVOKE_CHECK_OP(!=, a, b)
#define CONVOKE_CHECK_LT(a, b) CONVOKE_CHECK_OP(<, a, b)
#define CONVOKE_CHECK_LE(a, b) CONVOKE_CHECK_OP(<=, a, b)
#define CONVOKE_CHECK_GE(a, b) CONVOKE_CHECK_OP(>=, a, b)
