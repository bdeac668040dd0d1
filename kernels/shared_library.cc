#include "kernels/shared_library.h"

#include <dlfcn.h>

#include "kernels/check.h"

namespace convoke {

SharedLibrary::SharedLibrary(const std::vector<std::string>& names, const std::string& folder,
                             const std::string& advice)
    : advice_(advice) {
  CONVOKE_CHECK(!names.empty());
  std::string why;
  for (const std::string& name : names) {
    for (const std::string& path : {name, folder + "/" + name}) {
      if (path != name && folder.empty()) continue;
      handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      name_ = path;
      if (handle_ != nullptr) return;
      if (why.empty()) why = dlerror();
    }
  }
  throw_error(ErrorKind::kResource, "{} cannot be loaded ({}): {}", names[0], why, advice_);
}

void* SharedLibrary::symbol(const char* name) const {
  void* const found = dlsym(handle_, name);
  if (found == nullptr) {
    throw_error(ErrorKind::kResource, "{} has no function {}, it is too old: {}", name_, name,
                advice_);
  }
  return found;
}

}  // namespace convoke
