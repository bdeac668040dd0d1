#include "parallel/staged_communicator.h"

#include "kernels/check.h"

namespace convoke {
namespace {

TensorView floats(float* data, int64_t count) {
  return TensorView::matrix(data, DType::kFloat32, 1, count);
}

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(Backend& backend, std::unique_ptr<Communicator> host, int64_t capacity,
                     const std::string& note)
      : backend_(backend),
        note_(note.empty() ? "" : fmt::format(" ({})", note)),
        host_(std::move(host)),
        capacity_(capacity),
        contribution_(backend.allocate(size_t(capacity) * sizeof(float))),
        target_(backend.allocate_host(size_t(capacity) * sizeof(float))),
        gather_(backend, *host_) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  std::string describe() const override {
    return host_->describe() + ", through host memory" + note_;
  }

  float* reduce_buffer() override { return static_cast<float*>(contribution_->data()); }

  void all_reduce_add(Stream& stream, float* target, int64_t count) override {
    CONVOKE_CHECK(0 <= count && count <= capacity_);
    // The target goes along, so that one addition rounds as it does elsewhere.
    backend_.copy(stream, floats(reduce_buffer(), count), floats(host_->reduce_buffer(), count));
    const TensorView on_host = floats(static_cast<float*>(target_->data()), count);
    backend_.copy(stream, floats(target, count), on_host);
    host_->all_reduce_add(stream, static_cast<float*>(on_host.data), count);
    backend_.copy(stream, on_host, floats(target, count));
  }

  void all_gather(Stream& stream, std::span<const std::byte> mine,
                  std::span<std::byte> all) override {
    host_->all_gather(stream, mine, all);
  }
  void reserve_gather(int64_t count) override { gather_.reserve(count); }
  void all_gather_floats(Stream& stream, const float* mine, float* all, int64_t count) override {
    gather_.gather(stream, mine, all, count);
  }
  void broadcast(std::vector<std::byte>& message, int root) override {
    host_->broadcast(message, root);
  }
  void barrier() override { host_->barrier(); }
  void abort(const std::string& reason) override { host_->abort(reason); }

 private:
  Backend& backend_;
  const std::string note_;
  std::unique_ptr<Communicator> host_;
  int64_t capacity_;
  std::unique_ptr<Buffer> contribution_;  // this rank's, in the backend's memory
  std::unique_ptr<Buffer> target_;        // in host memory
  HostGather gather_;
};

}  // namespace

void HostGather::reserve(int64_t count) {
  if (count <= capacity_) return;
  capacity_ = count;
  mine_ = backend_.allocate_host(size_t(count) * sizeof(float));
  all_ = backend_.allocate_host(size_t(count * host_.size()) * sizeof(float));
}

void HostGather::gather(Stream& stream, const float* mine, float* all, int64_t count) {
  CONVOKE_CHECK(0 <= count && count <= capacity_);
  const TensorView from = floats(static_cast<float*>(mine_->data()), count);
  const TensorView to = floats(static_cast<float*>(all_->data()), count * host_.size());
  backend_.copy(stream, floats(const_cast<float*>(mine), count), from);
  host_.all_gather(stream, std::as_bytes(std::span(from.row<float>(0), size_t(count))),
                   std::as_writable_bytes(std::span(to.row<float>(0), size_t(to.cols))));
  backend_.copy(stream, to, floats(all, to.cols));
}

std::unique_ptr<Communicator> make_staged_communicator(Backend& backend,
                                                       std::unique_ptr<Communicator> host,
                                                       const CommunicatorOptions& options,
                                                       const std::string& note) {
  return std::make_unique<StagedCommunicator>(backend, std::move(host), options.reduce_capacity,
                                              note);
}

}  // namespace convoke
