// The router of a mixture of experts (kernels/experts.h), a warp a row of logits[experts]. With s the scores, S the sum of those of the
// chosen (+ ROUTER_LEAST_SUM):
//   w_k = scale s_k / S, or scale s_k;   ds_k = scale (dw_k - sum_j dw_j s_j / S) / S, or scale dw_k
//   softmax: dl_e = s_e (ds_e - sum_k ds_k s_k);   sigmoid: dl_e = ds_e s_e (1 - s_e);   ds_e = 0 of those that are not chosen
// The choice is router_choose's (kernels/router.c). Totals are summed by warp, by block, and then over blocks, each in one order.
#include <cfloat>
#include <climits>

#include "kernels/cuda/elements.h"

enum { ROUTER_WARPS = 8, ROUTER_ROWS = 4, ROUTER_SHARED = 48 << 10 };  // warps a block and rows a warp, at most

// Shared memory of a warp: floats.
static __host__ __device__ inline int warp_floats(const RouterSettings &router) {
  return static_cast<int>(4 * router.experts + (router.groups > 1 ? router.groups : 0));
}

// Sets scores[experts], and returns what they add up to.
__device__ __forceinline__ float row_scores(float *scores, const float *logits, const RouterSettings &router, int lane) {
  int experts = static_cast<int>(router.experts);
  float largest = -INFINITY, sum = 0;
  if (!router.is_sigmoid) {
    for (int e = lane; e < experts; e += WARP) largest = fmaxf(largest, logits[e]);
    largest = warp_max(largest);
  }
  for (int e = lane; e < experts; e += WARP) {
    scores[e] = router.is_sigmoid ? 1.0f / (1.0f + expf(-logits[e])) : expf(logits[e] - largest);
    sum += scores[e];
  }
  sum = warp_sum(sum);
  if (router.is_sigmoid) {
    __syncwarp();
    return sum;
  }
  for (int e = lane; e < experts; e += WARP) scores[e] /= sum;
  __syncwarp();
  return 1;
}

// The place of the largest of values[count], the first of equal ones, for all lanes.
__device__ __forceinline__ int largest_place(const float *values, int count, int lane) {
  float largest = -INFINITY;
  int place = INT_MAX;
  for (int i = lane; i < count; i += WARP)
    if (values[i] > largest) largest = values[i], place = i;
  for (int step = WARP / 2; step; step /= 2) {
    float other = __shfl_xor_sync(0xffffffffu, largest, step);
    int other_place = __shfl_xor_sync(0xffffffffu, place, step);
    if (other > largest || (other == largest && other_place < place)) largest = other, place = other_place;
  }
  return place;
}

__device__ __forceinline__ float group_score(const float *choice, int count, bool by_two) {
  float best = -INFINITY, second = -INFINITY;
  for (int i = 0; i < count; i++) {
    if (choice[i] > best) second = best, best = choice[i];
    else if (choice[i] > second) second = choice[i];
  }
  float score = by_two && count > 1 ? best + second : best;
  return score > -FLT_MAX ? score : -FLT_MAX;
}

// All experts but those of the best groups become -infinity. A group that is among them has its score set to that, as a mark.
__device__ __forceinline__ void leave_groups(float *choice, float *scores, const RouterSettings &router, int lane) {
  int groups = static_cast<int>(router.groups), size = static_cast<int>(router.experts) / groups;
  for (int g = lane; g < groups; g += WARP) scores[g] = group_score(choice + g * size, size, router.groups_by_two);
  __syncwarp();
  for (int i = 0; i < router.groups_used; i++) {
    int g = largest_place(scores, groups, lane);
    __syncwarp();
    if (lane == 0) scores[g] = -INFINITY;
    __syncwarp();
  }
  for (int e = lane; e < router.experts; e += WARP)
    if (scores[e / size] > -INFINITY) choice[e] = -INFINITY;
  __syncwarp();
}

__device__ __forceinline__ float chosen_sum(const float *scores, const int32_t *chosen, const RouterSettings &router) {
  float sum = ROUTER_LEAST_SUM;
  for (int k = 0; k < router.used && router.is_normalized; k++) sum += scores[chosen[k]];
  return router.is_normalized ? sum : 1;
}

// `counts` and `shares` are this warp's, [experts] each; expert e's is lane e % WARP's.
__device__ __forceinline__ void choose_row(int32_t *chosen, float *weights, float *counts, float *shares, const float *logits, float *room,
                                           const RouterSettings &router, int lane) {
  int experts = static_cast<int>(router.experts), used = static_cast<int>(router.used);
  float *scores = room, *choice = room + experts, sum = row_scores(scores, logits, router, lane), total = ROUTER_LEAST_SUM;
  for (int e = lane; e < experts; e += WARP) {
    float value = scores[e] + (router.bias ? router.bias[e] : 0.0f);
    choice[e] = value > -FLT_MAX ? value : -FLT_MAX;  // NaN, too, is the lowest
    shares[e] += scores[e] / sum;
  }
  __syncwarp();
  if (router.groups > 1) leave_groups(choice, room + 4 * experts, router, lane);
  for (int k = 0; k < used; k++) {
    int e = largest_place(choice, experts, lane);
    total += scores[e];
    __syncwarp();
    if (lane == e % WARP) {
      choice[e] = -INFINITY;
      counts[e] += 1;
      chosen[k] = e;
      weights[k] = scores[e];
    }
    __syncwarp();
  }
  float scale = router.is_normalized ? router.scale / total : router.scale;
  for (int k = lane; k < used; k += WARP) weights[k] *= scale;
}

