// Files that are written whole or not at all.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

namespace convoke {

/// Writes a temporary file beside `path` and renames it: readers see the old content or the new
/// one. Throws Error(kResource) naming the file.
void replace_file(const std::filesystem::path& path, std::string_view content);
/// The same of several pieces, one behind the other.
void replace_file(const std::filesystem::path& path, std::span<const std::string_view> pieces);

/// Throws what replace_file would throw because of the place. Changes nothing.
void check_replaceable(const std::filesystem::path& path);

}  // namespace convoke
