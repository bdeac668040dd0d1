// Messages to bytes and back (actors/messages.fbs). Pure: no sockets, no threads.
//
// What a peer sent is never trusted: decoding verifies the buffer, then that every count, index,
// enum and number makes sense, and returns nothing rather than half a message. Floats keep their
// bits. Decoding accepts any alignment of the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "actors/messages.h"

namespace convoke {

/// What a peer may ask of us. A message beyond any of these is malformed.
struct WireLimits {
  static constexpr size_t kMessageBytes = size_t{64} << 20;
  static constexpr size_t kAttachmentBytes = size_t{256} << 20;  ///< features: large and raw
  static constexpr int32_t kTreeNodes = 4096;                    ///< of one sequence
  static constexpr int32_t kPlaces = 1 << 20;
  static constexpr size_t kSequences = 1 << 16;     ///< in one message
  static constexpr size_t kStringBytes = 16 << 10;  ///< names and reasons; longer ones are cut
  static constexpr int64_t kFeatureWidth = 1 << 20;
  static constexpr int32_t kContext = 1 << 28;  ///< tokens of one sequence
};

/// One envelope. Strings longer than the limit are cut at a character's start; nothing else is
/// changed or checked: a message that breaks the other limits is refused by whoever receives it.
std::vector<std::byte> encode(const Message& message);

/// The same into the caller's buffer, which is resized (no allocation once it has grown).
void encode(const Message& message, std::vector<std::byte>& out);
void encode_plan(const StepPlan& plan, std::vector<std::byte>& out);

/// nullopt for anything malformed; then `why` (if given) says what is wrong.
std::optional<Message> decode(std::span<const std::byte> bytes, std::string* why = nullptr);

/// Decodes a StepPlan in place: the vectors of `plan` keep their memory. False for anything else;
/// then the content of `plan` is unspecified.
bool decode_plan(std::span<const std::byte> bytes, StepPlan& plan, std::string* why = nullptr);

}  // namespace convoke
