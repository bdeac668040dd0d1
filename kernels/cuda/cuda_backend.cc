#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/library_products.h"
#include "kernels/cuda/pass_staging.h"
#include "kernels/cuda/uploader.h"

namespace convoke::cuda {
namespace {

// Passes of up to so many rows are replayed: those of decoding. Below, the sizes that they have.
// Products take rows by eights, so between them mostly attention and logits are wasted.
constexpr int kMostReplayedRows = 64;
constexpr int kReplayedRows[] = {1, 2, 4, 8, 16, 24, 32, 48, kMostReplayedRows};

/// From here on it pays to read host memory by several threads.
constexpr size_t kLargeCopy = size_t{4} << 20;

/// A matrix with its memory.
class OwnedMatrix final : public CudaPackedMatrix {
 public:
  OwnedMatrix(const MatrixLayout& layout, DeviceBuffer memory)
      : CudaPackedMatrix(layout, memory.data()), memory_(std::move(memory)) {}

 private:
  DeviceBuffer memory_;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(const CudaOptions& options, DeviceInfo info)
      : device_(options.device), options_(options), info_(std::move(info)) {
    select_device(device_);
    queue_.handle = create_stream();
    queue_.clusters = info_.major >= 9;
    if (options_.matmul == CudaMatmul::kFast) library_ = make_library_products();
  }
  ~CudaBackend() override { destroy_stream(queue_.handle); }

  std::string describe() const override {
    return fmt::format("cuda ({}, device {}{})", info_.name, device_,
                       library_ != nullptr ? ", products by cuBLASLt" : "");
  }
  std::unique_ptr<Backend> sibling() override {
    return std::make_unique<CudaBackend>(options_, info_);
  }
  bool shares_host_memory() const override { return false; }
  std::unique_ptr<Buffer> allocate(size_t bytes) override {
    select_device(device_);
    return std::make_unique<DeviceBuffer>(bytes, "weights, activations or the cache");
  }
  std::unique_ptr<Buffer> allocate_host(size_t bytes) override {
    select_device(device_);
    return std::make_unique<PinnedBuffer>(bytes, "copies from and to the device");
  }
  std::unique_ptr<PackedMatrix> pack(const MatrixSource& source) override;
  void adopt(const PackedMatrix& matrix) override {
    layouts_.push_back(static_cast<const CudaPackedMatrix&>(matrix).layout());
  }
  size_t kv_block_bytes(const KvShape& shape) const override { return cuda::kv_block_bytes(shape); }
  void reserve(const PassLimits& limits) override;
  int pass_rows(int rows) const override;
  const GraphCounters& graph_counters() const { return graphs_.counters(); }
  void forget_graphs() { graphs_.clear(); }
  int device() const { return device_; }
  void set_monitor(std::function<void(double)> monitor) { monitor_ = std::move(monitor); }

  using Backend::run;
  void run(const PassArrays& arrays, FunctionRef<void(Stream&)> program) override;

  void copy(Stream&, const TensorView& from, const TensorView& to) override;
  void embed(Stream&, const EmbedArgs& args) override {
    EmbedArgs on_device = args;
    on_device.tokens = staging_.on_device(args.tokens);
    cuda::embed(queue_, on_device);
  }
  void rms_norm(Stream&, const RmsNormArgs& args) override {
    RmsNormArgs on_device = args;
    on_device.gather = staging_.on_device(args.gather);
    cuda::rms_norm(queue_, on_device);
  }
  void matmul(Stream&, const MatmulArgs& args) override {
    const auto& weights = static_cast<const CudaPackedMatrix&>(*args.weights);
    if (!weights.layout().plain) return cuda::matmul(queue_, args, workspace());
    library_matmul(queue_, *library_, args, workspace());
  }
  void rope_append(Stream&, const RopeAppendArgs& args) override {
    staging_.turns(args.batch);  // it is the announced one
    RopeAppendArgs on_device = args;
    on_device.batch = &staging_.batch();
    cuda::rope_append(queue_, on_device);
  }
  void attention(Stream&, const AttentionArgs& args) override;
  void rope_attention(Stream& stream, const RopeAppendArgs& rope,
                      const AttentionArgs& args) override {
    rope_append(stream, rope);
    attention(stream, args);
  }
  void silu_mul(Stream&, const SiluMulArgs& args) override { cuda::silu_mul(queue_, args); }
  void add_bias(Stream&, const TensorView& x, const float* bias) override {
    cuda::add_bias(queue_, x, bias);
  }
  void fill_zero(Stream&, const TensorView& x) override { cuda::fill_zero(queue_, x); }
  void fill_random(Stream&, const RandomSlice& slice, const TensorView& x) override {
    cuda::fill_random(queue_, slice, x);
  }
  void copy_rows(Stream&, const CopyRowsArgs& args) override {
    CopyRowsArgs on_device = args;
    on_device.from = staging_.on_device(args.from);
    on_device.to = staging_.on_device(args.to);
    cuda::copy_rows(queue_, on_device);
  }
  void convert(Stream&, const TensorView& x, const TensorView& y) override {
    cuda::convert(queue_, x, y);
  }
  void move_kv(Stream&, std::span<const KvLayer> layers, std::span<const KvMove> moves) override {
    if (layers.empty() || moves.empty()) return;
    cuda::move_kv(queue_, staging_.on_device(layers), layers[0].shape, staging_.moves(moves));
  }
  void pick_slice(Stream&, const PickSliceArgs& args) override {
    PickSliceArgs on_device = args;
    on_device.params = staging_.on_device(args.params);
    on_device.picks = results_.place(args.picks);
    cuda::pick_slice(queue_, on_device, workspace());
  }
  void pick_full(Stream&, const PickFullArgs& args) override;
  void rank(Stream&, const RankArgs& args) override {
    RankArgs on_device = args;
    on_device.params = staging_.on_device(args.params);
    on_device.ranked = results_.place(args.ranked);
    cuda::rank(queue_, on_device);
  }

