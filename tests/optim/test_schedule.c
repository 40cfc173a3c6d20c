#include "tests/support/test.h"

#include <jansson.h>
#include <math.h>

#include "optim/schedule.h"

// A case of the file, as the trainer would set it up.
static Schedule schedule_of(json_t *entry) {
  Schedule schedule;
  const char *name;
  json_t *value, *rate = json_object_get(entry, "rate");
  assert_ok(schedule_new(&schedule, json_string_value(json_object_get(entry, "kind"))));
  schedule.steps = json_integer_value(json_object_get(entry, "steps"));
  schedule.warmup_steps = json_integer_value(json_object_get(entry, "warmup_steps"));
  schedule.cosine_min_ratio = json_number_value(json_object_get(entry, "min"));
  schedule.cosine_constant_ratio = json_number_value(json_object_get(entry, "constant"));
  schedule.quadratic_warmup = json_is_true(json_object_get(entry, "quadratic"));
  if (json_object_get(entry, "cycles")) schedule.cycles = json_number_value(json_object_get(entry, "cycles"));
  if (rate) schedule.learning_rate = json_number_value(rate);
  json_object_foreach(json_object_get(entry, "arguments"), name, value) {
    char number[40];
    snprintf(number, sizeof number, "%.17g", json_number_value(value));
    const char *text = json_is_true(value) ? "True" : json_is_string(value) ? json_string_value(value) : number;
    assert_ok(schedule_set_argument(&schedule, name, text));
  }
  assert_ok(schedule_check(&schedule));
  return schedule;
}

static void check_momenta(const Schedule *schedule, json_t *momenta) {
  for (size_t step = 0; step < json_array_size(momenta); step++) {
    double expected = json_number_value(json_array_get(momenta, step)), actual = schedule_momentum(schedule, (int64_t)step);
    if (!(fabs(actual - expected) <= 1e-14)) fail_msg("one_cycle, step %zu: momentum %.17g, expected %.17g", step, actual, expected);
  }
}

static void schedules_match_their_libraries_on_every_kind_and_corner(void **state) {
  (void)state;
  json_error_t error;
  json_t *file = json_load_file(TESTS_DIR "/optim/data/schedules.json", 0, &error);
  assert_non_null(file);
  json_t *cases = json_object_get(file, "cases"), *entry;
  size_t index, seen[SCHEDULE_COUNT] = {0};
  json_array_foreach(cases, index, entry) {
    Schedule schedule = schedule_of(entry);
    const char *kind = json_string_value(json_object_get(entry, "kind"));
    seen[schedule.kind]++;
    json_t *factors = json_object_get(entry, "factors"), *momenta = json_object_get(entry, "momenta");
    if (momenta) check_momenta(&schedule, momenta);
    else assert_true(isnan(schedule_momentum(&schedule, 1)));
    assert_true((int64_t)json_array_size(factors) >= schedule.steps);
    for (size_t step = 0; step < json_array_size(factors); step++) {
      double expected = json_number_value(json_array_get(factors, step)), actual = schedule_factor(&schedule, (int64_t)step);
      if (fabs(actual - expected) <= 1e-14) continue;
      fail_msg("case %zu, %s, %lld of %lld steps warm-up, step %zu: %.17g, expected %.17g", index, kind, (long long)schedule.warmup_steps,
               (long long)schedule.steps, step, actual, expected);
    }
  }
  for (int kind = 0; kind < SCHEDULE_COUNT; kind++) assert_true(seen[kind] >= 8);
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
  Schedule schedule;
  assert_ok(schedule_new(&schedule, NULL));
  assert_int_equal(schedule.kind, SCHEDULE_COSINE);
  assert_fails(STATUS_USAGE, schedule_new(&schedule, "cosin"), "lr_scheduler", "'cosin'", "use cosine");
  assert_fails(STATUS_USAGE, schedule_new(&schedule, "reduce_lr_on_plateau"), "'reduce_lr_on_plateau'", "use ");
}

static void arguments_are_refused_by_name_where_a_schedule_has_not_such(void **state) {
  (void)state;
  Schedule schedule;
  assert_ok(schedule_new(&schedule, "linear"));
  assert_fails(STATUS_USAGE, schedule_set_argument(&schedule, "num_cycles", "2"), "linear has no argument 'num_cycles'", "it has none");
  assert_ok(schedule_new(&schedule, "polynomial"));
  assert_fails(STATUS_USAGE, schedule_set_argument(&schedule, "lr_min", "0"), "polynomial has no argument 'lr_min'",
               "it has lr_end, power");
  assert_fails(STATUS_USAGE, schedule_set_argument(&schedule, "power", "two"), "power", "a number from 0 to 1000");
  schedule.learning_rate = 1e-8;
  assert_fails(STATUS_USAGE, schedule_check(&schedule), "lr_end", "must be below learning_rate");
  assert_ok(schedule_new(&schedule, "warmup_stable_decay"));
  assert_fails(STATUS_USAGE, schedule_check(&schedule), "num_decay_steps");
  assert_fails(STATUS_USAGE, schedule_set_argument(&schedule, "decay_type", "steep"), "linear, cosine or 1-sqrt");
  assert_ok(schedule_new(&schedule, "one_cycle"));
  assert_fails(STATUS_USAGE, schedule_set_argument(&schedule, "anneal_strategy", "1-sqrt"), "cos or linear");
  assert_fails(STATUS_USAGE, schedule_set_argument(&schedule, "three_phase", "often"), "true or false");
  assert_ok(schedule_new(&schedule, "cosine_with_min_lr"));
  assert_fails(STATUS_USAGE, schedule_check(&schedule), "one of min_lr and min_lr_rate");
  assert_ok(schedule_set_argument(&schedule, "min_lr", "1e-6"));
  assert_ok(schedule_check(&schedule));
  assert_ok(schedule_set_argument(&schedule, "min_lr_rate", "0.1"));
  assert_fails(STATUS_USAGE, schedule_check(&schedule), "one of min_lr and min_lr_rate");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(schedules_match_their_libraries_on_every_kind_and_corner),
      cmocka_unit_test(warmup_is_resolved_as_axolotl_does),
      cmocka_unit_test(an_unknown_schedule_is_refused_with_the_nearest_name),
      cmocka_unit_test(arguments_are_refused_by_name_where_a_schedule_has_not_such),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
