#include "tests/support/test.h"

#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/file.h"

double vector_distance(const float *actual, const float *expected, int64_t count) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < count; i++) {
    double a = actual[i], e = expected[i];
    difference += (a - e) * (a - e), size += e * e;
  }
  if (!isfinite(difference) || !isfinite(size)) return INFINITY;
  return difference == 0 ? 0 : sqrt(difference / size);
}

double max_relative_error(const float *actual, const float *expected, int64_t n) {
  double difference = 0, scale = 0;
  for (int64_t i = 0; i < n; i++) {
    if (!isfinite(actual[i]) || !isfinite(expected[i])) return INFINITY;
    difference = fmax(difference, fabs((double)actual[i] - expected[i]));
    scale = fmax(scale, fabs((double)expected[i]));
  }
  if (difference == 0) return 0;
  return scale > 0 ? difference / scale : INFINITY;
}

void assert_close_at(const float *actual, const float *expected, int64_t n, double tolerance, const char *what, const char *file,
                     int line) {
  double error = max_relative_error(actual, expected, n);
  if (error <= tolerance) return;
  print_error("%s: relative error %.3g over the tolerance %.3g (%lld values)\n", what, error, tolerance, (long long)n);
  _fail(file, line);
}

void assert_ok_at(Status status, const char *what, const char *file, int line) {
  if (status == STATUS_OK) return;
  print_error("%s: status %d: %s\n", what, status, status_message());
  _fail(file, line);
}

void assert_fails_at(Status expected, Status actual, const char *const *words, const char *file, int line) {
  if (actual != expected) {
    print_error("status %d where %d was expected; message: %s\n", actual, expected, status_message());
    _fail(file, line);
  }
  for (; *words; words++) {
    if (strstr(status_message(), *words)) continue;
    print_error("the message does not say \"%s\": %s\n", *words, status_message());
    _fail(file, line);
  }
}

void fill_normal(float *out, int64_t n, double deviation, Rng *rng) {
  for (int64_t i = 0; i < n; i++) out[i] = (float)(deviation * rng_normal(rng));
}

char *shared_path(const char *relative) {
  char *path = path_join(SHARED_DIR, relative);
  if (access(path, R_OK) == 0) return path;
  free(path);
  return NULL;
}

char *temporary_folder(void) {
  const char *parent = getenv("TMPDIR");
  char *path = path_join(parent ? parent : "/tmp", "lora-test-XXXXXX");
  if (!mkdtemp(path)) abort();
  return path;
}

char *test_folder;

int make_test_folder(void **state) {
  (void)state;
  test_folder = temporary_folder();
  return 0;
}

int remove_test_folder(void **state) {
  (void)state;
  directory_remove(test_folder);
  free(test_folder);
  return 0;
}

int run_line(Buffer *output, const char *line) {
  FILE *pipe = popen(line, "r");
  if (!pipe) return -1;
  char bytes[4096];
  for (size_t got; (got = fread(bytes, 1, sizeof bytes, pipe)) > 0;)
    if (output) buffer_append(output, bytes, got);
  int status = pclose(pipe);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int run_program(Buffer *output, const char *format, ...) {
  char command[8192];
  int used = snprintf(command, sizeof command, "'%s' </dev/null ", LORA_PROGRAM);
  va_list arguments;
  va_start(arguments, format);
  used += vsnprintf(command + used, sizeof command - (size_t)used, format, arguments);
  va_end(arguments);
  snprintf(command + used, sizeof command - (size_t)used, " 2>&1");
  return run_line(output, command);
}
