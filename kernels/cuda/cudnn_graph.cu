// Plans of attention by cuDNN (cudnn.h): the operations of both passes, one by one, from which cuDNN recognises attention and fuses it.
#if defined(__CUDACC__) && __has_include(<cudnn_graph.h>)
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda/cudnn.h"

typedef cudnnBackendDescriptor_t Descriptor;

namespace {

struct Extent {
  int64_t at[4];
};

struct Tensor {
  Descriptor descriptor;
  Extent sizes, steps;
};

Extent swapped(Extent e) { return {{e.at[0], e.at[1], e.at[3], e.at[2]}}; }

}  // namespace

// Descriptors of one graph. The first that fails leaves its name, and nothing after it is done.
struct CudnnGraph {
  CudnnGraph(const Cudnn &library, const CudnnShape &of) : cudnn(library), shape(of) {}
  ~CudnnGraph() {
    for (Descriptor descriptor : descriptors) cudnn.destroy_descriptor(descriptor);
  }
  CudnnGraph(const CudnnGraph &) = delete;
  CudnnGraph &operator=(const CudnnGraph &) = delete;

  bool is_whole() const { return !failed[0]; }

  void fail(const char *what, int status) {
    if (is_whole()) snprintf(failed, sizeof failed, "%s (status %d)", what, status);
  }

