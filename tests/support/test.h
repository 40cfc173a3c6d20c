// What every test includes: cmocka, comparisons that reject NaN first, and the shared reference data.
#ifndef TESTS_SUPPORT_TEST_H
#define TESTS_SUPPORT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory.h"
#include "core/rng.h"
#include "core/status.h"

// The root mean square of the difference of two vectors, by that of the second; infinity when one holds a NaN.
double vector_distance(const float *actual, const float *expected, int64_t count);
// max |a - b| / max |b| (the max norm of the reference); infinity when either side holds a NaN or an Inf.
double max_relative_error(const float *actual, const float *expected, int64_t n);

#define assert_close(actual, expected, n, tolerance) assert_close_at((actual), (expected), (n), (tolerance), #actual, __FILE__, __LINE__)
void assert_close_at(const float *actual, const float *expected, int64_t n, double tolerance, const char *what, const char *file, int line);

#define assert_ok(expression) assert_ok_at((expression), #expression, __FILE__, __LINE__)
void assert_ok_at(Status status, const char *what, const char *file, int line);
// Fails unless the status is `expected` and the message holds every one of the words (NULL-terminated list).
#define assert_fails(expected, expression, ...) \
  assert_fails_at((expected), (expression), (const char *[]){__VA_ARGS__, NULL}, __FILE__, __LINE__)
void assert_fails_at(Status expected, Status actual, const char *const *words, const char *file, int line);

void fill_normal(float *out, int64_t n, double deviation, Rng *rng);

// Path of a file under the shared reference data, or NULL: then the test prints SKIPPED and why by skip_test.
char *shared_path(const char *relative);
#define skip_test(...)               \
  do {                               \
    printf("SKIPPED: " __VA_ARGS__); \
    printf("\n");                    \
    skip();                          \
  } while (0)

// A fresh temporary folder; remove it with directory_remove.
char *temporary_folder(void);
// A test of cmocka's list with a temporary folder of its own, `test_folder` while it runs.
#define unit_test_in_folder(test) cmocka_unit_test_setup_teardown(test, make_test_folder, remove_test_folder)
extern char *test_folder;
int make_test_folder(void **state);
int remove_test_folder(void **state);
// Runs a line of the shell; returns its exit status; its stdout is appended to *output (may be NULL).
int run_line(Buffer *output, const char *line);
// Runs the program with arguments by the shell; returns its exit status; its stdout and stderr are appended to *output (may be NULL).
int run_program(Buffer *output, const char *format, ...) PRINTF_LIKE(2, 3);

#endif
