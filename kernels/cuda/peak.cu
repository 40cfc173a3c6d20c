// How fast the device multiplies at most: independent products on registers in every warp slot, timed by events. Kernels and `lora bench`
// are held to it.
#include "kernels/cuda/cuda.h"

enum { PEAK_THREADS = 256, PEAK_SUMS = 8 };

// evidence: cold
__global__ void __launch_bounds__(PEAK_THREADS) float32_rounds(float *out, int rounds) {
  float sums[PEAK_SUMS];
  for (int i = 0; i < PEAK_SUMS; i++) sums[i] = static_cast<float>(threadIdx.x + i);
  for (int round = 0; round < rounds; round++)
    for (int i = 0; i < PEAK_SUMS; i++) sums[i] = fmaf(sums[i], 0.999f, 0.5f);
  float total = 0;
  for (int i = 0; i < PEAK_SUMS; i++) total += sums[i];
  if (total == 12345.0f) out[0] = total;  // never, but the compiler cannot know
}

// evidence: cold
template <typename T>
__global__ void __launch_bounds__(PEAK_THREADS) tensor_rounds(float *out, int rounds) {
  float sums[PEAK_SUMS][4] = {};
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; i++) a[i] = pack_two<T>(0.5f, 0.25f);
  for (int i = 0; i < 2; i++) b[i] = pack_two<T>(0.125f, 0.5f);
  for (int round = 0; round < rounds; round++)
    for (int i = 0; i < PEAK_SUMS; i++) mma_16x8x16<T>(sums[i], a, b);
  float total = 0;
  for (int i = 0; i < PEAK_SUMS; i++) total += sums[i][0] + sums[i][3];
  if (total == 12345.0f) out[0] = total;
}

typedef void Rounds(float *out, int rounds);

// Seconds of one launch on the whole device.
static double time_rounds(Rounds *kernel, int rounds, float *out, Device *device) {
  cudaEvent_t begin, end;
  float milliseconds = 0;
  CHECK(device, cudaEventCreateWithFlags(&begin, cudaEventDefault));
  CHECK(device, cudaEventCreateWithFlags(&end, cudaEventDefault));
  CHECK(device, cudaEventRecord(begin, device->stream));
  LAUNCH(device, kernel, dim3(static_cast<unsigned>(4 * device->processors)), dim3(PEAK_THREADS), 0, out, rounds);
  CHECK(device, cudaEventRecord(end, device->stream));
  device_wait_event(device, end);
  CHECK(device, cudaEventElapsedTime(&milliseconds, begin, end));
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return milliseconds * 1e-3;
}

// flop: of one thread in one round.
static double measure(Rounds *kernel, double flop, Device *device) {
  float *out = static_cast<float *>(device_workspace(device, WORKSPACE_RESULT, 1024));
  if (!out) return 0;
  int rounds = 1;
  (void)time_rounds(kernel, rounds, out, device);  // loads the kernel's code
  double seconds = time_rounds(kernel, rounds, out, device), best = 0;
  while (seconds < 10e-3 && rounds < 1 << 20 && device->error == cudaSuccess) {
    rounds *= 4;
    seconds = time_rounds(kernel, rounds, out, device);
  }
  for (int i = 0; i < 3 && seconds > 0; i++) {
    double rate = flop * rounds * 4.0 * device->processors * static_cast<int>(PEAK_THREADS) / seconds;
    if (rate > best) best = rate;
    seconds = time_rounds(kernel, rounds, out, device);
  }
  return best;
}

double cuda_peak_flops(FloatType arithmetic, Backend *backend) {
  Device *device = device_of(backend);
  const int sums = PEAK_SUMS;
  const double products = 2.0 * 16 * 8 * 16 / static_cast<int>(WARP);  // of a thread's share of an mma
  switch (arithmetic) {
    case FLOAT_32: return measure(float32_rounds, 2.0 * sums, device);
    case FLOAT_BF16: return device->capability >= 80 ? measure(tensor_rounds<bf16>, products * sums, device) : 0;
    case FLOAT_F16: return measure(tensor_rounds<fp16>, products * sums, device);
  }
  return 0;
}
