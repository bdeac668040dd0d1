#include "parallel/rank_place.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "kernels/check.h"
#include "kernels/cuda/device_runtime.h"

namespace convoke {

RankPlace place_of(int device) {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return {name, cuda::device_info(device).address, long(getpid()), true};
}

std::vector<std::string> exchange_texts(Communicator& host, const std::string& mine) {
  std::vector<std::string> texts;
  for (int root = 0; root < host.size(); ++root) {
    const auto* const bytes = reinterpret_cast<const std::byte*>(mine.data());
    std::vector<std::byte> message(bytes, bytes + mine.size());
    host.broadcast(message, root);
    texts.emplace_back(reinterpret_cast<const char*>(message.data()), message.size());
  }
  return texts;
}

std::vector<RankPlace> exchange_places(Communicator& host, const RankPlace& mine) {
  const std::string text =
      fmt::format("{}\n{}\n{}\n{}", mine.host, mine.device, mine.process, mine.able ? 1 : 0);
  std::vector<RankPlace> places;
  for (const std::string& theirs : exchange_texts(host, text)) {
    size_t begin = 0;
    const auto next = [&] {
      const size_t end = std::min(theirs.find('\n', begin), theirs.size());
      const std::string field = theirs.substr(begin, end - begin);
      begin = std::min(end + 1, theirs.size());
      return field;
    };
    RankPlace& place = places.emplace_back();
    place.host = next(), place.device = next();
    place.process = std::strtol(next().c_str(), nullptr, 10);
    place.able = next() == "1";
  }
  return places;
}

}  // namespace convoke
