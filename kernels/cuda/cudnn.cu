// cuDNN as an engine of attention (attention_engine.h, cudnn.h). The library is not linked: where it is not installed there is no engine.
// A plan takes cuDNN up to some seconds, so there are few: the number of documents is rounded up to a power of two, as is the longest
// length, for the backward pass to an eighth of one, for its workspace grows with the square.
// What cuDNN 9.19 has of this, by its own word for the properties of such cards (none was there; an H100 has borne out documents of one length
// since): both passes for compute capability 8.0 and later, but of documents of different lengths a backward pass that always gives the same bits
// for 9.0 alone.
#include "kernels/cuda/attention_engine.h"
#include "kernels/cuda/cuda.h"

#ifdef __CUDACC__
#if __has_include(<cudnn_graph.h>)
#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/memory.h"

namespace {

enum { PLANS = 48, LEAST_VERSION = 90600, LEAST_LENGTH = 128, MOST_DOCUMENTS = 4096, PLACE = 256 };  // PLACE: bytes that a part of the workspace begins at a multiple of
constexpr int64_t MOST_WORKSPACE = 1 << 30;

struct CachedPlan {
  CudnnShape shape;
  CudnnPlan plan;
};

struct State {
  Cudnn cudnn;
  CachedPlan plans[PLANS];
  int count, next;  // when full the oldest makes room
  bool has_told[2][2];  // why there is no plan, of a pass, of even documents or others: once
};

State *state_of(Device *device) { return static_cast<State *>(device->attention_engine); }

bool is_same(const CudnnShape &a, const CudnnShape &b) {
  return a.type == b.type && a.documents == b.documents && a.length == b.length && a.heads == b.heads && a.kv_heads == b.kv_heads &&
         a.size == b.size && a.is_backward == b.is_backward && a.is_even == b.is_even;
}

int64_t power_from(int64_t count, int64_t least) {
  while (least < count) least *= 2;
  return least;
}

CudnnShape shape_of(const AttentionCall &call, bool is_backward) {
  int64_t most = 1;
  for (int64_t i = 0; i < call.span_count; i++) {
    int64_t length = call.spans[i].query_end - call.spans[i].query_begin;
    most = length > most ? length : most;
  }
  int64_t power = power_from(most, LEAST_LENGTH), step = power / 8 > LEAST_LENGTH ? power / 8 : static_cast<int64_t>(LEAST_LENGTH);
  CudnnShape shape = {};
  shape.type = call.type == FLOAT_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
  shape.is_even = attention_is_even(&call);
  shape.documents = shape.is_even ? call.span_count : power_from(call.span_count, 1);
  shape.length = shape.is_even ? most : is_backward ? (most + step - 1) / step * step : power;
  shape.heads = call.shape.heads, shape.kv_heads = call.shape.kv_heads, shape.size = call.shape.head_size;
  shape.is_backward = is_backward;
  return shape;
}

const CudnnPlan *plan_of(const CudnnShape &shape, State *state) {
  for (int i = 0; i < state->count; i++)
    if (is_same(state->plans[i].shape, shape)) return &state->plans[i].plan;
  CachedPlan *place = &state->plans[state->next];
  state->next = (state->next + 1) % PLANS;
  if (state->count < PLANS) state->count++;
  else cudnn_plan_free(&place->plan);
  *place = {shape, cudnn_plan(state->cudnn, shape, MOST_WORKSPACE)};
  bool *has_told = &state->has_told[shape.is_backward][shape.is_even];
  if (!place->plan.plan && !*has_told) {
    log_info("cuda: cuDNN %d has no plan of attention %s, %d heads of %d, up to %d documents of %s %d: %s",
             static_cast<int>(state->cudnn.version()), shape.is_backward ? "back" : "forward", static_cast<int>(shape.heads),
             static_cast<int>(shape.size), static_cast<int>(shape.documents), shape.is_even ? "all" : "up to",
             static_cast<int>(shape.length), place->plan.why);
    *has_told = true;
  }
  return &place->plan;
}

int64_t stats_bytes(const CudnnShape &shape) {
  return round_up(shape.documents * shape.heads * shape.length * static_cast<int64_t>(sizeof(float)), PLACE);
}
int64_t workspace_bytes(const CudnnShape &shape, const CudnnPlan &plan) {
  return round_up(plan.workspace_bytes, PLACE) + stats_bytes(shape) * (shape.is_backward ? 2 : 1);
}

// Offsets are 32 bits, and documents have to follow one another, in q as in k.
bool has_offsets(const AttentionCall &call) {
  int64_t row = 0, key = 0, widest = call.shape.heads * call.shape.head_size;
  for (int64_t i = 0; i < call.span_count; i++) {
    const AttentionSpan &span = call.spans[i];
    if (span.query_begin < row || span.key_begin < key || span.query_end < span.query_begin) return false;
    row = span.query_end, key = span.key_end;
  }
  return row * widest < INT32_MAX && key * widest < INT32_MAX;
}

bool fits(const AttentionCall *call, bool is_backward, Device *device) {
  const AttentionShape &shape = call->shape;
  if (device->capability < 80 || shape.head_size != shape.value_size || shape.head_size % 8 || shape.head_size > 128) return false;
  if (call->span_count < 1 || call->span_count > MOST_DOCUMENTS || !has_offsets(*call)) return false;
  if (!is_aligned(call->q, call->k, call->v, call->o)) return false;
  if (is_backward && !is_aligned(call->go, call->dq, call->dk, call->dv)) return false;
  CudnnShape wanted = shape_of(*call, is_backward);
  const CudnnPlan *plan = plan_of(wanted, state_of(device));
  if (!plan->plan) return false;
  int64_t bytes = workspace_bytes(wanted, *plan);
  return bytes <= device->workspace_bytes[WORKSPACE_CUDNN] || bytes <= attention_room(device);  // what is more may be wanted elsewhere
}

int64_t workspace(const AttentionCall *call, bool is_backward, Device *device) {
  CudnnShape wanted = shape_of(*call, is_backward);
  const CudnnPlan *plan = plan_of(wanted, state_of(device));
  return plan->plan ? workspace_bytes(wanted, *plan) : 0;
}

// What runs are given of a call beside its rows, all on the device.
struct Lengths {
  const int32_t *query_offsets, *key_offsets, *lengths, *begins;
};

Lengths stage_lengths(const AttentionCall &call, const CudnnShape &shape, Device *device) {
  size_t n = static_cast<size_t>(shape.documents), count = static_cast<size_t>(call.span_count);
  std::vector<int32_t> host(4 * (n + 1));
  int32_t *query_offsets = host.data(), *key_offsets = query_offsets + n + 1, *lengths = key_offsets + n + 1, *begins = lengths + n + 1;
  int64_t query_step = shape.heads * shape.size, key_step = shape.kv_heads * shape.size;
  for (size_t i = 0; i <= n; i++) {
    const AttentionSpan &span = call.spans[i < count ? i : count - 1];
    int64_t query = i < count ? span.query_begin : span.query_end, key = i < count ? span.key_begin : span.key_end;
    query_offsets[i] = static_cast<int32_t>(query * query_step), key_offsets[i] = static_cast<int32_t>(key * key_step);
    lengths[i] = i < count ? static_cast<int32_t>(span.query_end - span.query_begin) : 0;
    begins[i] = static_cast<int32_t>(query);
  }
  const int32_t *staged =
      static_cast<const int32_t *>(device_stage(device, host.data(), static_cast<int64_t>(host.size() * sizeof(int32_t))));
  if (!staged) return {};
  return {staged, staged + n + 1, staged + 2 * (n + 1), staged + 3 * (n + 1)};
}

bool run(const AttentionCall *call, bool is_backward, Device *device) {
  State *state = state_of(device);
  CudnnShape shape = shape_of(*call, is_backward);
  const CudnnPlan *plan = plan_of(shape, state);
  if (!plan->plan) return false;
  Lengths lengths = stage_lengths(*call, shape, device);
  char *workspace = static_cast<char *>(device_workspace(device, WORKSPACE_CUDNN, workspace_bytes(shape, *plan)));
  if (!workspace || !lengths.lengths) return false;
  float *stats = reinterpret_cast<float *>(workspace + round_up(plan->workspace_bytes, PLACE)), *sums = stats + stats_bytes(shape) / 4;
  float scale = call->shape.scale, one = 1;
  // Before 9.10 cuDNN wanted the least number in place of minus infinity.
  float masked = state->cudnn.version() < 91000 ? std::numeric_limits<float>::lowest() : -INFINITY;
  void *tensors[CUDNN_TENSORS] = {};
  tensors[CUDNN_Q] = const_cast<void *>(call->q);
  tensors[CUDNN_K] = const_cast<void *>(call->k), tensors[CUDNN_V] = const_cast<void *>(call->v);
  tensors[CUDNN_O] = call->o, tensors[CUDNN_STATS] = stats;
  if (!shape.is_even) {
    tensors[CUDNN_QUERY_OFFSETS] = const_cast<int32_t *>(lengths.query_offsets);
    tensors[CUDNN_KEY_OFFSETS] = const_cast<int32_t *>(lengths.key_offsets);
  }
  tensors[CUDNN_QUERY_LENGTHS] = tensors[CUDNN_KEY_LENGTHS] = const_cast<int32_t *>(lengths.lengths);
  tensors[CUDNN_SCALE] = &scale, tensors[CUDNN_MASKED] = &masked;
  if (is_backward) {
    attention_stats_of_rows(stats, call->lse, lengths.begins, lengths.lengths, shape.documents, shape.length, shape.heads, device);
    tensors[CUDNN_DO] = const_cast<void *>(call->go);
    tensors[CUDNN_DQ] = call->dq, tensors[CUDNN_DK] = call->dk, tensors[CUDNN_DV] = call->dv;
    tensors[CUDNN_ROW_SUMS] = sums, tensors[CUDNN_ONE] = &one;
  }
  if (!cudnn_run(state->cudnn, *plan, tensors, workspace)) return false;
  attention_rows_of_stats(is_backward ? call->scratch : call->lse, is_backward ? sums : stats, lengths.begins, lengths.lengths,
                          shape.documents, shape.length, shape.heads, device);
  return true;
}

bool forward(const AttentionCall *call, Device *device) { return run(call, false, device); }
bool backward(const AttentionCall *call, Device *device) { return run(call, true, device); }

void close_state(Device *device) {
  State *state = state_of(device);
  for (int i = 0; i < state->count; i++) cudnn_plan_free(&state->plans[i].plan);
  state->cudnn.destroy(state->cudnn.handle);
  free(state);
  device->attention_engine = NULL;
}

const AttentionEngine engine = {"cuDNN", fits, forward, backward, workspace, close_state};

}  // namespace

const AttentionEngine *attention_other_engine(Device *device) {
  Cudnn cudnn;
  if (device->capability < 80 || !cudnn_open(&cudnn) || cudnn.version() < LEAST_VERSION) return NULL;
  if (cudnn.create(&cudnn.handle) != CUDNN_STATUS_SUCCESS) return NULL;
  if (cudnn.set_stream(cudnn.handle, device->stream) != CUDNN_STATUS_SUCCESS) {
    cudnn.destroy(cudnn.handle);
    return NULL;
  }
  State *state = static_cast<State *>(memory_new(1, sizeof *state));
  state->cudnn = cudnn;
  device->attention_engine = state;
  return &engine;
}
#else
const AttentionEngine *attention_other_engine(Device *) { return NULL; }
#endif
#endif
