// Kernels for the test of the simulated device, right ones and faulty ones; a case a run: simulator_kernels CASE. Exits with 0 when the
// case found what it says. test_simulator.cc knows what becomes of each.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/cuda/device.h"

#define EXPECT(condition) \
  if (!(condition)) return printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition), 1

// An array on the device that the host can read and write in passing.
template <typename T>
struct Array {
  T *at;
  size_t count;
  explicit Array(size_t count_) : at(nullptr), count(count_) { cudaMalloc(&at, count * sizeof(T)); }
  explicit Array(const std::vector<T> &values) : Array(values.size()) { cudaMemcpy(at, values.data(), count * sizeof(T), cudaMemcpyHostToDevice); }
  ~Array() { cudaFree(at); }
  Array(const Array &) = delete;
  std::vector<T> values() const {
    std::vector<T> out(count);
    cudaMemcpy(out.data(), at, count * sizeof(T), cudaMemcpyDeviceToHost);
    return out;
  }
};

static uint32_t random_state = 1;
static float random_float() {
  random_state = random_state * 1664525u + 1013904223u;
  return static_cast<float>(static_cast<int32_t>(random_state) >> 16) * 0x1p-15f;
}
template <typename T>
static std::vector<T> random_values(size_t count) {
  std::vector<T> values(count);
  for (T &value : values) value = from_float<T>(random_float());
  return values;
}

