// Attention by cuDNN's fused kernels: its library, opened at run time, and plans of causal attention of documents of different lengths.
//   forward    S = scale Q K^T, masked by the documents' lengths and the diagonal; O = softmax(S) V, stats = log sum exp S
//   backward   P = exp(S - stats), dV = P^T dO, dS = scale P (dO V^T - rowsum(dO O)), dK = dS^T Q, dQ = dS K
// A plan is of a type, sizes, a number of documents and a longest length: documents may be fewer (the rest have no rows) and shorter, unless
// the plan is for even ones.
// Rows are ours, [tokens, heads * size]: tensors [documents, heads, length, size], whose documents begin where offsets on the device say, or
// every `length` rows.
// Stats, and rowsum(dO O), are float32 [documents, heads, length].
// Source: NVIDIA, "cuDNN Graph API" and "cuDNN Backend API", the descriptors of matrix products, pointwise operations and reductions.
#ifndef KERNELS_CUDA_CUDNN_H
#define KERNELS_CUDA_CUDNN_H

#include <cudnn_graph.h>

#include <cstdint>

// cuDNN as the system has it: its functions, and a handle or, where there is no device, the properties of one.
struct Cudnn {
  decltype(&cudnnGetVersion) version;
  decltype(&cudnnCreate) create;
  decltype(&cudnnDestroy) destroy;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor;
  decltype(&cudnnBackendSetAttribute) set_attribute;
  decltype(&cudnnBackendGetAttribute) get_attribute;
  decltype(&cudnnBackendFinalize) finalize;
  decltype(&cudnnBackendExecute) execute;
  cudnnHandle_t handle;
  cudnnBackendDescriptor_t properties;
};

// False where there is no such library, or one without these functions. The handle is left to the caller.
bool cudnn_open(Cudnn *cudnn);

struct CudnnShape {
  cudnnDataType_t type;
  int64_t documents, length;  // the most
  int64_t heads, kv_heads, size;
  bool is_backward;
  bool is_even;  // all documents have the full length and follow one another: there are no offsets
};

// What a plan is given when it runs; the first of each group are addresses on the device, the last three addresses of floats on the host.
enum CudnnTensor {
  CUDNN_Q = 1,
  CUDNN_K,
  CUDNN_V,
  CUDNN_O,
  CUDNN_STATS,
  CUDNN_DO,
  CUDNN_DQ,
  CUDNN_DK,
  CUDNN_DV,
  CUDNN_ROW_SUMS,
  CUDNN_QUERY_OFFSETS,  // int32 [documents + 1], in elements, of Q, dQ, O and dO; not of even documents, as the next
  CUDNN_KEY_OFFSETS,  // of K, dK, V and dV
  CUDNN_QUERY_LENGTHS,  // int32 [documents]
  CUDNN_KEY_LENGTHS,
  CUDNN_SCALE,
  CUDNN_MASKED,
  CUDNN_ONE,
  CUDNN_TENSORS
};

struct CudnnPlan {
  cudnnBackendDescriptor_t plan;  // NULL: there is none
  int64_t workspace_bytes;
  struct CudnnGraph *graph;  // what the plan was made of
  char why[96];  // there is none: what cuDNN would not do
};

// Of the engines that cuDNN proposes the first that always gives the same bits and needs at most `most_bytes` of workspace.
// `cudnn` has to outlive the plan.
CudnnPlan cudnn_plan(const Cudnn &cudnn, const CudnnShape &shape, int64_t most_bytes);
void cudnn_plan_free(CudnnPlan *plan);
// Puts it into the handle's stream.
bool cudnn_run(const Cudnn &cudnn, const CudnnPlan &plan, void *const tensors[CUDNN_TENSORS], void *workspace);

#endif
