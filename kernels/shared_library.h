// Libraries that are loaded when they are asked for: a program that can use one starts without it.
#pragma once

#include <string>
#include <vector>

namespace convoke {

class SharedLibrary {
 public:
  /// Loads the first of `names` that the dynamic linker finds, by itself or in `folder` (where the
  /// build found it; may be empty). It stays loaded. Throws Error(kResource) with the linker's
  /// reason and `advice`.
  SharedLibrary(const std::vector<std::string>& names, const std::string& folder,
                const std::string& advice);

  const std::string& name() const { return name_; }
  /// Throws Error(kResource) when the library has no such symbol.
  void* symbol(const char* name) const;
  /// Sets a pointer to a function of the library.
  template <typename Function>
  void bind(Function*& function, const char* name) const {
    function = reinterpret_cast<Function*>(symbol(name));
  }

 private:
  void* handle_ = nullptr;
  std::string name_, advice_;
};

}  // namespace convoke