  Descriptor begin(cudnnBackendDescriptorType_t type) {
    Descriptor descriptor = NULL;
    if (!is_whole()) return NULL;
    cudnnStatus_t status = cudnn.create_descriptor(type, &descriptor);
    if (status != CUDNN_STATUS_SUCCESS) {
      fail("a descriptor", status);
      return NULL;
    }
    descriptors.push_back(descriptor);
    return descriptor;
  }
  void set(Descriptor descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    if (!is_whole()) return;
    cudnnStatus_t status = cudnn.set_attribute(descriptor, name, type, count, values);
    char what[32];
    snprintf(what, sizeof what, "attribute %d", static_cast<int>(name));
    if (status != CUDNN_STATUS_SUCCESS) fail(what, status);
  }
  void set(Descriptor descriptor, cudnnBackendAttributeName_t name, Descriptor value) {
    set(descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
  }
  void end(Descriptor descriptor, const char *what) {
    if (!is_whole()) return;
    cudnnStatus_t status = cudnn.finalize(descriptor);
    if (status != CUDNN_STATUS_SUCCESS) fail(what, status);
  }

  // id 0: a value within the graph.
  Tensor tensor(int64_t id, cudnnDataType_t type, Extent sizes, Extent steps, Descriptor offsets = NULL, bool is_host = false) {
    Descriptor d = begin(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t alignment = 16, unique = id ? id : next_value++;
    bool is_virtual = id == 0;
    set(d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, sizes.at);
    set(d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, steps.at);
    set(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &unique);
    set(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    set(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &is_host);
    if (offsets) set(d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, offsets);
    end(d, "a tensor");
    return {d, sizes, steps};
  }
  Tensor value(cudnnDataType_t type, Extent sizes) { return tensor(0, type, sizes, packed(sizes)); }
  Tensor number(int64_t id) { return tensor(id, CUDNN_DATA_FLOAT, {{1, 1, 1, 1}}, {{1, 1, 1, 1}}, NULL, true); }
  Tensor counts(int64_t id, int64_t count) { return tensor(id, CUDNN_DATA_INT32, {{count, 1, 1, 1}}, {{1, 1, 1, 1}}); }
  // Rows of ours.
  Tensor rows(int64_t id, int64_t heads, Descriptor offsets) {
    int64_t step = heads * shape.size;
    return tensor(id, shape.type, {{shape.documents, heads, shape.length, shape.size}}, {{shape.length * step, shape.size, step, 1}},
                  offsets);
  }
  // With its last two dimensions exchanged.
  Tensor transposed_rows(int64_t id, int64_t heads, Descriptor offsets) {
    int64_t step = heads * shape.size;
    return tensor(id, shape.type, {{shape.documents, heads, shape.size, shape.length}}, {{shape.length * step, shape.size, 1, step}},
                  offsets);
  }

  static Extent packed(Extent sizes) {
    const int64_t *n = sizes.at;
    return {{n[1] * n[2] * n[3], n[2] * n[3], n[3], 1}};
  }

  void pointwise_into(const Tensor &y, cudnnPointwiseMode_t mode, const Tensor &x, const Tensor *b = NULL, const Tensor *t = NULL,
                      int64_t axis = -1, cudnnDataType_t arithmetic = CUDNN_DATA_FLOAT) {
    Descriptor how = begin(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &arithmetic);
    if (axis >= 0) set(how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    end(how, "a pointwise mode");
    Descriptor d = begin(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set(d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set(d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x.descriptor);
    if (b) set(d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b->descriptor);
    if (t) set(d, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t->descriptor);
    set(d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y.descriptor);
    end(d, "a pointwise operation");
    operations.push_back(d);
  }
  Tensor pointwise(cudnnPointwiseMode_t mode, const Tensor &x) {
    Tensor y = value(CUDNN_DATA_FLOAT, x.sizes);
    pointwise_into(y, mode, x);
    return y;
  }
  Tensor pointwise(cudnnPointwiseMode_t mode, const Tensor &x, const Tensor &b) {
    Tensor y = value(CUDNN_DATA_FLOAT, x.sizes);
    pointwise_into(y, mode, x, &b);
    return y;
  }
  Tensor index(const Tensor &x, int64_t axis) {
    Tensor y = value(CUDNN_DATA_INT32, x.sizes);
    pointwise_into(y, CUDNN_POINTWISE_GEN_INDEX, x, NULL, NULL, axis, CUDNN_DATA_INT32);
    return y;
  }
  Tensor compare(cudnnPointwiseMode_t mode, const Tensor &x, const Tensor &b) {
    Tensor y = value(CUDNN_DATA_BOOLEAN, x.sizes);
    pointwise_into(y, mode, x, &b, NULL, -1, CUDNN_DATA_BOOLEAN);
    return y;
  }
  Tensor select(const Tensor &x, const Tensor &otherwise, const Tensor &where) {
    Tensor y = value(CUDNN_DATA_FLOAT, x.sizes);
    pointwise_into(y, CUDNN_POINTWISE_BINARY_SELECT, x, &otherwise, &where);
    return y;
  }

  void reduce_into(const Tensor &y, cudnnReduceTensorOp_t mode, const Tensor &x) {
    cudnnDataType_t arithmetic = CUDNN_DATA_FLOAT;
    Descriptor how = begin(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
    set(how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &arithmetic);
    end(how, "a reduction mode");
    Descriptor d = begin(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set(d, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    set(d, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x.descriptor);
    set(d, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y.descriptor);
    end(d, "a reduction");
    operations.push_back(d);
  }
  Tensor reduce(cudnnReduceTensorOp_t mode, const Tensor &x) {
    Tensor y = value(CUDNN_DATA_FLOAT, {{x.sizes.at[0], x.sizes.at[1], x.sizes.at[2], 1}});
    reduce_into(y, mode, x);
    return y;
  }

  // c[m, n] = a[m, k] b[k, n]; the lengths that two of m, n and k truly have in each document.
  void multiply_into(const Tensor &c, const Tensor &a, const Tensor &b, const Tensor *m, const Tensor *n, const Tensor *k) {
    cudnnDataType_t arithmetic = CUDNN_DATA_FLOAT;
    double padding = 0;
    Descriptor how = begin(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &arithmetic);
    if (m && n && !shape.is_backward) set(how, CUDNN_ATTR_MATMUL_PADDING_VALUE, CUDNN_TYPE_DOUBLE, 1, &padding);
    end(how, "a matrix product's mode");
    Descriptor d = begin(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set(d, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    set(d, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a.descriptor);
    set(d, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b.descriptor);
    set(d, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c.descriptor);
    if (m) set(d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, m->descriptor);
    if (n) set(d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n->descriptor);
    if (k) set(d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, k->descriptor);
    end(d, "a matrix product");
    operations.push_back(d);
  }

  // The same elements with the last two dimensions exchanged.
  Tensor transpose(const Tensor &x, cudnnDataType_t type, Descriptor offsets = NULL) {
    Tensor y = tensor(0, type, swapped(x.sizes), swapped(x.steps), offsets);
    Descriptor d = begin(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set(d, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x.descriptor);
    set(d, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y.descriptor);
    end(d, "a transposition");
    operations.push_back(d);
    return y;
  }

  CudnnPlan plan(int64_t most_bytes);

  CudnnPlan plan_by(Descriptor graph, cudnnBackendHeurMode_t mode, int64_t most_bytes);
  bool is_repeatable(Descriptor config);

  const Cudnn &cudnn;
  CudnnShape shape;
  std::vector<Descriptor> descriptors, operations;
  int64_t next_value = 1000;
  char failed[96] = "";
};

namespace {

typedef CudnnGraph Graph;

// What both passes begin with.
struct Inputs {
  Tensor query_offsets = {}, key_offsets = {};  // no descriptors: none
  Tensor query_lengths, key_lengths, scale, masked, q, k;

  explicit Inputs(Graph *g, const CudnnShape &shape) {
    if (!shape.is_even) {
      query_offsets = g->counts(CUDNN_QUERY_OFFSETS, shape.documents + 1);
      key_offsets = g->counts(CUDNN_KEY_OFFSETS, shape.documents + 1);
    }
    query_lengths = g->counts(CUDNN_QUERY_LENGTHS, shape.documents);
    key_lengths = g->counts(CUDNN_KEY_LENGTHS, shape.documents);
    scale = g->number(CUDNN_SCALE);
    masked = g->number(CUDNN_MASKED);
    q = g->rows(CUDNN_Q, shape.heads, query_offsets.descriptor);
    k = g->transposed_rows(CUDNN_K, shape.kv_heads, key_offsets.descriptor);
  }

  // scale Q K^T
  Tensor scores(Graph *g, const CudnnShape &shape) const {
    Tensor s = g->value(CUDNN_DATA_FLOAT, {{shape.documents, shape.heads, shape.length, shape.length}});
    g->multiply_into(s, q, k, &query_lengths, &key_lengths, NULL);
    return g->pointwise(CUDNN_POINTWISE_MUL, s, scale);
  }

  // `s` where a query sees a key of its document, else what exp makes 0.
  Tensor seen(Graph *g, const Tensor &s) const {
    Tensor row = g->index(s, 2), column = g->index(s, 3);
    Tensor is_row = g->compare(CUDNN_POINTWISE_CMP_LT, row, query_lengths),
           is_column = g->compare(CUDNN_POINTWISE_CMP_LT, column, key_lengths);
    Tensor in_document = g->select(s, masked, g->compare(CUDNN_POINTWISE_LOGICAL_AND, is_row, is_column));
    Tensor query = g->index(in_document, 2), key = g->index(in_document, 3);
    return g->select(in_document, masked, g->compare(CUDNN_POINTWISE_CMP_GE, query, key));
  }
};

void describe_forward(Graph *g, const CudnnShape &shape) {
  Inputs in(g, shape);
  Tensor v = g->rows(CUDNN_V, shape.kv_heads, in.key_offsets.descriptor), o = g->rows(CUDNN_O, shape.heads, in.query_offsets.descriptor);
  Extent per_row = {{shape.documents, shape.heads, shape.length, 1}};
  Tensor stats = g->tensor(CUDNN_STATS, CUDNN_DATA_FLOAT, per_row, Graph::packed(per_row));
  Tensor s = in.seen(g, in.scores(g, shape));
  Tensor largest = g->reduce(CUDNN_REDUCE_TENSOR_MAX, s);
  Tensor weights = g->pointwise(CUDNN_POINTWISE_EXP, g->pointwise(CUDNN_POINTWISE_SUB, s, largest));
  Tensor sum = g->reduce(CUDNN_REDUCE_TENSOR_ADD, weights);
  Tensor log_sum = g->pointwise(CUDNN_POINTWISE_LOG, sum);
  g->pointwise_into(stats, CUDNN_POINTWISE_ADD, largest, &log_sum);
  Tensor p = g->value(shape.type, s.sizes);
  g->pointwise_into(p, CUDNN_POINTWISE_DIV, weights, &sum);
  g->multiply_into(o, p, v, &in.query_lengths, NULL, &in.key_lengths);
}

// dy[key, size] = w^T x, w[query, key] per head of the queries; the heads that read one KV head are added up.
void describe_key_gradient(Graph *g, const CudnnShape &shape, const Inputs &in, CudnnTensor id, const Tensor &w, const Tensor &x) {
  Tensor dy = g->rows(id, shape.kv_heads, in.key_offsets.descriptor);
  Tensor transposed = g->transpose(w, shape.type);
  if (shape.heads == shape.kv_heads) {
    g->multiply_into(dy, transposed, x, &in.key_lengths, NULL, &in.query_lengths);
    return;
  }
  Tensor of_heads = g->value(shape.type, {{shape.documents, shape.heads, shape.length, shape.size}});
  g->multiply_into(of_heads, transposed, x, &in.key_lengths, NULL, &in.query_lengths);
  g->reduce_into(dy, CUDNN_REDUCE_TENSOR_ADD, of_heads);
}

// dQ is a product like the others, not a sum that blocks add to in any order: for that cuDNN keeps dS in its workspace.
void describe_backward(Graph *g, const CudnnShape &shape) {
  Inputs in(g, shape);
  Descriptor query_offsets = in.query_offsets.descriptor;
  Tensor v = g->transposed_rows(CUDNN_V, shape.kv_heads, in.key_offsets.descriptor);
  Tensor o = g->rows(CUDNN_O, shape.heads, query_offsets), go = g->rows(CUDNN_DO, shape.heads, query_offsets);
  Extent per_row = {{shape.documents, shape.heads, shape.length, 1}};
  Tensor stats = g->tensor(CUDNN_STATS, CUDNN_DATA_FLOAT, per_row, Graph::packed(per_row));
  Tensor row_sums = g->tensor(CUDNN_ROW_SUMS, CUDNN_DATA_FLOAT, per_row, Graph::packed(per_row));
  Tensor one = g->number(CUDNN_ONE);
  g->pointwise_into(row_sums, CUDNN_POINTWISE_MUL, g->reduce(CUDNN_REDUCE_TENSOR_ADD, g->pointwise(CUDNN_POINTWISE_MUL, go, o)), &one);
  Tensor s = in.scores(g, shape);
  Tensor p = g->pointwise(CUDNN_POINTWISE_EXP, in.seen(g, g->pointwise(CUDNN_POINTWISE_SUB, s, stats)));
  describe_key_gradient(g, shape, in, CUDNN_DV, p, go);
  Tensor dp = g->value(CUDNN_DATA_FLOAT, s.sizes);
  g->multiply_into(dp, go, v, &in.query_lengths, &in.key_lengths, NULL);
  Tensor unscaled = g->pointwise(CUDNN_POINTWISE_MUL, g->pointwise(CUDNN_POINTWISE_SUB, dp, row_sums), p);
  Tensor ds = g->pointwise(CUDNN_POINTWISE_MUL, unscaled, in.scale);
  describe_key_gradient(g, shape, in, CUDNN_DK, ds, in.q);
  Tensor dq = g->rows(CUDNN_DQ, shape.heads, query_offsets);
  g->multiply_into(dq, ds, g->transpose(in.k, shape.type, in.key_offsets.descriptor), &in.query_lengths, NULL, &in.key_lengths);
}

}  // namespace

// Whether the engine's own notes promise the same bits again.
bool CudnnGraph::is_repeatable(Descriptor config) {
  Descriptor engine = begin(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  int64_t count = 0;
  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT + 16];
  if (!engine ||
      cudnn.get_attribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine) != CUDNN_STATUS_SUCCESS)
    return false;
  if (cudnn.get_attribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, sizeof notes / sizeof *notes, &count,
                          notes) != CUDNN_STATUS_SUCCESS)
    return false;
  for (int64_t i = 0; i < count; i++)
    if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) return false;
  return true;
}

CudnnPlan CudnnGraph::plan_by(Descriptor graph, cudnnBackendHeurMode_t mode, int64_t most_bytes) {
  CudnnPlan none = {};
  enum { MOST = 16 };
  Descriptor heuristics = begin(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR), configs[MOST];
  set(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  set(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (cudnn.properties) set(heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, cudnn.properties);
  end(heuristics, "no engine has this attention");
  for (Descriptor &config : configs) config = begin(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  int64_t count = 0;
  if (!is_whole()) return none;
  cudnnStatus_t status =
      cudnn.get_attribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, MOST, &count, configs);
  if (status != CUDNN_STATUS_SUCCESS || count == 0) fail("no engine was proposed", status);
  const char *why = "no plan could be made";
  for (int64_t i = 0; i < count && i < MOST && is_whole(); i++) {
    if (!is_repeatable(configs[i])) {
      why = "no engine that always gives the same bits";
      continue;
    }
    Descriptor plan = NULL;
    if (cudnn.create_descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan) != CUDNN_STATUS_SUCCESS) continue;
    int64_t bytes = 0, got = 0;
    if (cudnn.properties)
      cudnn.set_attribute(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &cudnn.properties);
    else cudnn.set_attribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &cudnn.handle);
    bool is_made =
        cudnn.set_attribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &configs[i]) ==
            CUDNN_STATUS_SUCCESS &&
        cudnn.finalize(plan) == CUDNN_STATUS_SUCCESS &&
        cudnn.get_attribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &got, &bytes) == CUDNN_STATUS_SUCCESS;
    if (is_made && bytes <= most_bytes) return {plan, bytes, this, ""};
    if (is_made) why = "it needs too large a workspace";
    cudnn.destroy_descriptor(plan);
  }
  fail(why, CUDNN_STATUS_SUCCESS);
  return none;
}

CudnnPlan CudnnGraph::plan(int64_t most_bytes) {
  Descriptor graph = begin(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(operations.size()), operations.data());
  if (cudnn.handle) set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &cudnn.handle);
  end(graph, "the graph");
  CudnnPlan plan = plan_by(graph, CUDNN_HEUR_MODE_A, most_bytes);
  snprintf(plan.why, sizeof plan.why, "%s", failed);
  return plan;
}

bool cudnn_open(Cudnn *cudnn) {
  void *library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
  if (!library) return false;
  bool is_whole = true;
  auto find = [&](auto *function, const char *name) {
    void *address = dlsym(library, name);
    is_whole = is_whole && address;
    memcpy(function, &address, sizeof address);
  };
  *cudnn = Cudnn();
  find(&cudnn->version, "cudnnGetVersion");
  find(&cudnn->create, "cudnnCreate");
  find(&cudnn->destroy, "cudnnDestroy");
  find(&cudnn->set_stream, "cudnnSetStream");
  find(&cudnn->create_descriptor, "cudnnBackendCreateDescriptor");
  find(&cudnn->destroy_descriptor, "cudnnBackendDestroyDescriptor");
  find(&cudnn->set_attribute, "cudnnBackendSetAttribute");
  find(&cudnn->get_attribute, "cudnnBackendGetAttribute");
  find(&cudnn->finalize, "cudnnBackendFinalize");
  find(&cudnn->execute, "cudnnBackendExecute");
  return is_whole;  // the library stays open: its threads and the driver's may outlive a device
}

CudnnPlan cudnn_plan(const Cudnn &cudnn, const CudnnShape &shape, int64_t most_bytes) {
  CudnnGraph *graph = new CudnnGraph(cudnn, shape);
  if (shape.is_backward) describe_backward(graph, shape);
  else describe_forward(graph, shape);
  CudnnPlan plan = graph->plan(most_bytes);
  if (!plan.plan) delete graph;
  return plan;
}

void cudnn_plan_free(CudnnPlan *plan) {
  if (!plan->plan) return;
  plan->graph->cudnn.destroy_descriptor(plan->plan);
  delete plan->graph;
  *plan = CudnnPlan();
}

bool cudnn_run(const Cudnn &cudnn, const CudnnPlan &plan, void *const tensors[CUDNN_TENSORS], void *workspace) {
  int64_t ids[CUDNN_TENSORS], count = 0;
  void *addresses[CUDNN_TENSORS];
  for (int64_t id = 1; id < CUDNN_TENSORS; id++)
    if (tensors[id]) ids[count] = id, addresses[count++] = tensors[id];
  Descriptor pack = NULL;
  if (cudnn.create_descriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack) != CUDNN_STATUS_SUCCESS) return false;
  bool is_run =
      cudnn.set_attribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids) == CUDNN_STATUS_SUCCESS &&
      cudnn.set_attribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, addresses) == CUDNN_STATUS_SUCCESS &&
      cudnn.set_attribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace) == CUDNN_STATUS_SUCCESS &&
      cudnn.finalize(pack) == CUDNN_STATUS_SUCCESS && cudnn.execute(cudnn.handle, plan.plan, pack) == CUDNN_STATUS_SUCCESS;
  cudnn.destroy_descriptor(pack);
  return is_run;
}
#endif
