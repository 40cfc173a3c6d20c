// Runs whose state follows from their step, for the tests of checkpoints.
#ifndef TESTS_TRAINER_CHECKPOINT_SUPPORT_H
#define TESTS_TRAINER_CHECKPOINT_SUPPORT_H

#include <sys/stat.h>

#include "tests/support/test.h"

#include "core/file.h"
#include "trainer/checkpoint.h"

enum { SAMPLE_MOST = 600000 };

static inline void host_copy(void *to, const void *from, int64_t bytes, Backend *backend) {
  (void)backend;
  memcpy(to, from, (size_t)bytes);
}

static Backend host = {.upload = host_copy, .download = host_copy};

typedef struct Sample {
  TrainerState state;
  float *buffers[3];
  CheckpointArray arrays[3];
} Sample;

static inline void sample_release(Sample *sample) {
  for (int i = 0; i < 3; i++) free(sample->buffers[i]);
}

static inline void hash_of(char hex[65], const char *text) { sha256_bytes(hex, text, strlen(text)); }

// Every bit pattern may occur in the arrays, those of NaN too; every scalar has a value of its own.
static inline Sample sample_new(int64_t step, int64_t count) {
  Sample sample = {0};
  Rng rng = rng_new((uint64_t)step, RNG_STREAM_TEST);
  static const char *names[] = {"parameters", "m", "v"};
  for (int i = 0; i < 3; i++) {
    sample.buffers[i] = memory_new((size_t)count, sizeof(float));
    for (int64_t j = 0; j < count; j++) {
      uint32_t bits = (uint32_t)rng_next(&rng);
      memcpy(&sample.buffers[i][j], &bits, sizeof bits);
    }
    sample.arrays[i] = (CheckpointArray){names[i], sample.buffers[i], count};
  }
  TrainerState *state = &sample.state;
  *state = (TrainerState){.step = step,
                          .epoch = (double)step / 7,
                          .micro_batch = step * 4,
                          .seed = 42,
                          .updates = step - 2,
                          .skipped = 2,
                          .skipped_in_row = 1,
                          .optimizer_scalars = {1e-9 / 3, 2e-4 / 7},
                          .loss_scale = 1024,
                          .loss_scale_steps = 17,
                          .tuning = {64, 4},
                          .tokens = step * 1000,
                          .trained_tokens = step * 600,
                          .seconds = 1.5 * (double)step,
                          .best_metric = 0.1 + (double)step,
                          .best_step = step - 1};
  for (int i = 0; i < TRAINER_RNG_STREAMS; i++) state->rng_index[i] = INT64_MAX - i;
  hash_of(state->fingerprint.recipe, "recipe");
  hash_of(state->fingerprint.data, "data");
  hash_of(state->fingerprint.model, "model");
  return sample;
}

static inline Status write_adapter(const char *folder, void *context) {
  (void)context;
  char *config = path_join(folder, "adapter_config.json"), *model = path_join(folder, "adapter_model.safetensors");
  Status status = file_write_whole(config, "{\"r\": 8}\n", 9);
  if (status == STATUS_OK) status = file_write_whole(model, "weights", 7);
  free(config);
  free(model);
  return status;
}

static inline Status sample_write(const char *output_dir, int64_t step, int64_t count) {
  Sample sample = sample_new(step, count);
  Status status = checkpoint_write(output_dir, &sample.state, sample.arrays, 3, &host, write_adapter, NULL);
  sample_release(&sample);
  return status;
}

// What is read is what sample_new(step) makes, bit for bit.
static inline void assert_sample(const char *folder, int64_t step, int64_t count) {
  Sample expected = sample_new(step, count), actual = sample_new(step + 1, count);
  assert_ok(checkpoint_read(folder, &expected.state.fingerprint, &actual.state, actual.arrays, 3, &host));
  assert_memory_equal(&actual.state, &expected.state, offsetof(TrainerState, fingerprint) + sizeof(RunFingerprint));  // no padding
  for (int i = 0; i < 3; i++) assert_memory_equal(actual.buffers[i], expected.buffers[i], (size_t)count * sizeof(float));
  sample_release(&expected);
  sample_release(&actual);
}

// The step of the checkpoint that a run would go on from; 0 when there is none. Its content is checked.
static inline int64_t resumable_step(const char *output_dir, int64_t count) {
  char *folder;
  assert_ok(checkpoint_find(&folder, output_dir, NULL));
  if (!folder) return 0;
  int64_t step = strtoll(strrchr(folder, '-') + 1, NULL, 10);
  assert_sample(folder, step, count);
  free(folder);
  return step;
}

#endif
