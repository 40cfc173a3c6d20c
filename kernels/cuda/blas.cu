// Large products by cuBLASLt. It counts columns first: a row-major matrix [r, c] whose rows are `step` apart is its column-major [c, r] of
// leading dimension `step`. So c = a b^T is asked for as c^T = b a^T: b goes first, transposed where k runs along its rows (the column-major
// matrix is then [k, n]), and a second, transposed where it does not.
// Which algorithm a shape takes is found once and kept. Only those that add in one order are let in: parts of k are added by a kernel of
// their own or not at all.
#include "kernels/cuda/product.h"

namespace {

constexpr int64_t BLAS_BYTES = 32 << 20;

struct Plan {
  int64_t m, n, k, a_step, b_step, c_step;
  int device;
  FloatType type, c_type;
  bool a_along_k, b_along_k, is_used, is_possible;
  cublasLtMatmulAlgo_t algorithm;
  int64_t workspace_bytes;
};

enum { PLANS = 512 };
thread_local Plan plans[PLANS];

bool is_same(const Plan &a, const Plan &b) {
  return a.m == b.m && a.n == b.n && a.k == b.k && a.a_step == b.a_step && a.b_step == b.b_step && a.c_step == b.c_step &&
         a.device == b.device && a.type == b.type && a.c_type == b.c_type && a.a_along_k == b.a_along_k && a.b_along_k == b.b_along_k;
}

// The plan's place: its own, or the one that it takes from another when a few from there on are full.
Plan *place_of(const Plan &wanted) {
  uint64_t hash = 0;
  const int64_t parts[] = {
      wanted.m, wanted.n, wanted.k, wanted.a_step, wanted.b_step, wanted.c_step, wanted.device + 8 * wanted.type + 64 * wanted.c_type};
  for (int64_t part : parts) hash = (hash ^ static_cast<uint64_t>(part)) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
  for (int i = 0; i < 8; i++) {
    Plan *plan = &plans[(hash + i) % PLANS];
    if (!plan->is_used || is_same(*plan, wanted)) return plan;
  }
  return &plans[hash % PLANS];
}

cudaDataType data_type(FloatType type) { return type == FLOAT_32 ? CUDA_R_32F : type == FLOAT_BF16 ? CUDA_R_16BF : CUDA_R_16F; }

// What a call describes to the library.
struct Description {
  cublasLtMatmulDesc_t matmul = NULL;
  cublasLtMatrixLayout_t a = NULL, b = NULL, c = NULL;
  bool is_whole;

  explicit Description(const Plan &plan) {
    cublasOperation_t first = plan.b_along_k ? CUBLAS_OP_T : CUBLAS_OP_N, second = plan.a_along_k ? CUBLAS_OP_N : CUBLAS_OP_T;
    cudaDataType type = data_type(plan.type);
    is_whole = cublasLtMatmulDescCreate(&matmul, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
               cublasLtMatmulDescSetAttribute(matmul, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first) == CUBLAS_STATUS_SUCCESS &&
               cublasLtMatmulDescSetAttribute(matmul, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second) == CUBLAS_STATUS_SUCCESS &&
               layout(&b, type, plan.b_along_k, plan.n, plan.k, plan.b_step) &&
               layout(&a, type, plan.a_along_k, plan.m, plan.k, plan.a_step) &&
               layout(&c, data_type(plan.c_type), false, plan.n, plan.m, plan.c_step);
  }
  ~Description() {
    if (matmul) cublasLtMatmulDescDestroy(matmul);
    if (a) cublasLtMatrixLayoutDestroy(a);
    if (b) cublasLtMatrixLayoutDestroy(b);
    if (c) cublasLtMatrixLayoutDestroy(c);
  }
  Description(const Description &) = delete;
  Description &operator=(const Description &) = delete;

  static bool layout(cublasLtMatrixLayout_t *out, cudaDataType type, bool along_k, int64_t rows, int64_t k, int64_t step) {
    return cublasLtMatrixLayoutCreate(out, type, along_k ? k : rows, along_k ? rows : k, step) == CUBLAS_STATUS_SUCCESS;
  }
};

void find_algorithm(Plan *plan, const Description &description, Device *device) {
  cublasLtMatmulPreference_t preference;
  if (cublasLtMatmulPreferenceCreate(&preference) != CUBLAS_STATUS_SUCCESS) return;
  size_t most = BLAS_BYTES;
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, alignment = 16;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
  const cublasLtMatmulPreferenceAttributes_t alignments[] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  for (auto attribute : alignments) cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof alignment);
  cublasLtMatmulHeuristicResult_t result;
  int found = 0;
  cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(device->blas, description.matmul, description.b, description.a, description.c,
                                                         description.c, preference, 1, &result, &found);
  cublasLtMatmulPreferenceDestroy(preference);
  plan->is_possible = status == CUBLAS_STATUS_SUCCESS && found > 0;
  if (!plan->is_possible) return;
  plan->algorithm = result.algo;
  plan->workspace_bytes = static_cast<int64_t>(result.workspaceSize);
}

bool has_packets(const void *data, int64_t step, FloatType type) { return is_aligned(data) && step * float_bytes(type) % 16 == 0; }

}  // namespace

bool blas_product(Rows c, int64_t m, int64_t n, int64_t k, float alpha, Operand a, Operand b, float beta, Device *device) {
  if (!has_blas(device) || !device->blas || m == 0 || n == 0 || k == 0) return false;
  if (a.type != b.type || (c.type != a.type && c.type != FLOAT_32)) return false;
  if (!has_packets(a.data, a.step, a.type) || !has_packets(b.data, b.step, b.type) || !has_packets(c.data, c.step, c.type)) return false;
  Plan wanted = {};
  wanted.m = m, wanted.n = n, wanted.k = k, wanted.a_step = a.step, wanted.b_step = b.step, wanted.c_step = c.step;
  wanted.device = device->number, wanted.type = a.type, wanted.c_type = c.type, wanted.a_along_k = a.along_k, wanted.b_along_k = b.along_k;
  Description description(wanted);
  if (!description.is_whole) return false;
  Plan *plan = place_of(wanted);
  if (!plan->is_used || !is_same(*plan, wanted)) {
    *plan = wanted;
    plan->is_used = true;
    find_algorithm(plan, description, device);
  }
  if (!plan->is_possible) return false;
  void *workspace = NULL;
  if (plan->workspace_bytes > 0) {
    workspace = device_workspace(device, WORKSPACE_BLAS, plan->workspace_bytes);
    if (!workspace) return false;
  }
  // What cuBLASLt cannot do after all is not tried again: the program's own kernels take it.
  plan->is_possible = cublasLtMatmul(device->blas, description.matmul, &alpha, b.data, description.b, a.data, description.a, &beta, c.data,
                                     description.c, c.data, description.c, &plan->algorithm, workspace, plan->workspace_bytes,
                                     device->stream) == CUBLAS_STATUS_SUCCESS;
  return plan->is_possible;
}

int64_t blas_workspace_bytes(void) { return BLAS_BYTES; }
