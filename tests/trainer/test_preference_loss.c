// The losses of preference training on random scores: every slope against finite differences, and what recipes ask for.
#include <math.h>

#include "tests/support/recipe.h"
#include "tests/support/test.h"
#include "trainer/preference_loss.h"

enum { REPLIES = 10 };

static const char base_recipe[] =
    "base_model: x\ndatasets: [{path: x, type: alpaca}]\nlearning_rate: 1e-3\nadapter: lora\nlora_r: 2\nlora_alpha: 4\n"
    "micro_batch_size: 2\ngradient_accumulation_steps: 1\n";

static PreferenceSettings settings_of(const char *lines) {
  Buffer text = {0};
  buffer_append_string(&text, base_recipe);
  buffer_append_string(&text, lines);
  assert_ok(parse_recipe("recipe.yml", text.data, NULL));
  buffer_release(&text);
  return preference_settings(&recipe);
}

static void random_replies(ReplyScore replies[REPLIES], uint64_t seed) {
  Rng rng = rng_new(seed, RNG_STREAM_TEST);
  for (int i = 0; i < REPLIES; i++) {
    replies[i] = (ReplyScore){.tokens = 1 + (int64_t)rng_below(&rng, 20), .is_undesirable = i % 3 == 1};
    replies[i].policy = -(double)replies[i].tokens * (0.1 + 4 * rng_uniform(&rng));
    replies[i].reference = replies[i].policy + 6 * (rng_uniform(&rng) - 0.5);
  }
}

static void check_slopes(const char *lines) {
  PreferenceSettings settings = settings_of(lines);
  for (uint64_t seed = 1; seed <= 20; seed++) {
    ReplyScore replies[REPLIES], moved[REPLIES];
    random_replies(replies, seed);
    double loss, up, down;
    preference_loss(&loss, replies, REPLIES, 0.3, &settings);
    assert_true(isfinite(loss));
    for (int i = 0; i < REPLIES; i++) {
      const double step = 1e-5;
      memcpy(moved, replies, sizeof moved);
      moved[i].policy = replies[i].policy + step;
      preference_loss(&up, moved, REPLIES, 0.3, &settings);
      moved[i].policy = replies[i].policy - step;
      preference_loss(&down, moved, REPLIES, 0.3, &settings);
      double expected = (up - down) / (2 * step), limit = 1e-6 * (1 + fabs(expected));
      if (!(fabs(replies[i].slope - expected) <= limit))
        fail_msg("%s: seed %d, reply %d: slope %.12g, by differences %.12g", lines, (int)seed, i, replies[i].slope, expected);
    }
  }
}

static void every_slope_is_that_of_finite_differences(void **state) {
  (void)state;
  static const char *const recipes[] = {
      "rl: dpo\n",
      "rl: dpo\nrl_beta: 0.5\ndpo_label_smoothing: 0.2\n",
      "rl: dpo\ndpo_loss_type: [hinge]\n",
      "rl: dpo\ndpo_loss_type: [robust]\ndpo_label_smoothing: 0.1\n",
      "rl: dpo\ndpo_loss_type: [exo_pair]\ndpo_label_smoothing: 0.1\n",
      "rl: dpo\ndpo_loss_type: [nca_pair]\n",
      "rl: dpo\ndpo_loss_type: [bco_pair]\n",
      "rl: dpo\ndpo_loss_type: [sppo_hard]\n",
      "rl: dpo\ndpo_loss_type: [apo_zero]\n",
      "rl: dpo\ndpo_loss_type: [apo_down]\n",
      "rl: dpo\ndpo_loss_type: [discopop]\n",
      "rl: dpo\ndpo_loss_type: [sigmoid_norm]\n",
      "rl: dpo\ndpo_loss_type: [aot]\ndpo_label_smoothing: 0.1\n",
      "rl: dpo\ndpo_loss_type: [aot_unpaired]\n",
      "rl: dpo\ndpo_loss_type: [sigmoid, hinge, ipo]\ndpo_loss_weights: [0.2, 0.7, 0.4]\n",
      "rl: ipo\nrl_beta: 0.2\n",
      "rl: simpo\nrl_beta: 2\nsimpo_gamma: 0.5\n",
      "rl: orpo\norpo_alpha: 0.3\n",
      "rl: kto\nkto_desirable_weight: 1.5\nkto_undesirable_weight: 0.7\n",
  };
  for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) check_slopes(recipes[i]);
}

// The values that logarithms and exponentials of float32 would lose.
static void far_margins_stay_finite(void **state) {
  (void)state;
  PreferenceSettings settings = settings_of("rl: dpo\nrl_beta: 1\n");
  ReplyScore replies[2] = {{.policy = -900, .tokens = 3}, {.policy = 0, .tokens = 3}};
  double loss;
  preference_loss(&loss, replies, 2, 0, &settings);
  assert_true(loss == 900 && replies[0].slope == -1 && replies[1].slope == 1);
  replies[0].policy = 900;
  preference_loss(&loss, replies, 2, 0, &settings);
  assert_true(loss == 0 && replies[0].slope == 0);
}

static void rewards_are_log_ratios_or_means(void **state) {
  (void)state;
  ReplyScore replies[2] = {{.policy = -4, .reference = -6, .tokens = 2}, {.policy = -9, .reference = -6, .tokens = 3}};
  double loss;
  PreferenceSettings settings = settings_of("rl: dpo\n");
  preference_loss(&loss, replies, 2, 0, &settings);
  assert_true(replies[0].reward == 0.1 * 2 && replies[1].reward == 0.1 * -3);
  settings = settings_of("rl: simpo\nrl_beta: 2\n");
  preference_loss(&loss, replies, 2, 0, &settings);
  assert_true(replies[0].reward == -4 && replies[1].reward == -6);
}

static void likelihood_terms_come_from_their_keys(void **state) {
  (void)state;
  assert_true(settings_of("rl: dpo\nrpo_alpha: 0.5\n").nll_weight == 0.5);
  assert_true(settings_of("rl: dpo\ndpo_loss_type: [sigmoid, sft]\ndpo_loss_weights: [1, 0.25]\n").nll_weight == 0.25);
  assert_true(settings_of("rl: simpo\ncpo_alpha: 0.75\n").nll_weight == 0.75);
  PreferenceSettings orpo = settings_of("rl: orpo\n");
  assert_true(orpo.nll_weight == 1 && orpo.nll_has_prompt);
  assert_true(settings_of("rl: dpo\n").nll_weight == 0);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, recipe_set_up, recipe_tear_down)
  const struct CMUnitTest tests[] = {
      TEST(every_slope_is_that_of_finite_differences),
      TEST(far_margins_stay_finite),
      TEST(rewards_are_log_ratios_or_means),
      TEST(likelihood_terms_come_from_their_keys),

  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
