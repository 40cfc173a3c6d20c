// Which rate and decay each trained tensor gets: what PEFT's create_loraplus_optimizer and Axolotl's groups give the parameters of those names.
#include "trainer/parameters.h"

#include <math.h>

#include "tests/support/recipe.h"
#include "tests/support/test.h"

enum { TENSORS = 12 };
static const char base[] =
    "base_model: m.gguf\nadapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
    "datasets: [{path: x, type: alpaca}]\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\n"
    "learning_rate: 1e-4\nweight_decay: 0.1\n";

// Pairs on q_proj, with a magnitude, on down_proj of another layer, on the embedding and on the head; a norm, a bias, one token's row.
static void check(const char *more, const double rates[TENSORS], const double decays[TENSORS]) {
  static const char q[] = "model.layers.0.self_attn.q_proj", down[] = "model.layers.1.mlp.down_proj", embedding[] = "model.embed_tokens";
  Parameter a = {.rows = 8, .columns = 64}, b = {.rows = 32, .columns = 8}, column = {.rows = 32, .columns = 1},
            vector = {.rows = 1, .columns = 64};
  AdapterTensor tensors[TENSORS] = {{q, TENSOR_LORA_A, &a},
                                    {q, TENSOR_LORA_B, &b},
                                    {down, TENSOR_LORA_A, &a},
                                    {down, TENSOR_LORA_B, &b},
                                    {embedding, TENSOR_EMBEDDING_A, &a},
                                    {embedding, TENSOR_EMBEDDING_B, &b},
                                    {"model.norm", TENSOR_NORM, &vector},
                                    {q, TENSOR_MAGNITUDE, &column},
                                    {"lm_head", TENSOR_LORA_B, &b},
                                    {down, TENSOR_BIAS, &vector},
                                    {embedding, TENSOR_TOKENS, &vector},
                                    {down, TENSOR_WEIGHT, &vector}};
  Adapter adapter = {.tensors = tensors, .tensor_count = TENSORS};
  char *text = memory_format("%s%s", base, more);
  assert_ok(parse_recipe("r.yml", text, NULL));
  ParameterTensor *actual = parameter_tensors(&adapter, &recipe);
  for (int i = 0; i < TENSORS; i++) {
    assert_int_equal(actual[i].rows, tensors[i].parameter->rows);
    assert_int_equal(actual[i].columns, tensors[i].parameter->columns);
    if (!(fabs(actual[i].rate_multiplier * 1e-4 - rates[i]) <= 1e-15) || actual[i].weight_decay != decays[i])
      fail_msg("%s: tensor %d: rate %g, decay %g", more, i, actual[i].rate_multiplier * 1e-4, actual[i].weight_decay);
    assert_int_equal(actual[i].by_element, i == 4 || i == 5 || i == 8 || i == 10);
  }
  free(actual);
  free(text);
}

static const double plain_decays[TENSORS] = {0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0, 0.1, 0.1, 0, 0.1, 0.1},
                    grouped_decays[TENSORS] = {0.1, 0.1, 0.1, 0.1, 0, 0, 0, 0.1, 0, 0, 0, 0.1};

static void all_learn_at_one_rate_and_norms_and_biases_do_not_decay(void **state) {
  (void)state;
  check("", (const double[TENSORS]){1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4}, plain_decays);
}

static void loraplus_gives_b_and_vectors_its_ratio_and_adapted_embeddings_their_own_rate(void **state) {
  (void)state;
  check("loraplus_lr_ratio: 16\n", (const double[TENSORS]){1e-4, 16e-4, 1e-4, 16e-4, 1e-6, 1e-6, 16e-4, 16e-4, 16e-4, 16e-4, 1e-4, 1e-4},
        plain_decays);
  check("loraplus_lr_ratio: 2\nloraplus_lr_embedding: 3e-5\nembedding_lr: 1\n",
        (const double[TENSORS]){1e-4, 2e-4, 1e-4, 2e-4, 3e-5, 3e-5, 2e-4, 2e-4, 2e-4, 2e-4, 1e-4, 1e-4}, plain_decays);
}

static void embeddings_have_a_rate_of_their_own_and_do_not_decay(void **state) {
  (void)state;
  check("embedding_lr: 5e-6\n", (const double[TENSORS]){1e-4, 1e-4, 1e-4, 1e-4, 5e-6, 5e-6, 1e-4, 1e-4, 5e-6, 1e-4, 5e-6, 1e-4},
        grouped_decays);
  check("embedding_lr: 5e-6\nembedding_lr_scale: 0.5\n",
        (const double[TENSORS]){1e-4, 1e-4, 1e-4, 1e-4, 5e-5, 5e-5, 1e-4, 1e-4, 5e-5, 1e-4, 5e-5, 1e-4}, grouped_decays);
  check("optimizer: muon\n", (const double[TENSORS]){1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4},
        grouped_decays);
}

static void the_first_group_that_has_a_module_in_its_list_gives_the_rate(void **state) {
  (void)state;
  check("lr_groups: [{name: queries, modules: [k_proj, q_proj.lora_], lr: 2e-4}, {name: b, modules: [lora_B, q_proj, norm], lr: 3e-4}]\n",
        (const double[TENSORS]){2e-4, 2e-4, 1e-4, 3e-4, 1e-4, 1e-4, 1e-4, 2e-4, 1e-4, 1e-4, 1e-4, 1e-4}, grouped_decays);
  check("lr_groups: [{name: m, modules: [lora_magnitude_vector, modules_to_save], lr: 2e-4}]\n",
        (const double[TENSORS]){1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 2e-4, 1e-4, 1e-4, 1e-4, 2e-4}, grouped_decays);
}

// As named_parameters() of a PEFT model, or of a model, has them.
static void tensors_have_their_names_in_peft(void **state) {
  (void)state;
  static const struct {
    const char *module;
    TensorRole role;
    bool is_full;
    const char *name;
  } cases[] = {
      {"model.layers.0.mlp.up_proj", TENSOR_MAGNITUDE, false,
       "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector.default.weight"},
      {"model.embed_tokens", TENSOR_EMBEDDING_A, false, "base_model.model.model.embed_tokens.lora_embedding_A.default"},
      {"model.embed_tokens", TENSOR_TOKENS, false, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta.default"},
      {"lm_head", TENSOR_WEIGHT, false, "base_model.model.lm_head.modules_to_save.default.weight"},
      {"model.norm", TENSOR_NORM, true, "model.norm.weight"},
      {"model.layers.0.self_attn.q_proj", TENSOR_BIAS, true, "model.layers.0.self_attn.q_proj.bias"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *name = parameter_name(&(AdapterTensor){cases[i].module, cases[i].role, NULL}, cases[i].is_full);
    assert_string_equal(name, cases[i].name);
    free(name);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_learn_at_one_rate_and_norms_and_biases_do_not_decay),
      cmocka_unit_test(loraplus_gives_b_and_vectors_its_ratio_and_adapted_embeddings_their_own_rate),
      cmocka_unit_test(embeddings_have_a_rate_of_their_own_and_do_not_decay),
      cmocka_unit_test(the_first_group_that_has_a_module_in_its_list_gives_the_rate),
      cmocka_unit_test(tensors_have_their_names_in_peft),
  };
  return cmocka_run_group_tests(tests, recipe_set_up, recipe_tear_down);
}
