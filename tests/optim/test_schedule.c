#include "tests/support/test.h"

#include <jansson.h>
#include <math.h>

#include "optim/schedule.h"

static void schedules_match_transformers_on_every_kind_and_corner(void **state) {
  (void)state;
  json_error_t error;
  json_t *file = json_load_file(TESTS_DIR "/optim/data/schedules.json", 0, &error);
  assert_non_null(file);
  json_t *cases = json_object_get(file, "cases"), *entry;
  size_t index, seen[SCHEDULE_COUNT] = {0};
  json_array_foreach(cases, index, entry) {
    Schedule schedule = {
        .steps = json_integer_value(json_object_get(entry, "steps")),
        .warmup_steps = json_integer_value(json_object_get(entry, "warmup_steps")),
        .cosine_min_ratio = json_number_value(json_object_get(entry, "min")),
        .cosine_constant_ratio = json_number_value(json_object_get(entry, "constant")),
        .cosine_cycles = json_number_value(json_object_get(entry, "cycles")),
    };
    const char *kind = json_string_value(json_object_get(entry, "kind"));
    assert_ok(schedule_find(&schedule.kind, kind));
    seen[schedule.kind]++;
    json_t *factors = json_object_get(entry, "factors");
    assert_true(json_array_size(factors) >= 50);
    for (size_t step = 0; step < json_array_size(factors); step++) {
      double expected = json_number_value(json_array_get(factors, step)), actual = schedule_factor(&schedule, (int64_t)step);
      if (fabs(actual - expected) <= 1e-14) continue;
      fail_msg("case %zu, %s, %lld of %lld steps warm-up, step %zu: %.17g, expected %.17g", index, kind, (long long)schedule.warmup_steps,
               (long long)schedule.steps, step, actual, expected);
    }
  }
  for (int kind = 0; kind < SCHEDULE_COUNT; kind++) assert_true(seen[kind] >= 10);
  json_decref(file);
}

static void warmup_is_resolved_as_axolotl_does(void **state) {
  (void)state;
  assert_int_equal(schedule_warmup_steps(7, -1, 100), 7);  // given
  assert_int_equal(schedule_warmup_steps(0, -1, 1000), 0);  // given as none
  assert_int_equal(schedule_warmup_steps(500, -1, 100), 500);  // longer than the run
  assert_int_equal(schedule_warmup_steps(1, -1, 100), 2);  // one becomes two
  assert_int_equal(schedule_warmup_steps(-1, 0.1, 99), 9);  // rounded down
  assert_int_equal(schedule_warmup_steps(-1, 0.1, 15), 2);  // one becomes two
  assert_int_equal(schedule_warmup_steps(-1, 0.0, 1000), 0);
  assert_int_equal(schedule_warmup_steps(-1, -1, 20), 0);  // neither: 0.03 of the steps
  assert_int_equal(schedule_warmup_steps(-1, -1, 40), 2);
  assert_int_equal(schedule_warmup_steps(-1, -1, 1000), 30);
  assert_int_equal(schedule_warmup_steps(-1, -1, 3333), 99);
  assert_int_equal(schedule_warmup_steps(-1, -1, 100000), 100);
}

static void an_unknown_schedule_is_refused_with_the_nearest_name(void **state) {
  (void)state;
  ScheduleKind kind;
  assert_ok(schedule_find(&kind, NULL));
  assert_int_equal(kind, SCHEDULE_COSINE);
  assert_fails(STATUS_USAGE, schedule_find(&kind, "cosin"), "lr_scheduler", "'cosin'", "use cosine");
  assert_fails(STATUS_USAGE, schedule_find(&kind, "rex"), "'rex'", "constant_with_warmup");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(schedules_match_transformers_on_every_kind_and_corner),
      cmocka_unit_test(warmup_is_resolved_as_axolotl_does),
      cmocka_unit_test(an_unknown_schedule_is_refused_with_the_nearest_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
