// The mixes: which type each tensor gets.
#include <stdlib.h>

#include "adapters/quantization.h"
#include "core/memory.h"
#include "formats/gguf.h"
#include "tests/support/golden.h"
#include "tests/support/test.h"

// Every file that llama.cpp made of one model: types of all matrices, and general.file_type.
static void types_are_those_that_llama_cpp_chose(void **state) {
  (void)state;
  static const char *const names[] = {"q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k",
                                      "q4_0", "q4_1",   "q5_0",   "q5_1",   "q8_0",   "iq4_nl", "iq4_xs", "f16",    "bf16"};
  char *there = shared_path("golden/quant/gguf/f32.gguf");
  if (!there) skip_test("golden/quant is not here");
  free(there);
  for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
    char *relative = memory_format("golden/quant/gguf/%s.gguf", names[f]), *path = shared_path(relative);
    Gguf gguf;
    const Quantization *quantization;
    int64_t file_type;
    assert_ok(gguf_open(&gguf, path));
    assert_ok(quantization_parse(&quantization, names[f]));
    assert_true(gguf_get_integer(&gguf, "general.file_type", &file_type));
    assert_int_equal(file_type, quantization->file_type);
    QuantizationModel model = quantization_model_new(2, 4, 2, false);
    for (int64_t i = 0; i < gguf.tensor_count; i++) quantization_model_note(&model, gguf.tensors[i].name, gguf.tensors[i].shape);
    for (int64_t i = 0; i < gguf.tensor_count; i++) {
      const GgufTensor *tensor = &gguf.tensors[i];
      if (tensor->dimensions == 1) continue;
      BlockType type = quantization_type(quantization, &model, tensor->name, tensor->shape[0]);
      if (type != (BlockType)tensor->type)
        fail_msg("%s: %s becomes %s, not %s", names[f], tensor->name, block_traits(type)->name,
                 block_traits((BlockType)tensor->type)->name);
    }
    quantization_model_release(&model);
    gguf_close(&gguf);
    free(path);
    free(relative);
  }
}

typedef struct Case {
  const char *quantization, *tensor;
  int64_t columns;
  BlockType type;
} Case;

static void check_cases(QuantizationModel *model, const Case *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const Quantization *quantization;
    assert_ok(quantization_parse(&quantization, cases[i].quantization));
    BlockType type = quantization_type(quantization, model, cases[i].tensor, cases[i].columns);
    if (type != cases[i].type)
      fail_msg("%s, %s: %s, not %s", cases[i].quantization, cases[i].tensor, block_traits(type)->name, block_traits(cases[i].type)->name);
  }
}

static QuantizationModel noted_model(int layers, int heads, int kv_heads, bool importance, bool output) {
  QuantizationModel model = quantization_model_new(layers, heads, kv_heads, importance);
  const int64_t shape[4] = {256, 256, 1, 1};
  if (output) quantization_model_note(&model, "output.weight", shape);
  for (int layer = 0; layer < layers; layer++) {
    char *name = memory_format("blk.%d.attn_v.weight", layer);
    quantization_model_note(&model, name, shape);
    free(name);
  }
  return model;
}

static void layers_at_both_ends_get_more_bits(void **state) {
  (void)state;
  QuantizationModel model = noted_model(32, 32, 8, false, true);
  static const Case cases[] = {
      {"q4_k_m", "blk.0.attn_v.weight", 256, BLOCK_Q6_K},
      {"q4_k_m", "blk.3.ffn_down.weight", 256, BLOCK_Q6_K},
      {"q4_k_m", "blk.4.ffn_down.weight", 256, BLOCK_Q4_K},
      {"q4_k_m", "blk.6.ffn_down.weight", 256, BLOCK_Q6_K},
      {"q4_k_m", "blk.28.ffn_down.weight", 256, BLOCK_Q6_K},
      {"q4_k_m", "blk.5.attn_q.weight", 256, BLOCK_Q4_K},
      {"q4_k_m", "output.weight", 256, BLOCK_Q6_K},
      {"q4_k_m", "token_embd.weight", 256, BLOCK_Q4_K},
      {"q4_k_s", "blk.3.ffn_down.weight", 256, BLOCK_Q5_K},
      {"q4_k_s", "blk.4.attn_v.weight", 256, BLOCK_Q4_K},
      {"q2_k", "blk.9.attn_v.weight", 256, BLOCK_Q4_K},
      {"q3_k_m", "blk.1.ffn_down.weight", 256, BLOCK_Q5_K},
      {"iq4_xs", "blk.0.ffn_down.weight", 256, BLOCK_Q5_K},
      {"q4_k_m", "blk.2.attn_qkv.weight", 256, BLOCK_Q5_K},
      {"Q5_K", "blk.0.ffn_down_shexp.weight", 256, BLOCK_Q6_K},
  };
  check_cases(&model, cases, sizeof cases / sizeof *cases);
  quantization_model_release(&model);
}

