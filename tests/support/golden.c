#include "tests/support/golden.h"

#include <dirent.h>

#include "core/file.h"

const SafetensorsTensor *golden_tensor(const Safetensors *golden, const char *name) {
  const SafetensorsTensor *tensor = safetensors_find(golden, name);
  if (!tensor) fail_msg("the reference has no tensor %s", name);
  return tensor;
}

float *golden_floats(const Safetensors *golden, const char *name) {
  const SafetensorsTensor *tensor = golden_tensor(golden, name);
  float *values = memory_new((size_t)tensor->count, sizeof *values);
  assert_true(safetensors_to_float(values, tensor, 0, tensor->count));
  return values;
}

int32_t *golden_ids(const Safetensors *golden, const char *name) {
  const SafetensorsTensor *tensor = golden_tensor(golden, name);
  assert_int_equal(tensor->type, ST_I64);
  int32_t *ids = memory_new((size_t)tensor->count, sizeof *ids);
  for (int64_t i = 0; i < tensor->count; i++) {
    int64_t value;
    memcpy(&value, (const char *)tensor->data + i * 8, 8);
    ids[i] = (int32_t)value;
  }
  return ids;
}

float *golden_logits(const Model *model, const int32_t *ids, int64_t documents, int64_t length) {
  int64_t tokens = documents * length;
  int32_t *positions = memory_new((size_t)tokens, sizeof *positions);
  AttentionSpan *spans = memory_new((size_t)documents, sizeof *spans);
  for (int64_t i = 0; i < tokens; i++) positions[i] = (int32_t)(i % length);
  for (int64_t d = 0; d < documents; d++) spans[d] = (AttentionSpan){d * length, (d + 1) * length, d * length, (d + 1) * length};
  Tape tape;
  tape_new(&tape, model->backend);
  tape_begin(&tape, TAPE_FORWARD);
  DecoderInput input = {.ids = ids, .positions = positions, .tokens = tokens, .spans = spans, .span_count = documents};
  Tensor *hidden = decoder_hidden(&tape, model, &input);
  Tensor *logits = decoder_logits(&tape, model, hidden);
  tape_keep(logits);
  tape_plan(&tape, 0);
  assert_ok(tape_reserve(&tape));
  tape_forward(&tape);
  float *out = memory_new((size_t)(tokens * model->config.vocabulary), sizeof *out);
  tape_read(out, &tape, logits);
  tape_free(&tape);
  free(positions);
  free(spans);
  return out;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

char **golden_families(void) {
  char *shared = shared_path("golden/families"), **families = memory_new(1, sizeof *families);
  const char *parents[] = {TESTS_DIR "/adapters/data/families", shared, getenv("LORA_FAMILIES")};
  int64_t count = 0;
  for (int p = 0; p < 3; p++) {
    DIR *folder = parents[p] ? opendir(parents[p]) : NULL;
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
      char *path = path_join(parents[p], entry->d_name), *golden = path_join(path, "golden.safetensors");
      bool is_one = file_exists(golden);
      free(golden);
      if (!is_one) {
        free(path);
        continue;
      }
      families = memory_grow(families, (size_t)(count + 2), sizeof *families);
      families[count++] = path;
      families[count] = NULL;
    }
    if (folder) closedir(folder);
  }
  free(shared);
  qsort(families, (size_t)count, sizeof *families, by_name);
  return families;
}

void golden_families_free(char **families) {
  for (char **family = families; *family; family++) free(*family);
  free(families);
}

double golden_train(const Model *model, const int32_t *ids, const int32_t *labels, int64_t documents, int64_t length, int checkpointed) {
  int64_t tokens = documents * length, count = 0;
  int32_t *positions = memory_new((size_t)tokens, sizeof *positions), *rows = memory_new((size_t)tokens, sizeof *rows);
  int32_t *targets = memory_new((size_t)tokens, sizeof *targets);
  AttentionSpan *spans = memory_new((size_t)documents, sizeof *spans);
  for (int64_t d = 0; d < documents; d++) {
    spans[d] = (AttentionSpan){d * length, (d + 1) * length, d * length, (d + 1) * length};
    for (int64_t i = 0; i < length; i++) {
      int64_t at = d * length + i;
      positions[at] = (int32_t)i;
      if (i + 1 < length && labels[at + 1] >= 0) {
        rows[count] = (int32_t)at;
        targets[count++] = labels[at + 1];
      }
    }
  }
  Tape tape;
  tape_new(&tape, model->backend);
  tape_begin(&tape, TAPE_TRAIN);
  DecoderInput input = {
      .ids = ids, .positions = positions, .tokens = tokens, .spans = spans, .span_count = documents, .rows = rows, .row_count = count};
  Tensor *hidden = decoder_hidden(&tape, model, &input);
  Tensor *targets_input = tape_input(&tape, targets, count, 1);
  Tensor *loss = decoder_loss(&tape, model, hidden, targets_input, (LossGradient){.scale = 1.0f / (float)count});
  tape_plan(&tape, checkpointed);
  assert_ok(tape_reserve(&tape));
  tape_forward(&tape);
  tape_backward(&tape);
  float *nll = memory_new((size_t)count, sizeof *nll);
  tape_read(nll, &tape, loss);
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += nll[i];
  tape_free(&tape);
  free(nll);
  free(positions);
  free(rows);
  free(targets);
  free(spans);
  return sum / (double)count;
}