// c[16, 8] = a[16, 16] b[16, 8], with the fragments' layout written out (device.h).
template <typename T>
__global__ void fragments_multiply(float *c, const T *a, const T *b) {
  int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
  uint32_t a_part[4], b_part[2];
  for (int i = 0; i < 4; i++) memcpy(&a_part[i], &a[(g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8], 4);
  for (int i = 0; i < 2; i++) {
    T pair[2] = {b[(2 * t + 8 * i) * 8 + g], b[(2 * t + 8 * i + 1) * 8 + g]};
    memcpy(&b_part[i], pair, 4);
  }
  float d[4] = {};
  mma_16x8x16<T>(d, a_part, b_part);
  for (int i = 0; i < 4; i++) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}

// The same by ldmatrix, as kernels do: a by rows, b transposed; by way of cp.async.
template <typename T>
__global__ void tiles_multiply(float *c, const T *a, const T *b) {
  SHARED(Packet<T>, a_tile, [16][3]);
  SHARED(Packet<T>, b_tile, [16][1]);
  int lane = (int)threadIdx.x;
  cp_async16(&a_tile[lane / 2][lane % 2], a + lane * 8);
  if (lane < 16) cp_async16(&b_tile[lane][0], b + lane * 8);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  uint32_t a_part[4], b_part[4];
  ldmatrix_x4(a_part, &a_tile[lane % 16][lane / 16]);
  ldmatrix_x4_trans(b_part, &b_tile[lane % 16][0]);
  float d[4] = {};
  mma_16x8x16<T>(d, a_part, b_part);
  for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

template <typename T>
static int multiplies(void (*kernel)(float *, const T *, const T *)) {
  std::vector<T> a = random_values<T>(256), b = random_values<T>(128);
  Array<T> a_there(a), b_there(b);
  Array<float> c_there(128);
  EXPECT(launch(kernel, 1, WARP, 0, nullptr, c_there.at, a_there.at, b_there.at) == cudaSuccess);
  std::vector<float> c = c_there.values();
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      float sum = 0;
      for (int k = 0; k < 16; k++) sum += to_float(a[i * 16 + k]) * to_float(b[k * 8 + j]);
      EXPECT(c[i * 8 + j] == sum);
    }
  return 0;
}
static int fragments_bf16() { return multiplies<bf16>(fragments_multiply<bf16>); }
static int fragments_fp16() { return multiplies<fp16>(fragments_multiply<fp16>); }
static int tiles_bf16() { return multiplies<bf16>(tiles_multiply<bf16>); }
static int tiles_fp16() { return multiplies<fp16>(tiles_multiply<fp16>); }

// All that lanes tell each other, 12 numbers a lane.
__global__ void lanes_talk(int *out) {
  int lane = (int)threadIdx.x, *mine = out + lane * 12;
  mine[0] = __shfl_sync(0xffffffffu, lane, 5);
  mine[1] = __shfl_sync(0xffffffffu, lane, lane + 1, 8);
  mine[2] = __shfl_xor_sync(0xffffffffu, lane, 9);
  mine[3] = __shfl_down_sync(0xffffffffu, lane, 3u);
  mine[4] = __shfl_up_sync(0xffffffffu, lane, 3u, 16);
  mine[5] = (int)__ballot_sync(0xffffffffu, lane % 3 == 0);
  mine[6] = __any_sync(0xffffffffu, lane == 31);
  mine[7] = __all_sync(0xffffffffu, lane < 31);
  mine[8] = (int)warp_sum((float)lane);
  mine[9] = __syncthreads_or(lane == 7);
  if (lane < 16) mine[10] = __shfl_xor_sync(0x0000ffffu, lane, 1);  // two halves on two ways at once
  else mine[10] = __shfl_xor_sync(0xffff0000u, lane, 3);
  __syncwarp();
  mine[11] = atomicAdd(out + WARP * 12, lane);
}
static int lanes() {
  Array<int> there(std::vector<int>(WARP * 12 + 1, 0));
  EXPECT(launch(lanes_talk, 1, WARP, 0, nullptr, there.at) == cudaSuccess);
  std::vector<int> out = there.values();
  for (int lane = 0; lane < WARP; lane++) {
    const int *mine = out.data() + lane * 12;
    EXPECT(mine[0] == 5 && mine[1] == lane / 8 * 8 + (lane + 1) % 8 && mine[2] == (lane ^ 9));
    EXPECT(mine[3] == (lane + 3 < 32 ? lane + 3 : lane) && mine[4] == (lane % 16 >= 3 ? lane - 3 : lane));
    EXPECT((unsigned)mine[5] == 0x49249249u && mine[6] == 1 && mine[7] == 0 && mine[8] == 496 && mine[9] == 1);
    EXPECT(mine[10] == (lane < 16 ? lane ^ 1 : lane ^ 3) && mine[11] <= 496);
  }
  EXPECT(out[WARP * 12] == 496);
  return 0;
}

// Two declarations of one name have two places, and those of run-time size their own; blocks begin with NaN.
template <typename T>
__device__ T reversed(T x) {
  SHARED(T, room, [64]);
  room[threadIdx.x] = x;
  __syncthreads();
  return room[63 - threadIdx.x];
}
__global__ void reverse(float *out, int *whole, int fresh) {
  DYNAMIC_SHARED(float, room);
  SHARED(int, flag, );
  if (threadIdx.x == 0 && fresh == 0 && isnan(room[0]) && flag == -1) whole[blockIdx.x] = 1;
  __syncthreads();
  float x = reversed((float)threadIdx.x) + 0 * (float)reversed((int)threadIdx.x);
  room[threadIdx.x] = x;
  if (threadIdx.x == 0) flag = 1000;
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = room[threadIdx.x ^ 1] + (float)flag;
}
static int shared() {
  Array<float> there(192);
  Array<int> fresh(std::vector<int>(3, 0));
  EXPECT(launch(reverse, dim3(1, 1, 1), 64, 64 * sizeof(float), nullptr, there.at, fresh.at, 1) == cudaSuccess);
  EXPECT(launch(reverse, 3, 64, 64 * sizeof(float), nullptr, there.at, fresh.at, 0) == cudaSuccess);
  std::vector<float> out = there.values();
  for (int i = 0; i < 192; i++) EXPECT(out[i] == 1000 + 63 - (i % 64 ^ 1));
  for (int each : fresh.values()) EXPECT(each == 1);
  return 0;
}

// Sums of each warp's and then of all, through shared memory.
__global__ void sums(float *out, const float *x, int64_t n) {
  SHARED(float, room, [32]);
  SHARED(float, warp_room, [4][WARP]);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
  warp_room[threadIdx.x / WARP][threadIdx.x % WARP] = sum;
  __syncwarp();
  sum = warp_room[threadIdx.x / WARP][threadIdx.x % WARP ^ 1];
  sum = block_sum(sum, room);
  if (threadIdx.x == 0) out[0] = sum;
  float largest = block_max(threadIdx.x < (unsigned)n ? x[threadIdx.x] : -INFINITY, room);
  if (threadIdx.x == 0) out[1] = largest;
}
static int reductions() {
  std::vector<float> x(1000);
  for (int i = 0; i < 1000; i++) x[i] = (float)(i % 100);
  Array<float> x_there(x), out(2);
  EXPECT(launch(sums, 1, 128, 0, nullptr, out.at, x_there.at, 1000) == cudaSuccess);
  EXPECT(out.values()[0] == 49500 && out.values()[1] == 99);
  return 0;
}

// 8 stages through two buffers; with `pending` too large, the last copy is read too early.
template <int PENDING>
__global__ void pipeline(float *out, const float *x) {
  SHARED(float4, stage, [2][WARP]);
  int lane = (int)threadIdx.x;
  float sum = 0;
  cp_async16(&stage[0][lane], x + lane * 4);
  cp_async_commit();
  for (int i = 0; i < 8; i++) {
    cp_async16(&stage[(i + 1) % 2][lane], i < 7 ? x + (i + 1) * 128 + lane * 4 : x, i < 7);
    cp_async_commit();
    cp_async_wait<PENDING>();
    __syncthreads();
    sum += stage[i % 2][lane ^ 1].y;
    __syncthreads();
  }
  cp_async_wait<0>();
  out[lane] = sum;
}
template <int PENDING>
static std::vector<float> run_pipeline() {
  std::vector<float> x(1024);
  for (int i = 0; i < 1024; i++) x[i] = (float)i;
  Array<float> there(x), out(WARP);
  launch(pipeline<PENDING>, 1, WARP, 0, nullptr, out.at, there.at);
  return out.values();
}
static int copies() {
  std::vector<float> out = run_pipeline<1>();
  for (int lane = 0; lane < WARP; lane++) EXPECT(out[lane] == 8 * (float)((lane ^ 1) * 4 + 1) + 128 * 28);
  return 0;
}
static int weak_wait() {
  EXPECT(std::isnan(run_pipeline<2>()[0]));
  return 0;
}

static int launches() {
  Array<float> out(2);
  EXPECT(launch(sums, 0, 128, 0, nullptr, out.at, out.at, 0) == cudaErrorInvalidConfiguration);
  EXPECT(launch(sums, 1, 0, 0, nullptr, out.at, out.at, 0) == cudaErrorInvalidConfiguration);
  EXPECT(launch(sums, 1, dim3(64, 32), 0, nullptr, out.at, out.at, 0) == cudaErrorInvalidConfiguration);
  EXPECT(launch(sums, 1, 128, 228 << 10, nullptr, out.at, out.at, 0) == cudaErrorInvalidConfiguration);
  EXPECT(launch(sums, dim3(1, 70000), 128, 0, nullptr, out.at, out.at, 0) == cudaErrorInvalidConfiguration);
  EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess);
  void *pointer;
  size_t available, total;
  EXPECT(cudaMemGetInfo(&available, &total) == cudaSuccess && total - available == 8);
  EXPECT(cudaMalloc(&pointer, available + 1) == cudaErrorMemoryAllocation && !pointer && cudaGetLastError() == cudaErrorMemoryAllocation);
  EXPECT(strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory") == 0);
  return 0;
}

// Conversions both ways: all 16-bit values come back, and what lies between two goes to the even one.
template <typename T>
static int rounds() {
  for (uint32_t bits = 0; bits < 65536; bits++) {
    uint16_t half = (uint16_t)bits, back;
    T x;
    memcpy(&x, &half, 2);
    float wide = to_float(x);
    T again = from_float<T>(wide);
    memcpy(&back, &again, 2);
    EXPECT(std::isnan(wide) ? back == 0x7fff : back == half);
    uint16_t above = (uint16_t)(half + 1), middle_bits, even = half % 2 ? above : half;
    T next;
    memcpy(&next, &above, 2);
    if (!std::isfinite(wide) || !std::isfinite(to_float(next)) || bits == 0x7fff) continue;
    T middle = from_float<T>((float)(((double)wide + to_float(next)) / 2));
    memcpy(&middle_bits, &middle, 2);
    if ((half & 0x7fff) > 1 || sizeof(T) != 2) EXPECT(middle_bits == even || to_float(middle) == to_float(next) * (even == above) + wide * (even == half));
  }
  return 0;
}
static int conversions() {
  EXPECT(__half_as_ushort(__float2half_rn(65519.9f)) == 0x7bff && __half_as_ushort(__float2half_rn(65520.0f)) == 0x7c00);
  EXPECT(__half_as_ushort(__float2half_rn(-0x1p-25f)) == 0x8000 && __half_as_ushort(__float2half_rn(0x1.8p-25f)) == 1);
  EXPECT(__bfloat16_as_ushort(__float2bfloat16_rn(0x1.fffffep127f)) == 0x7f80);
  return rounds<bf16>() || rounds<fp16>();
}

// d[6, 5] = 2 a^T b + 3 c + bias, column-major; then queued work and its order.
static int blas() {
  const int m = 6, n = 5, k = 7;
  std::vector<bf16> a = random_values<bf16>(k * m), b = random_values<bf16>(k * n);
  std::vector<float> c = random_values<float>(m * n), bias = random_values<float>(m);
  Array<bf16> a_there(a), b_there(b);
  Array<float> c_there(c), bias_there(bias), d_there(m * n);
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t matmul;
  cublasLtMatrixLayout_t a_layout, b_layout, c_layout;
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t result;
  cublasOperation_t transposed = CUBLAS_OP_T;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
  size_t limit = 0;
  int found;
  EXPECT(!cublasLtCreate(&handle) && !cublasLtMatmulDescCreate(&matmul, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  EXPECT(!cublasLtMatmulDescSetAttribute(matmul, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
  EXPECT(!cublasLtMatmulDescSetAttribute(matmul, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
  EXPECT(!cublasLtMatmulDescSetAttribute(matmul, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias_there.at, sizeof bias_there.at));
  EXPECT(!cublasLtMatrixLayoutCreate(&a_layout, CUDA_R_16BF, k, m, k) && !cublasLtMatrixLayoutCreate(&b_layout, CUDA_R_16BF, k, n, k));
  EXPECT(!cublasLtMatrixLayoutCreate(&c_layout, CUDA_R_32F, m, n, m) && !cublasLtMatmulPreferenceCreate(&preference));
  EXPECT(!cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit, sizeof limit));
  EXPECT(!cublasLtMatmulAlgoGetHeuristic(handle, matmul, a_layout, b_layout, c_layout, c_layout, preference, 1, &result, &found) && found == 1);
  float alpha = 2, beta = 3;
  EXPECT(!cublasLtMatmul(handle, matmul, &alpha, a_there.at, a_layout, b_there.at, b_layout, &beta, c_there.at, c_layout, d_there.at, c_layout,
                         &result.algo, nullptr, 0, nullptr));
  std::vector<float> d = d_there.values();
  for (int j = 0; j < n; j++)
    for (int i = 0; i < m; i++) {
      float sum = 0;
      for (int l = 0; l < k; l++) sum += to_float(a[l + i * k]) * to_float(b[l + j * k]);
      EXPECT(fabsf(d[i + j * m] - (2 * sum + 3 * c[i + j * m] + bias[i])) < 1e-5f);
    }
  cublasLtMatmulPreferenceDestroy(preference), cublasLtMatrixLayoutDestroy(a_layout), cublasLtMatrixLayoutDestroy(b_layout);
  cublasLtMatrixLayoutDestroy(c_layout), cublasLtMatmulDescDestroy(matmul), cublasLtDestroy(handle);
  return 0;
}

__global__ void add_one(float *x) { x[threadIdx.x] += 1; }
__global__ void multiply_by_two(float *x) { x[threadIdx.x] *= 2; }

// (0 + 1) * 2 + 1 when events order two streams; a pinned buffer that is written again too early gives other numbers.
static int streams(bool is_ordered, bool is_awaited) {
  cudaStream_t first, second;
  cudaEvent_t event;
  cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  Array<float> x(WARP);
  float *pinned, *result;
  cudaMallocHost(&pinned, WARP * sizeof(float)), cudaMallocHost(&result, WARP * sizeof(float));
  for (int i = 0; i < WARP; i++) pinned[i] = 0;
  cudaMemcpyAsync(x.at, pinned, WARP * sizeof(float), cudaMemcpyHostToDevice, first);
  if (is_awaited) cudaStreamSynchronize(first);
  pinned[3] = 100;
  launch(add_one, 1, WARP, 0, first, x.at);
  cudaEventRecord(event, first);
  if (is_ordered) cudaStreamWaitEvent(second, event, 0);
  launch(multiply_by_two, 1, WARP, 0, second, x.at);
  cudaEventRecord(event, second);
  if (is_ordered) cudaStreamWaitEvent(first, event, 0);
  launch(add_one, 1, WARP, 0, first, x.at);
  cudaMemcpyAsync(result, x.at, WARP * sizeof(float), cudaMemcpyDeviceToHost, first);
  cudaStreamSynchronize(first);
  float got = result[3];
  cudaFreeHost(pinned), cudaFreeHost(result);
  cudaEventDestroy(event), cudaStreamDestroy(first), cudaStreamDestroy(second);
  if (got != 3) printf("got %g instead of 3\n", (double)got);
  return got != 3;
}
static int streams_in_order() { return streams(true, true); }
static int streams_without_events() { return streams(false, true); }
static int host_too_early() { return streams(true, false); }

// Pageable memory is taken at once.
static int staging() {
  cudaStream_t stream;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  std::vector<float> x(WARP, 1), y(WARP, 0);
  Array<float> there(WARP);
  cudaMemcpyAsync(there.at, x.data(), WARP * sizeof(float), cudaMemcpyHostToDevice, stream);
  x[0] = 5;
  launch(add_one, 1, WARP, 0, stream, there.at);
  cudaMemcpyAsync(y.data(), there.at, WARP * sizeof(float), cudaMemcpyDeviceToHost, stream);
  EXPECT(y[0] == 2);
  EXPECT(cudaMemcpyAsync(there.at, x.data(), WARP * sizeof(float) + 1, cudaMemcpyHostToDevice, stream) == cudaErrorInvalidValue);
  cudaStreamDestroy(stream);
  return 0;
}

// What is wrong, one at a time. What a launch does with them is told by the device, or by the sanitizer.
enum Fault {
  DIVERGENT_BARRIER,
  ENDED_BEFORE_BARRIER,
  BARRIER_IN_PART,
  OUTSIDE_MASK,
  TWO_LINES,
  LANES_GONE,
  OTHER_MASKS,
  ABSENT_SOURCE,
  UNAWAITED_COPY,
  MISALIGNED_COPY,
  COPY_BEYOND,
  MISALIGNED_PACKET,
  BEYOND_DEVICE,
  BEYOND_SHARED,
  BEYOND_DYNAMIC,
  UNINITIALISED,
  MISSING_BARRIER,
  MISSING_SYNCWARP,
  COPY_RACE,
  DEVICE_RACE,
  BLOCKS_WRITE,
  BLOCKS_READ,
  ALL_WRITE
};
__global__ void faulty(float *out, const float *x, Fault fault) {
  SHARED(float, room, [64]);
  SHARED(float4, packets, [64]);
  DYNAMIC_SHARED(float, dynamic);
  int i = (int)threadIdx.x;
  if (fault != UNINITIALISED) room[i] = x[i];
  if (fault == MISSING_BARRIER) {
    out[i] = room[i ^ 32];
    return;
  }
  if (fault == MISSING_SYNCWARP) {
    out[i] = room[i ^ 1];
    return;
  }
  __syncthreads();
  switch (fault) {
    case DIVERGENT_BARRIER:
      if (i < 32) __syncthreads();
      else
        __syncthreads();
      break;
    case ENDED_BEFORE_BARRIER:
      if (i == 40) return;
      __syncthreads();
      break;
    case BARRIER_IN_PART:
      if (i < 32) __syncthreads();
      break;
    case OUTSIDE_MASK: out[i] = __shfl_sync(0x0000ffffu, x[i], 0); break;
    case TWO_LINES:
      if (i % 32 < 16) out[i] = __shfl_sync(0xffffffffu, x[i], 0);
      else
        out[i] = __shfl_sync(0xffffffffu, x[i], 0);
      break;
    case LANES_GONE:
      if (i % 32 == 5) return;
      out[i] = __shfl_sync(0xffffffffu, x[i], 0);
      break;
    case OTHER_MASKS: out[i] = __shfl_sync(i % 32 < 8 ? 0xffu : 0xffffffffu, x[i], 0); break;
    case ABSENT_SOURCE:
      if (i % 32 < 8) out[i] = __shfl_sync(0xffu, x[i], 9);
      break;
    case UNAWAITED_COPY:
      cp_async16(&packets[i], x);
      cp_async_commit();
      break;
    case MISALIGNED_COPY: cp_async16(&packets[i], x + 1); break;
    case COPY_BEYOND: cp_async16(&packets[i], x + 64); break;
    case MISALIGNED_PACKET: out[i] = load_packet(x + 1 + i % 4 * 4).at[0]; break;
    case BEYOND_DEVICE: out[i] = x[i + 1]; break;
    case BEYOND_SHARED: out[i] = static_cast<const float *>(room)[i + 1]; break;
    case BEYOND_DYNAMIC: dynamic[i + 1] = 1; break;
    case UNINITIALISED: out[i] = room[i]; break;
    case COPY_RACE:
      out[i] = packets[i ^ 32].x;  // another thread's copy goes there with no barrier between
      cp_async16(&packets[i], x);
      cp_async_commit();
      cp_async_wait<0>();
      break;
    case DEVICE_RACE: out[i / 2] = 1; break;
    case BLOCKS_WRITE: out[i] = 1; break;
    case BLOCKS_READ: out[blockIdx.x * 64 + threadIdx.x] = out[(blockIdx.x * 64 + threadIdx.x + 64) % 128]; break;
    case ALL_WRITE: room[0] = 1; break;
    default: break;
  }
}
static int fail_by(Fault fault) {
  unsigned blocks = fault == BLOCKS_WRITE || fault == BLOCKS_READ ? 2 : 1;
  Array<float> x(std::vector<float>(64, 1)), out(std::vector<float>(64 * blocks, 2));
  EXPECT(launch(faulty, blocks, 64, 64 * sizeof(float), nullptr, out.at, x.at, fault) == cudaSuccess);
  float got = out.values()[0];
  printf("got %g\n", (double)got);
  return std::isnan(got) ? 0 : 3;
}
static int host_memory() {
  std::vector<float> x(64, 1);
  Array<float> out(64);
  launch(faulty, 1, 64, 64 * sizeof(float), nullptr, out.at, x.data(), UNINITIALISED);
  launch(add_one, 1, 64, 0, nullptr, x.data());
  cudaDeviceSynchronize();
  return 0;
}

static const struct {
  const char *name;
  int (*run)();
} cases[] = {{"fragments_bf16", fragments_bf16},
             {"fragments_fp16", fragments_fp16},
             {"tiles_bf16", tiles_bf16},
             {"tiles_fp16", tiles_fp16},
             {"lanes", lanes},
             {"shared", shared},
             {"reductions", reductions},
             {"copies", copies},
             {"weak_wait", weak_wait},
             {"launches", launches},
             {"conversions", conversions},
             {"blas", blas},
             {"streams_in_order", streams_in_order},
             {"streams_without_events", streams_without_events},
             {"host_too_early", host_too_early},
             {"staging", staging},
             {"host_memory", host_memory}};
static const char *const fault_names[] = {"divergent_barrier", "ended_before_barrier", "barrier_in_part", "outside_mask", "two_lines", "lanes_gone",
                                          "other_masks", "absent_source", "unawaited_copy", "misaligned_copy", "copy_beyond", "misaligned_packet",
                                          "beyond_device", "beyond_shared", "beyond_dynamic", "uninitialised", "missing_barrier",
                                          "missing_syncwarp", "copy_race", "device_race", "blocks_write", "blocks_read", "all_write"};

int main(int count, char **words) {
  for (const auto &each : cases)
    if (count == 2 && strcmp(words[1], each.name) == 0) return each.run();
  for (size_t i = 0; i < sizeof fault_names / sizeof *fault_names; i++)
    if (count == 2 && strcmp(words[1], fault_names[i]) == 0) return fail_by(static_cast<Fault>(i));
  fprintf(stderr, "no such case\n");
  return 2;
}
