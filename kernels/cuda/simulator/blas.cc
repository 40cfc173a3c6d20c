// cuBLASLt's matrix products, column by column with float32 sums in order of k.
#include "kernels/cuda/simulator/internal.h"

struct SimulatedBlas {};
struct SimulatedMatmul {
  cublasOperation_t a, b;
  cublasLtEpilogue_t epilogue;
  const void *bias;
  cudaDataType bias_type;
  bool has_bias_type;
};
struct SimulatedLayout {
  cudaDataType type;
  int64_t rows, columns, ld;
  int batch;
  int64_t batch_step;
};
struct SimulatedPreference {
  size_t workspace;
};

namespace simulator {

struct Product {
  SimulatedMatmul matmul;
  SimulatedLayout a_layout, b_layout, c_layout, d_layout;
  const void *a, *b, *c;
  void *d;
  float alpha, beta;
};

static int64_t element_bytes(cudaDataType type) { return type == CUDA_R_32F ? 4 : 2; }

static float load(const void *at, cudaDataType type, int64_t i) {
  switch (type) {
    case CUDA_R_16F: return __half2float(static_cast<const __half *>(at)[i]);
    case CUDA_R_16BF: return __bfloat162float(static_cast<const __nv_bfloat16 *>(at)[i]);
    default: return static_cast<const float *>(at)[i];
  }
}

static void store(void *at, cudaDataType type, int64_t i, float x) {
  switch (type) {
    case CUDA_R_16F: static_cast<__half *>(at)[i] = __float2half_rn(x); break;
    case CUDA_R_16BF: static_cast<__nv_bfloat16 *>(at)[i] = __float2bfloat16_rn(x); break;
    default: static_cast<float *>(at)[i] = x;
  }
}

// op(m) in float32: out[i + j * rows].
static std::vector<float> unpack(const void *m, const SimulatedLayout &layout, bool is_transposed, int64_t batch) {
  std::vector<float> out(static_cast<size_t>(layout.rows * layout.columns));
  for (int64_t j = 0; j < layout.columns; j++)
    for (int64_t i = 0; i < layout.rows; i++) {
      float x = load(m, layout.type, batch * layout.batch_step + i + j * layout.ld);
      out[static_cast<size_t>(is_transposed ? j + i * layout.columns : i + j * layout.rows)] = x;
    }
  return out;
}

static void multiply(const Product &p, int64_t batch) {
  int64_t rows = p.d_layout.rows, columns = p.d_layout.columns, inner = p.matmul.a == CUBLAS_OP_T ? p.a_layout.rows : p.a_layout.columns;
  std::vector<float> a = unpack(p.a, p.a_layout, p.matmul.a == CUBLAS_OP_T, batch);
  std::vector<float> b = unpack(p.b, p.b_layout, p.matmul.b == CUBLAS_OP_T, batch);
  std::vector<float> sums(static_cast<size_t>(rows));
  float *sum = sums.data();
  for (int64_t j = 0; j < columns; j++) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t k = 0; k < inner; k++) {
      const float *column = a.data() + k * rows;
      float factor = b[static_cast<size_t>(k + j * inner)];
#pragma GCC ivdep
      for (int64_t i = 0; i < rows; i++) sum[i] += column[i] * factor;
    }
    for (int64_t i = 0; i < rows; i++) {
      float x = p.alpha * sum[i];
      if (p.beta != 0) x += p.beta * load(p.c, p.c_layout.type, batch * p.c_layout.batch_step + i + j * p.c_layout.ld);
      if (p.matmul.epilogue == CUBLASLT_EPILOGUE_BIAS) x += load(p.matmul.bias, p.matmul.bias_type, i);
      store(p.d, p.d_layout.type, batch * p.d_layout.batch_step + i + j * p.d_layout.ld, x);
    }
  }
}

static void run_product(void *work) {
  Product *p = static_cast<Product *>(work);
  for (int64_t batch = 0; batch < p->d_layout.batch; batch++) multiply(*p, batch);
  delete p;
}

