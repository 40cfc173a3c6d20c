#define _GNU_SOURCE
#include "tests/support/launch.h"

#include <jansson.h>
#include <math.h>

#include "core/file.h"
#include "formats/safetensors.h"
#include "tests/support/training.h"

int run_shell(Buffer *output, const char *format, ...) {
  char command[8192];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(command, sizeof command, format, arguments);
  va_end(arguments);
  char *all = memory_format("{ %s; } </dev/null 2>&1", command);
  int status = run_line(output, all);
  free(all);
  return status;
}

void need_mpirun(void) {
  if (run_shell(NULL, "command -v mpirun && test -e '%.*s/liblora_mpi.so'", (int)(strlen(LORA_PROGRAM) - strlen("/lora")), LORA_PROGRAM) !=
      0)
    skip_test("runs of several processes need Open MPI (libopenmpi-dev, openmpi-bin)");
}

void train_ranks(int ranks, const char *environment, const char *recipe, const char *more) {
  Buffer output = {0};
  int code = ranks == 1 ? run_program(&output, "train %s %s", recipe, more)
                        : run_shell(&output, MPIRUN "-n %d %s '%s' train %s %s", ranks, environment, LORA_PROGRAM, recipe, more);
  if (code != 0) fail_msg("%d ranks, %s: exit code %d: %s", ranks, more, code, output.data ? output.data : "");
  buffer_release(&output);
}

void assert_same_losses(const char *one, const char *other) {
  static const char *const keys[] = {"step",      "epoch",     "tokens",          "trained_tokens",       "loss",
                                     "eval_loss", "grad_norm", "rewards/margins", "eval_rewards/margins", "load_balancing_loss"};
  Buffer texts[2] = {{0}, {0}};
  char *first, *second, *paths[] = {memory_format("%s/metrics.jsonl", one), memory_format("%s/metrics.jsonl", other)};
  for (int i = 0; i < 2; i++) read_whole(&texts[i], paths[i]);
  char *line = strtok_r(texts[0].data, "\n", &first), *twin = strtok_r(texts[1].data, "\n", &second);
  for (int count = 0; line || twin; count++) {
    if (!line || !twin) fail_msg("%s and %s have not the same number of lines", one, other);
    json_t *a = json_loads(line, 0, NULL), *b = json_loads(twin, 0, NULL);
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
      const json_t *x = json_object_get(a, keys[k]), *y = json_object_get(b, keys[k]);
      assert_int_equal(x == NULL, y == NULL);
      if (!x) continue;
      double u = json_number_value(x), v = json_number_value(y), scale = strstr(keys[k], "margins") ? fmax(fabs(u), 1) : fabs(u);
      if (!(fabs(u - v) <= 1e-5 * scale)) fail_msg("line %d: %s is %.9g in %s and %.9g in %s", count + 1, keys[k], u, one, v, other);
    }
    json_decref(a), json_decref(b);
    line = strtok_r(NULL, "\n", &first), twin = strtok_r(NULL, "\n", &second);
  }
  for (int i = 0; i < 2; i++) buffer_release(&texts[i]), free(paths[i]);
}

double adapter_difference(const char *one, const char *other) {
  Safetensors files[2];
  const char *const names[] = {one, other};
  for (int i = 0; i < 2; i++) {
    char *path = memory_format("%s/%s/adapter_model.safetensors", test_folder, names[i]);
    assert_ok(safetensors_open(&files[i], path));
    free(path);
  }
  double difference = 0, largest = 0;
  assert_int_equal(files[0].tensor_count, files[1].tensor_count);
  for (int64_t t = 0; t < files[0].tensor_count; t++) {
    const SafetensorsTensor *a = &files[0].tensors[t], *b = safetensors_find(&files[1], a->name);
    assert_non_null(b);
    assert_int_equal(a->bytes, b->bytes);
    const float *x = (const float *)a->data, *y = (const float *)b->data;
    for (size_t i = 0; i < a->bytes / sizeof *x; i++) {
      assert_true(isfinite(x[i]) && isfinite(y[i]));
      difference = fmax(difference, fabs((double)x[i] - y[i]));
      largest = fmax(largest, fabs((double)x[i]));
    }
  }
  for (int i = 0; i < 2; i++) safetensors_close(&files[i]);
  return difference / largest;
}