  /// What a program sees.
  class ProgramStream final : public Stream {
   public:
    explicit ProgramStream(CudaBackend& backend) : backend_(backend) {}
    cpu::CpuStream& host() override {
      backend_.finish();
      return team_;
    }
    bool leads() const override { return true; }
    const CudaStream& queue() const { return backend_.queue_; }

   private:
    CudaBackend& backend_;
    cpu::LoneStream team_;
  };

 private:
  Uploader& uploader() {
    if (uploader_ == nullptr) uploader_ = std::make_unique<Uploader>(UploadOptions{device_});
    return *uploader_;
  }
  Workspace workspace() const { return {workspace_.data(), workspace_.bytes()}; }
  void prepare_products(int most_rows);
  void submit();
  void wait();
  void finish();
  void abandon() noexcept;

  const int device_;
  const CudaOptions options_;
  const DeviceInfo info_;
  CudaStream queue_;
  std::vector<MatrixLayout> layouts_;  ///< of the matrices packed and adopted so far
  DeviceBuffer workspace_;
  PassStaging staging_;
  PassResults results_;
  LaunchLog log_;  ///< of a program that is replayed; queue_.log points here while it runs
  std::unique_ptr<LibraryProducts> library_;  ///< before graphs_, which use it
  GraphCache graphs_;
  std::unique_ptr<Uploader> uploader_;  ///< while weights are loaded
  int most_rows_ = 0;                   ///< that reserve() was told of
  std::function<void(double)> monitor_;
};

std::unique_ptr<PackedMatrix> CudaBackend::pack(const MatrixSource& source) {
  select_device(device_);
  MatrixLayout layout = matrix_layout(source);
  // The library takes weights of 16 bits; those of 8 are multiplied exactly in any case.
  layout.plain = library_ != nullptr && layout.dtype != DType::kFloat32 && !layout.float8();
  auto matrix = std::make_unique<OwnedMatrix>(layout, DeviceBuffer(layout.bytes(), "weights"));
  MatrixSource on_device = source;
  std::vector<DeviceBuffer> copies;
  CONVOKE_CHECK(source.random.empty() || source.random.size() == source.parts.size());
  for (size_t i = 0; i < source.parts.size(); ++i) {
    const TensorView& part = source.parts[i];
    const size_t row_bytes = size_t(part.cols) * dtype_size(part.dtype);
    const DeviceBuffer& copy = copies.emplace_back(size_t(part.rows) * row_bytes,
                                                   "a weight matrix on its way to being packed");
    on_device.parts[i] = TensorView::matrix(copy.data(), part.dtype, part.rows, part.cols);
    if (source.random.empty()) {
      uploader().upload(part, static_cast<std::byte*>(copy.data()), source.read);
    } else {
      cuda::fill_random(queue_, source.random[i], on_device.parts[i]);
    }
  }
  if (!source.scales.empty()) {
    const DeviceBuffer& copy =
        copies.emplace_back(source.scales.size_bytes(), "scales on their way to being packed");
    enqueue_copy(queue_.handle, copy.data(), source.scales.size_bytes(), source.scales.data(),
                 source.scales.size_bytes(), source.scales.size_bytes(), 1);
    on_device.scales = {static_cast<const float*>(copy.data()), source.scales.size()};
  }
  cuda::pack(queue_, on_device, *matrix);
  synchronise(queue_.handle);
  layouts_.push_back(layout);
  return matrix;
}

void CudaBackend::reserve(const PassLimits& limits) {
  select_device(device_);
  uploader_ = nullptr;  // with its pinned memory
  if (limits.head_dim % 8 != 0 || limits.head_dim > kMaxHeadDim) {
    throw_error(ErrorKind::kModel,
                "config.json: heads of {} elements: the CUDA kernels take multiples of 8 up to {}; "
                "run with --device cpu (a drafter alone: --draft-device cpu)",
                limits.head_dim, kMaxHeadDim);
  }
  const int heads = limits.heads, width = limits.head_dim;
  const size_t of_row = attention_workspace_bytes(1, heads, width, limits.positions);
  const size_t attention =
      std::min(size_t(limits.rows) * of_row, std::max(of_row, options_.attention_workspace));
  size_t bytes = attention;
  bytes = std::max(bytes, pick_workspace_bytes(limits.logit_rows, limits.vocabulary));
  for (const MatrixLayout& layout : layouts_) {
    bytes =
        std::max(bytes, layout.plain ? library_workspace_bytes(layout, limits.rows)
                                     : matmul_workspace_bytes(queue_, layout, limits.rows, true));
  }
  if (bytes > workspace_.bytes()) workspace_ = DeviceBuffer(bytes, "work space");
  most_rows_ = limits.rows;
  prepare_products(limits.rows);
  staging_.reserve(limits, attention);
  results_.ensure(PassResults::bytes_for(size_t(limits.rows)));
}

/// Has the library choose how it multiplies, for all numbers of rows that passes have.
void CudaBackend::prepare_products(int most_rows) {
  if (library_ == nullptr) return;
  for (int rows = 1; rows <= most_rows; ++rows) {
    rows = pass_rows(rows);
    for (const MatrixLayout& layout : layouts_) {
      if (layout.plain) prepare_matmul(*library_, layout, rows);
    }
  }
}

int CudaBackend::pass_rows(int rows) const {
  int filled = rows;
  if (rows > kMostReplayedRows) {
    // The library needs not choose for every number.
    if (library_ != nullptr)
      filled = (rows + kMostReplayedRows - 1) / kMostReplayedRows * kMostReplayedRows;
  } else if (options_.graphs || library_ != nullptr) {
    filled = *std::ranges::lower_bound(kReplayedRows, rows);
  }
  return std::max(rows, std::min(filled, most_rows_));
}

void CudaBackend::run(const PassArrays& arrays, FunctionRef<void(Stream&)> program) {
  select_device(device_);
  // Programs of a few rows come again; those that have neither rows nor picks load and copy.
  const size_t rows = arrays.batch != nullptr ? size_t(arrays.batch->rows)
                                              : arrays.picks[0].size() + arrays.picks[1].size();
  const bool replayed = options_.graphs && rows > 0 && rows <= kMostReplayedRows;
  staging_.begin(queue_, arrays, replayed);
  results_.ensure(PassResults::bytes_for(arrays.picks[0].size() + arrays.picks[1].size()));
  ProgramStream stream(*this);
  queue_.log = replayed ? &log_ : nullptr;
  try {
    program(stream);
    finish();
  } catch (...) {
    abandon();
    throw;
  }
}

/// Enqueues what was written down.
void CudaBackend::submit() {
  if (log_.empty()) return;
  CudaStream queue = queue_;
  queue.log = nullptr;
  graphs_.run(queue, log_);
  log_.clear();
}

/// Waits for what was enqueued, and hands out what it gave.
void CudaBackend::finish() {
  submit();
  results_.read_back(queue_);
  wait();
  results_.deliver();
}

void CudaBackend::wait() {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kLook(1), kSpin(20);
  constexpr std::chrono::microseconds kNap(50);
  const Clock::time_point start = Clock::now();
  for (Clock::time_point next = start + kLook; monitor_ && !is_done(queue_.handle);) {
    const Clock::time_point now = Clock::now();
    if (now < next) {
      std::this_thread::yield();
      continue;
    }
    next = now + kLook;
    monitor_(std::chrono::duration<double>(now - start).count());
    if (now - start > kSpin) std::this_thread::sleep_for(kNap);
  }
  synchronise(queue_.handle);  // says what failed
  // It may have been an abort that ended it: nothing of what came can be believed then.
  if (monitor_) monitor_(0.0);
}

/// After an error: nothing that the host may now change or free is still being read.
void CudaBackend::abandon() noexcept {
  try {
    synchronise(queue_.handle);
  } catch (const Error&) {
    // The error that led here says more.
  }
  log_.clear();
  results_.drop();
}

void CudaBackend::copy(Stream&, const TensorView& from, const TensorView& to) {
  CONVOKE_CHECK(from.dtype == to.dtype && from.rows == to.rows && from.cols == to.cols);
  const size_t element = dtype_size(from.dtype), row_bytes = size_t(from.cols) * element;
  const auto enqueue = [to = to.data, to_pitch = size_t(to.row_stride) * element, from = from.data,
                        from_pitch = size_t(from.row_stride) * element, row_bytes,
                        rows = size_t(from.rows)](const CudaStream& queue) {
    enqueue_copy(queue.handle, to, to_pitch, from, from_pitch, row_bytes, rows);
  };
  const bool waits = !copies_asynchronously(from.data) || !copies_asynchronously(to.data);
  if (queue_.log != nullptr && !waits) return queue_.log->add(enqueue);
  submit();
  // The copy itself would wait where the monitor cannot look.
  if (waits && monitor_) wait();
  const bool from_host = !copies_asynchronously(from.data);
  if (from_host && copies_asynchronously(to.data) && to.row_stride == to.cols &&
      row_bytes * size_t(from.rows) >= kLargeCopy) {
    synchronise(queue_.handle);  // what was enqueued may use the target
    return uploader().upload(from, static_cast<std::byte*>(to.data), nullptr);
  }
  enqueue(queue_);
}

void CudaBackend::attention(Stream&, const AttentionArgs& args) {
  for (const AttentionTurn& turn : staging_.turns(args.batch)) {
    const int end = turn.first_row + turn.batch.rows;
    AttentionArgs part = args;
    part.batch = &turn.batch;
    part.qkv = args.qkv.row_range(turn.first_row, end);
    part.y = args.y.row_range(turn.first_row, end);
    cuda::attention(queue_, part, turn.plan, workspace());
  }
}

void CudaBackend::pick_full(Stream&, const PickFullArgs& args) {
  PickFullWants wants{.filters = false, .logprobs = false};
  for (const PickRow& row : args.params) {
    wants.filters |= row.temperature > 0 && (row.top_k > 0 || row.top_p < 1.0f || row.min_p > 0);
    wants.logprobs |= row.logprobs >= 0;
  }
  PickFullArgs on_device = args;
  on_device.params = staging_.on_device(args.params);
  on_device.picks = results_.place(args.picks);
  on_device.logprobs = results_.place(args.logprobs);
  cuda::pick_full(queue_, on_device, wants, workspace());
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  std::string why;
  const int count = device_count(&why);
  if (count == 0) {
    throw_error(ErrorKind::kResource,
                "no CUDA device can be used{}{}: look at nvidia-smi and CUDA_VISIBLE_DEVICES, or "
                "run with --device cpu",
                why.empty() ? "" : ": ", why);
  }
  if (options.device < 0 || options.device >= count) {
    throw_error(ErrorKind::kResource,
                "CUDA device {} does not exist, there are {}: start no more shards on a host than "
                "it has devices, or let CUDA_VISIBLE_DEVICES name more",
                options.device, count);
  }
  DeviceInfo info = device_info(options.device);
  if (info.major < 8) {
    throw_error(ErrorKind::kResource,
                "CUDA device {} ({}) has compute capability {}.{}, the kernels need 8.0 or later: "
                "run with --device cpu",
                options.device, info.name, info.major, info.minor);
  }
  return std::make_unique<CudaBackend>(options, std::move(info));
}

const GraphCounters& graph_counters(const Backend& backend) {
  return dynamic_cast<const CudaBackend&>(backend).graph_counters();
}

int device_of(const Backend& backend) {
  return dynamic_cast<const CudaBackend&>(backend).device();
}

const CudaStream& queue_of(const Stream& stream) {
  return dynamic_cast<const CudaBackend::ProgramStream&>(stream).queue();
}

void forget_graphs(Backend& backend) {
  dynamic_cast<CudaBackend&>(backend).forget_graphs();
}

void set_wait_monitor(Backend& backend, std::function<void(double seconds)> monitor) {
  dynamic_cast<CudaBackend&>(backend).set_monitor(std::move(monitor));
}

size_t free_memory(int device) {
  return device_info(device).free_bytes;
}

}  // namespace convoke::cuda