__global__ void __launch_bounds__(ROUTER_WARPS *WARP)
    router_forward_kernel(int32_t *chosen, float *weights, float *parts, const float *logits, RouterSettings router, int64_t n) {
  DYNAMIC_SHARED(float, memory);
  int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, experts = static_cast<int>(router.experts);
  float *room = memory + warp * warp_floats(router), *counts = room + 2 * experts;
  for (int i = lane; i < 2 * experts; i += WARP) counts[i] = 0;
  __syncwarp();
  int64_t first = (static_cast<int64_t>(blockIdx.x) * warps + warp) * ROUTER_ROWS;
  for (int64_t i = first; i < first + ROUTER_ROWS && i < n; i++) {
    choose_row(chosen + i * router.used, weights + i * router.used, counts, counts + experts, logits + i * experts, room, router, lane);
    __syncwarp();
  }
  if (!parts) return;
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * experts; i += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < warps; w++) sum += memory[w * warp_floats(router) + 2 * experts + i];
    parts[static_cast<int64_t>(blockIdx.x) * 2 * experts + i] = sum;
  }
}

__global__ void __launch_bounds__(WARP) router_totals_kernel(float *totals, const float *parts, int64_t blocks, int count) {
  int i = blockIdx.x * WARP + threadIdx.x;
  double sum = 0;
  for (int64_t b = 0; i < count && b < blocks; b++) sum += static_cast<double>(parts[b * count + i]);
  if (i < count) totals[i] = static_cast<float>(static_cast<double>(totals[i]) + sum);
}

static int router_warps(const RouterSettings *router) {
  int fitting = static_cast<int>(ROUTER_SHARED / (warp_floats(*router) * sizeof(float)));
  return fitting < 1 ? 1 : fitting < ROUTER_WARPS ? fitting : static_cast<int>(ROUTER_WARPS);
}

void cuda_router_forward(int32_t *chosen, float *weights, float *totals, const float *logits, const RouterSettings *router, int64_t n,
                         Backend *backend) {
  Device *device = device_of(backend);
  if (n == 0) return;
  int warps = router_warps(router), count = static_cast<int>(2 * router->experts);
  unsigned blocks = blocks_for(n, warps * ROUTER_ROWS);
  int64_t bytes = static_cast<int64_t>(blocks) * count * static_cast<int64_t>(sizeof(float));
  float *parts = totals ? static_cast<float *>(device_workspace(device, WORKSPACE_PARTS, bytes)) : nullptr;
  if (totals && !parts) return;
  LAUNCH(device, router_forward_kernel, blocks, warps * WARP, warps * warp_floats(*router) * sizeof(float), chosen, weights, parts, logits,
         *router, n);
  if (totals) LAUNCH(device, router_totals_kernel, blocks_for(count, WARP), WARP, 0, totals, parts, blocks, count);
}

__global__ void __launch_bounds__(ROUTER_WARPS *WARP) router_backward_kernel(float *dlogits, const float *dweights, const float *logits,
                                                                             const int32_t *chosen, RouterSettings router, int64_t n) {
  DYNAMIC_SHARED(float, memory);
  int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  int experts = static_cast<int>(router.experts), used = static_cast<int>(router.used);
  int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp;
  float *scores = memory + warp * warp_floats(router), *dscores = scores + experts, shift = 0, mean = 0;
  if (row >= n) return;
  chosen += row * used, dweights += row * used;
  row_scores(scores, logits + row * experts, router, lane);
  for (int e = lane; e < experts; e += WARP) dscores[e] = 0;
  __syncwarp();
  float sum = chosen_sum(scores, chosen, router), scale = router.scale / sum;
  for (int k = lane; k < used && router.is_normalized; k += WARP) shift += dweights[k] * (scores[chosen[k]] / sum);
  shift = warp_sum(shift);
  for (int k = lane; k < used; k += WARP) {
    dscores[chosen[k]] = scale * (dweights[k] - shift);
    mean += scale * (dweights[k] - shift) * scores[chosen[k]];
  }
  mean = warp_sum(mean);
  __syncwarp();
  for (int e = lane; e < experts; e += WARP)
    dlogits[row * experts + e] = scores[e] * (router.is_sigmoid ? dscores[e] * (1 - scores[e]) : dscores[e] - mean);
}

void cuda_router_backward(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen, const RouterSettings *router,
                          int64_t n, Backend *backend) {
  Device *device = device_of(backend);
  int warps = router_warps(router);
  if (n == 0) return;
  LAUNCH(device, router_backward_kernel, blocks_for(n, warps), warps * WARP, warps * warp_floats(*router) * sizeof(float), dlogits,
         dweights, logits, chosen, *router, n);
}
