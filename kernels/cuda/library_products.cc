// Products by cuBLASLt, which is loaded when it is asked for.
#include "kernels/cuda/library_products.h"

#include "kernels/check.h"

#if !defined(CONVOKE_HAVE_CUBLASLT)

namespace convoke::cuda {

std::unique_ptr<LibraryProducts> make_library_products() {
  throw_error(ErrorKind::kResource,
              "--gpu-matmul fast: this program was built without cuBLASLt: take --gpu-matmul "
              "exact, or build it where the toolkit has cublasLt.h");
}

}  // namespace convoke::cuda

#else

#include <cublasLt.h>

#include <map>
#include <tuple>

#include "kernels/cuda/device_buffer.h"
#include "kernels/shared_library.h"

namespace convoke::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLAS recommends for sm_90

/// The library's functions that are used.
struct Api {
  explicit Api(const SharedLibrary& library) {
    library.bind(create, "cublasLtCreate");
    library.bind(destroy, "cublasLtDestroy");
    library.bind(describe, "cublasLtGetStatusString");
    library.bind(matmul, "cublasLtMatmul");
    library.bind(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    library.bind(algorithm_check, "cublasLtMatmulAlgoCheck");
    library.bind(create_desc, "cublasLtMatmulDescCreate");
    library.bind(set_desc, "cublasLtMatmulDescSetAttribute");
    library.bind(destroy_desc, "cublasLtMatmulDescDestroy");
    library.bind(create_layout, "cublasLtMatrixLayoutCreate");
    library.bind(destroy_layout, "cublasLtMatrixLayoutDestroy");
    library.bind(create_preference, "cublasLtMatmulPreferenceCreate");
    library.bind(set_preference, "cublasLtMatmulPreferenceSetAttribute");
    library.bind(destroy_preference, "cublasLtMatmulPreferenceDestroy");
  }
  void check(cublasStatus_t status, const std::string& what) const {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw_error(ErrorKind::kResource, "cuBLASLt: {}: {}; --gpu-matmul exact does without it", what,
                describe(status));
  }

  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetStatusString) describe;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCheck) algorithm_check;
  decltype(&cublasLtMatmulDescCreate) create_desc;
  decltype(&cublasLtMatmulDescSetAttribute) set_desc;
  decltype(&cublasLtMatmulDescDestroy) destroy_desc;
  decltype(&cublasLtMatrixLayoutCreate) create_layout;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference;
};

const Api& api() {
  static const Api api(SharedLibrary(
      {fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR), "libcublasLt.so"},
      CONVOKE_CUDA_LIBRARIES,
      "add the folder of the CUDA toolkit's libraries to LD_LIBRARY_PATH, or take --gpu-matmul "
      "exact"));
  return api;
}