static bool is_matrix_on_device(const void *m, const SimulatedLayout &layout) {
  int64_t elements = (layout.batch - 1) * layout.batch_step + (layout.columns - 1) * layout.ld + layout.rows;
  return is_on_device(m, static_cast<size_t>(elements * element_bytes(layout.type)));
}

static bool is_shape_valid(const SimulatedMatmul &matmul, const SimulatedLayout &a, const SimulatedLayout &b, const SimulatedLayout &c,
                           const SimulatedLayout &d) {
  int64_t m = matmul.a == CUBLAS_OP_T ? a.columns : a.rows, k = matmul.a == CUBLAS_OP_T ? a.rows : a.columns;
  int64_t n = matmul.b == CUBLAS_OP_T ? b.rows : b.columns, b_k = matmul.b == CUBLAS_OP_T ? b.columns : b.rows;
  bool is_mixed = a.type != CUDA_R_32F && d.type == CUDA_R_32F;
  return m == d.rows && n == d.columns && k == b_k && c.rows == d.rows && c.columns == d.columns && a.type == b.type && c.type == d.type &&
         (a.type == d.type || is_mixed) && a.ld >= a.rows && b.ld >= b.rows && c.ld >= c.rows && d.ld >= d.rows && a.batch == d.batch &&
         b.batch == d.batch && c.batch == d.batch && m > 0 && n > 0 && k > 0;
}

}  // namespace simulator

size_t cublasLtGetVersion() { return 130000; }
const char *cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "CUBLAS_STATUS_UNKNOWN";
}
const char *cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }
cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  *handle = new SimulatedBlas;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *matmul, cublasComputeType_t compute, cudaDataType_t scale) {
  if ((compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC) || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *matmul = new SimulatedMatmul{CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, CUDA_R_32F, false};
  return CUBLAS_STATUS_SUCCESS;
}
template <typename T>
static cublasStatus_t set(T *to, const void *value, size_t size) {
  if (size != sizeof *to) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(to, value, size);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t matmul, cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t size) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(&matmul->a, value, size);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(&matmul->b, value, size);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(&matmul->epilogue, value, size);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(&matmul->bias, value, size);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: matmul->has_bias_type = true; return set(&matmul->bias_type, value, size);
  }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t matmul) {
  delete matmul;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows, uint64_t columns, int64_t ld) {
  *layout = new SimulatedLayout{type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), ld, 1, 0};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t size) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return set(&layout->batch, value, size);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return set(&layout->batch_step, value, size);
  }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
  *preference = new SimulatedPreference{0};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t size) {
  if (attribute != CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return CUBLAS_STATUS_SUCCESS;
  return set(&preference->workspace, value, size);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t matmul, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t *results,
                                              int *found) {
  *found = 0;
  if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (!simulator::is_shape_valid(*matmul, *a, *b, *c, *d)) return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {};
  results[0].workspaceSize = preference && preference->workspace >= 4096 ? 4096 : 0;
  results[0].wavesCount = 1;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t matmul, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *, void *workspace, size_t workspace_size, cudaStream_t stream) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  simulator::Lock lock;
  simulator::Product p = {*matmul, *a_layout, *b_layout, *c_layout, *d_layout, a, b, c, d, 0, 0};
  memcpy(&p.alpha, alpha, sizeof p.alpha), memcpy(&p.beta, beta, sizeof p.beta);
  if (!p.matmul.has_bias_type) p.matmul.bias_type = p.d_layout.type;
  if (!simulator::is_shape_valid(p.matmul, p.a_layout, p.b_layout, p.c_layout, p.d_layout)) return CUBLAS_STATUS_INVALID_VALUE;
  if (!simulator::is_matrix_on_device(a, p.a_layout) || !simulator::is_matrix_on_device(b, p.b_layout) ||
      !simulator::is_matrix_on_device(d, p.d_layout) || (p.beta != 0 && !simulator::is_matrix_on_device(c, p.c_layout)) ||
      (workspace_size && !simulator::is_on_device(workspace, workspace_size)))
    return CUBLAS_STATUS_INVALID_VALUE;
  simulator::schedule_work(stream, simulator::run_product, new simulator::Product(p));
  return CUBLAS_STATUS_SUCCESS;
}
