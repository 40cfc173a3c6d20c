// GPTQ (Frantar et al. 2022) and AWQ (Lin et al. 2023): 32-bit words whose packing runs along the other axis than ours, so codes,
// scales and zeros are copied once, in the order of rows.
//   GPTQ: qweight [in * bits / 32, out], dense along in; qzeros [groups, out * bits / 32], dense along out; scales [groups, out];
//         g_idx [in], the group of each input: used as it is, as the layers do, which never look at desc_act. w = scales * (q - zero) in the scales' type; its first version stores zero - 1, modulo
//         2^bits (AutoGPTQ's and GPTQModel's own PyTorch layers).
//   AWQ:  qweight [in, out / 8], qzeros [groups, out / 8], both with columns 0, 2, 4, 6, 1, 3, 5, 7 of eight from the low nibble up;
//         scales [groups, out]. w = (q - zero) * scales in the scales' type (AutoAWQ's GEMM layer).
#include <string.h>

#include "models/quantized_parts.h"

typedef struct Repack {
  const uint8_t *weight, *zeros, *scales;
  uint8_t *codes;
  int16_t *out_zeros;
  uint8_t *out_scales;
  int64_t rows, columns, groups;
  int bits, scale_bytes;
  bool is_awq;
  int zero_offset;
} Repack;

enum { TASK_ROWS = 32 };

// Nibble of column j of eight.
static int awq_shift(int64_t j) {
  static const int nibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  return 4 * nibble[j % 8];
}

static uint32_t awq_code(const uint8_t *words, int64_t row, int64_t rows, int64_t line) {
  uint32_t word;
  memcpy(&word, words + 4 * (line * (rows / 8) + row / 8), sizeof word);
  return word >> awq_shift(row) & 15;
}

static void repack_row(const Repack *job, int64_t row) {
  int64_t zero_words = job->rows * job->bits / 32;
  for (int64_t j = 0; j < job->columns; j++) {
    uint32_t code = job->is_awq ? awq_code(job->weight, row, job->rows, j) : quant_bits(job->weight + 4 * row, job->rows, j, job->bits);
    int64_t at = row * job->columns + j;
    if (job->bits == 8) job->codes[at] = (uint8_t)code;
    else job->codes[at / 2] |= (uint8_t)(code << at % 2 * 4);  // columns are a multiple of 2, so no byte is of two rows
  }
  for (int64_t g = 0; g < job->groups; g++) {
    uint32_t zero = job->is_awq ? awq_code(job->zeros, row, job->rows, g) : quant_bits(job->zeros + 4 * g * zero_words, 1, row, job->bits);
    job->out_zeros[row * job->groups + g] = (int16_t)((zero + (uint32_t)job->zero_offset) & ((1u << job->bits) - 1));
    memcpy(job->out_scales + (row * job->groups + g) * job->scale_bytes, job->scales + (g * job->rows + row) * job->scale_bytes,
           (size_t)job->scale_bytes);
  }
}

static void repack_rows(void *argument, int64_t task, int thread) {
  (void)thread;
  const Repack *job = argument;
  for (int64_t row = task * TASK_ROWS; row < job->rows && row < (task + 1) * TASK_ROWS; row++) repack_row(job, row);
}

// The bits that qweight's shape says, which config.json must say too.
static Status read_bits(int *bits, const QuantModule *module, const SafetensorsTensor *weight) {
  const QuantScheme *scheme = &module->config->schemes[0];
  int64_t lines = weight->dimensions == 2 ? weight->shape[0] : 0, found = lines > 0 ? lines * 32 / module->columns : 0;
  *bits = (int)(module->config->has_overrides && (found == 2 || found == 3 || found == 8) ? found : scheme->bits);
  if (module->columns * *bits % 32 == 0 && module->rows * *bits % 32 == 0) return STATUS_OK;
  return quant_fail(module, "qweight", "has %d bits, which fill no whole words of %lld rows and %lld columns", *bits,
                    (long long)module->rows, (long long)module->columns);
}

Status quant_read_packed(Matrix *out, const QuantModule *module) {
  const QuantConfig *config = module->config;
  bool is_awq = config->method == QUANT_AWQ;
  int64_t rows = module->rows, columns = module->columns, size = config->schemes[0].group_size, group = size > 0 ? size : columns;
  const SafetensorsTensor *weight = quant_find(module, "qweight"), *zeros, *scales, *index;
  int bits = 4;
  if (!is_awq) TRY(read_bits(&bits, module, weight));
  if (is_awq && rows % 8) return quant_fail(module, "qweight", "is of %lld rows, which 8 does not divide", (long long)rows);
  if (is_awq && columns % group)
    return quant_fail(module, "qweight", "has %lld columns, which the group size of %lld does not divide", (long long)columns,
                      (long long)group);
  if (columns % 2) return quant_fail(module, "qweight", "has an odd number of columns");
  int64_t groups = (columns + group - 1) / group;
  TRY(is_awq ? quant_need(&weight, module, "qweight", ST_I32, columns, rows / 8)
             : quant_need(&weight, module, "qweight", ST_I32, columns * bits / 32, rows));
  TRY(quant_need(&zeros, module, "qzeros", ST_I32, groups, rows * bits / 32));
  scales = quant_find(module, "scales");
  if (scales && columns % group && (scales->dimensions != 2 || scales->shape[0] != groups))
    return quant_fail(module, "scales", "has %lld groups, and %lld columns in groups of %lld are %lld", (long long)scales->shape[0],
                      (long long)columns, (long long)group, (long long)groups);
  TRY(quant_need(&scales, module, "scales", scales ? scales->type : ST_F16, groups, rows));
  Grouped grouped = {.bits = bits == 8 ? 8 : 4, .groups = groups, .group = group};
  TRY(quant_scale_type(&grouped.scale_type, module, "scales", scales));
  grouped.rounding = grouped.scale_type;
  if (!is_awq && (config->is_activation_ordered || quant_find(module, "g_idx"))) {
    TRY(quant_need(&index, module, "g_idx", ST_I32, columns, 0));
    TRY(quant_read_index(&grouped.group_of, module, index, "g_idx", groups, group));  // what it says holds, whatever desc_act says
  }
  Repack job = {.weight = weight->data,
                .zeros = zeros->data,
                .scales = scales->data,
                .codes = quant_new(module, rows * columns * grouped.bits / 8, 1),
                .out_zeros = quant_new(module, rows * groups, sizeof(int16_t)),
                .rows = rows,
                .columns = columns,
                .groups = groups,
                .bits = bits,
                .scale_bytes = safetensors_type_bytes(scales->type),
                .is_awq = is_awq,
                .zero_offset = !is_awq && config->stores_zero_less_one};
  job.out_scales = quant_new(module, rows * groups, (size_t)job.scale_bytes);
  pool_run(module->model->backend->pool, (rows + TASK_ROWS - 1) / TASK_ROWS, repack_rows, &job);
  const SafetensorsTensor *const read[] = {weight, zeros, scales};
  for (size_t i = 0; i < sizeof read / sizeof *read; i++) file_map_forget(read[i]->data, read[i]->bytes);
  grouped.codes = job.codes;
  grouped.zeros = job.out_zeros;
  grouped.scales = job.out_scales;
  return quant_finish(out, module, &grouped);
}