/// How products of one shape are computed.
class Plan {
 public:
  /// `alignment`: bytes that every address and every row is a multiple of. `like`: how products of
  /// the same extents are computed, or null.
  Plan(cublasLtHandle_t handle, const LibraryProduct& p, uint32_t alignment, const Plan* like)
      : Plan() {  // so that what was made is destroyed when the rest fails
    const Api& lt = api();
    const cudaDataType_t type = p.dtype == DType::kFloat16 ? CUDA_R_16F : CUDA_R_16BF;
    // The library's matrices are stored by columns: to it, y^T [outputs, rows] = W x^T.
    lt.check(lt.create_desc(&desc_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product's description");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    lt.check(lt.set_desc(desc_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
             "a product's transposition");
    const auto layout = [&](cublasLtMatrixLayout_t& to, cudaDataType_t of, int64_t rows,
                            int64_t columns, int64_t stride) {
      lt.check(lt.create_layout(&to, of, uint64_t(rows), uint64_t(columns), stride),
               "a matrix layout");
    };
    layout(weights_, type, p.inputs, p.outputs, p.inputs);
    layout(x_, type, p.inputs, p.rows, p.x_stride);
    layout(y_, CUDA_R_32F, p.outputs, p.rows, p.y_stride);
    if (like == nullptr || !adopt(handle, *like)) choose(handle, p, alignment);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    const Api& lt = api();
    for (cublasLtMatrixLayout_t layout : {weights_, x_, y_}) {
      if (layout != nullptr) lt.destroy_layout(layout);
    }
    if (desc_ != nullptr) lt.destroy_desc(desc_);
  }

  void run(cublasLtHandle_t handle, CUstream_st* stream, const LibraryProduct& p, const void* x,
           const void* weights, float* y, const DeviceBuffer& workspace) const {
    const float alpha = 1, beta = p.accumulate ? 1 : 0;
    api().check(api().matmul(handle, desc_, &alpha, weights, weights_, x, x_, &beta, y, y_, y, y_,
                             &algorithm_, workspace.data(), workspace.bytes(), stream),
                fmt::format("a product of {} rows with {} x {}", p.rows, p.outputs, p.inputs));
  }

 private:
  Plan() = default;

  bool adopt(cublasLtHandle_t handle, const Plan& like) {
    cublasLtMatmulHeuristicResult_t result = {};
    const cublasStatus_t status =
        api().algorithm_check(handle, desc_, weights_, x_, y_, y_, &like.algorithm_, &result);
    algorithm_ = like.algorithm_;
    return status == CUBLAS_STATUS_SUCCESS && result.state == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= kWorkspaceBytes;
  }
  void choose(cublasLtHandle_t handle, const LibraryProduct& p, uint32_t alignment) {
    const Api& lt = api();
    cublasLtMatmulPreference_t preference = nullptr;
    lt.check(lt.create_preference(&preference), "a preference");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
      return lt.set_preference(preference, which, &value, sizeof value);
    };
    cublasStatus_t status = set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    for (auto which :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      if (status == CUBLAS_STATUS_SUCCESS) status = set(which, alignment);
    }
    cublasLtMatmulHeuristicResult_t best = {};
    int found = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = lt.heuristic(handle, desc_, weights_, x_, y_, y_, preference, 1, &best, &found);
    }
    lt.destroy_preference(preference);
    if (status == CUBLAS_STATUS_SUCCESS && found == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
    lt.check(status, fmt::format("choosing how to multiply {} rows with {} x {}", p.rows, p.outputs,
                                 p.inputs));
    algorithm_ = best.algo;
  }

  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasLtMatrixLayout_t weights_ = nullptr, x_ = nullptr, y_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_ = {};
};

class CublasProducts final : public LibraryProducts {
 public:
  CublasProducts() { api().check(api().create(&handle_), "cublasLtCreate"); }
  ~CublasProducts() override {
    plans_.clear();
    api().destroy(handle_);
  }

  void prepare(const LibraryProduct& p) override {
    plan(p, p.inputs % 8 == 0 && p.y_stride % 4 == 0 && p.x_stride % 8 == 0);
  }
  int prepared() const override { return int(plans_.size()); }

 protected:
  void enqueue(const CudaStream& stream, const LibraryProduct& p, const void* x,
               const void* weights, float* y) override {
    const auto address = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
    const bool aligned = p.inputs % 8 == 0 && p.x_stride % 8 == 0 && p.y_stride % 4 == 0 &&
                         (address(x) | address(weights) | address(y)) % 16 == 0;
    plan(p, aligned).run(handle_, stream.handle, p, x, weights, y, workspace_);
  }

 private:
  using Key = std::tuple<DType, int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool>;

  const Plan& plan(const LibraryProduct& p, bool aligned) {
    const Key key(p.dtype, p.rows, p.outputs, p.inputs, p.x_stride, p.y_stride, p.accumulate,
                  aligned);
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    const uint32_t alignment = aligned ? 16 : uint32_t(dtype_size(p.dtype));
    // What was prepared has dense rows.
    const Key dense(p.dtype, p.rows, p.outputs, p.inputs, p.inputs, p.outputs, p.accumulate,
                    aligned);
    const auto like = plans_.find(dense);
    const Plan* const prepared = like == plans_.end() ? nullptr : &like->second;
    return plans_.try_emplace(key, handle_, p, alignment, prepared).first->second;
  }

  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_{kWorkspaceBytes, "work space of cuBLASLt"};
  std::map<Key, Plan> plans_;
};

}  // namespace

std::unique_ptr<LibraryProducts> make_library_products() {
  return std::make_unique<CublasProducts>();
}

}  // namespace convoke::cuda

#endif