static void importance_and_tied_embeddings_change_the_choice(void **state) {
  (void)state;
  QuantizationModel model = noted_model(32, 8, 8, true, false);
  static const Case cases[] = {
      {"iq4_xs", "blk.0.ffn_down.weight", 256, BLOCK_IQ4_XS}, {"q4_0", "blk.0.ffn_down.weight", 256, BLOCK_Q4_1},
      {"q5_0", "blk.3.ffn_down.weight", 256, BLOCK_Q5_1},     {"q4_0", "token_embd.weight", 256, BLOCK_Q6_K},
      {"q8_0", "token_embd.weight", 256, BLOCK_Q8_0},         {"f16", "token_embd.weight", 256, BLOCK_F16},
      {"q2_k", "blk.9.attn_v.weight", 256, BLOCK_Q3_K},
  };
  check_cases(&model, cases, sizeof cases / sizeof *cases);
  quantization_model_release(&model);
}

static void rows_that_blocks_do_not_divide_get_smaller_blocks(void **state) {
  (void)state;
  QuantizationModel model = noted_model(30, 9, 3, false, false);
  static const Case cases[] = {
      {"q2_k", "blk.5.attn_q.weight", 576, BLOCK_IQ4_NL},   {"q3_k_m", "blk.5.attn_q.weight", 576, BLOCK_IQ4_NL},
      {"iq4_xs", "blk.5.attn_q.weight", 576, BLOCK_IQ4_NL}, {"q4_k_m", "blk.5.attn_q.weight", 576, BLOCK_Q5_0},
      {"q5_k_m", "blk.5.attn_q.weight", 576, BLOCK_Q5_1},   {"q6_k", "blk.5.attn_q.weight", 576, BLOCK_Q8_0},
      {"q4_k_m", "token_embd.weight", 576, BLOCK_Q8_0},     {"q4_k_m", "blk.5.attn_q.weight", 40, BLOCK_F16},
      {"q8_0", "blk.5.attn_q.weight", 40, BLOCK_F16},       {"q4_k_m", "blk.5.ffn_gate_inp.weight", 576, BLOCK_F32},
      {"f16", "blk.5.ffn_gate_inp.weight", 576, BLOCK_F32},
  };
  check_cases(&model, cases, sizeof cases / sizeof *cases);
  quantization_model_release(&model);
}

static void eight_experts_keep_attention_exact(void **state) {
  (void)state;
  QuantizationModel model = noted_model(32, 32, 8, false, true);
  const int64_t shape[4] = {256, 256, 8, 1};
  quantization_model_note(&model, "blk.0.ffn_down_exps.weight", shape);
  static const Case cases[] = {
      {"q4_k_m", "blk.9.attn_v.weight", 256, BLOCK_Q8_0},
      {"q2_k", "blk.9.attn_k.weight", 256, BLOCK_Q8_0},
      {"q4_k_s", "blk.9.attn_output.weight", 256, BLOCK_Q5_K},
      {"q4_k_m", "blk.0.ffn_down_exps.weight", 256, BLOCK_Q6_K},
  };
  check_cases(&model, cases, sizeof cases / sizeof *cases);
  quantization_model_release(&model);
}

static void attention_layers_are_counted_among_themselves(void **state) {
  (void)state;
  // Attention in every fourth layer only, as in hybrid models: 8 of 32.
  QuantizationModel model = quantization_model_new(32, 16, 2, false);
  const int64_t shape[4] = {256, 256, 1, 1};
  for (int layer = 3; layer < 32; layer += 4) {
    char *name = memory_format("blk.%d.attn_v.weight", layer);
    quantization_model_note(&model, name, shape);
    free(name);
  }
  static const Case cases[] = {
      {"q4_k_m", "blk.3.attn_v.weight", 256, BLOCK_Q6_K},  // the first of eight
      {"q4_k_m", "blk.7.attn_v.weight", 256, BLOCK_Q4_K},  {"q4_k_m", "blk.15.attn_v.weight", 256, BLOCK_Q6_K},
      {"q4_k_s", "blk.15.attn_v.weight", 256, BLOCK_Q5_K}, {"q4_k_s", "blk.19.attn_v.weight", 256, BLOCK_Q4_K},
  };
  check_cases(&model, cases, sizeof cases / sizeof *cases);
  quantization_model_release(&model);
}

static void names_are_known_or_refused(void **state) {
  (void)state;
  const Quantization *quantization;
  assert_ok(quantization_parse(&quantization, "same"));
  assert_null(quantization);
  assert_ok(quantization_parse(&quantization, "q4_k"));
  assert_string_equal(quantization->name, "q4_k_m");
  assert_fails(STATUS_USAGE, quantization_parse(&quantization, "int3"), "no type is called that", "q4_k_m");
  assert_fails(STATUS_USAGE, quantization_parse(&quantization, "mxfp4"), "read, but not written", "same");
  for (int type = 0; type < BLOCK_GGUF_END; type++)
    if (block_traits((BlockType)type)) assert_non_null(block_traits(quantization_same_type((BlockType)type))->quantize);
  assert_int_equal(quantization_same_type(BLOCK_Q4_K), BLOCK_Q4_K);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(types_are_those_that_llama_cpp_chose),
      cmocka_unit_test(layers_at_both_ends_get_more_bits),
      cmocka_unit_test(importance_and_tied_embeddings_change_the_choice),
      cmocka_unit_test(rows_that_blocks_do_not_divide_get_smaller_blocks),
      cmocka_unit_test(eight_experts_keep_attention_exact),
      cmocka_unit_test(eight_experts_keep_attention_exact),
      cmocka_unit_test(attention_layers_are_counted_among_themselves),
      cmocka_unit_test(names_are_known_or_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
