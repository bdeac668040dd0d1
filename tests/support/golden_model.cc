#include "tests/support/golden_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>

#include "kernels/check.h"

namespace convoke {

GoldenModel load_golden_model(const std::filesystem::path& directory) {
  std::ifstream file(directory / "golden.json");
  if (!file) throw_error(ErrorKind::kModel, "{}: no golden.json", directory.string());
  const nlohmann::json golden = nlohmann::json::parse(file);
  GoldenModel model;
  model.name = directory.filename().string();
  model.directory = directory;
  golden.at("parameters").get_to(model.parameters);
  golden.at("inverse_frequencies").get_to(model.inverse_frequencies);
  golden.at("prompt").get_to(model.prompt);
  golden.at("positions").get_to(model.positions);
  golden.at("logits").get_to(model.logits);
  if (golden.contains("rounded_logits")) golden["rounded_logits"].get_to(model.rounded_logits);
  golden.at("short_prompt").get_to(model.short_prompt);
  golden.at("short_logits").get_to(model.short_logits);
  golden.at("hidden").at("embedding").get_to(model.embedding);
  golden.at("hidden").at("layers").get_to(model.layers);
  golden.at("hidden").at("norm").get_to(model.norm);
  golden.at("greedy").get_to(model.greedy);
  golden.at("greedy_margin").get_to(model.greedy_margin);
  return model;
}

std::vector<std::string> golden_model_names(const std::filesystem::path& models) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(models)) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

double norm(const std::vector<float>& v) {
  double sum = 0;
  for (float x : v) sum += double(x) * x;
  return std::sqrt(sum);
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
  return std::sqrt(sum);
}

bool same_bits(const LogitRows& a, const LogitRows& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
  });
}

void PrintTo(const GoldenModel& model, std::ostream* out) {
  *out << model.name;
}

}  // namespace convoke
