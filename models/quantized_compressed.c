// compressed-tensors' pack-quantized: integers of 1 to 8 bits in a dense stream of 32-bit words along each row.
//   weight_packed [out, ceil(in * bits / 32)], q + 2^(bits - 1); weight_scale [out, groups]; weight_zero_point
//   [ceil(out * bits / 32), groups], packed in the same way along out; weight_g_idx [in]; weight_shape [2]
//   w = (q - zero) * scale in the scale's type (compressed_tensors.quantization's dequantize)
// Rows of 4 and 8 bits that fill their words stay where the file has them.
#include "models/quantized_parts.h"

typedef struct Unpack {
  const uint8_t *packed;
  uint8_t *codes;
  int64_t columns, words;
  int bits, out_bits;
} Unpack;

static void unpack_row(void *argument, int64_t row, int thread) {
  (void)thread;
  const Unpack *job = argument;
  for (int64_t j = 0; j < job->columns; j++) {
    uint32_t code = quant_bits(job->packed + 4 * row * job->words, 1, j, job->bits);
    int64_t at = row * job->columns + j;
    if (job->out_bits == 8) job->codes[at] = (uint8_t)code;
    else job->codes[at / 2] |= (uint8_t)(code << at % 2 * 4);  // columns are even, so no byte is of two rows
  }
}

static int64_t words_of(int64_t count, int64_t bits) { return (count * bits + 31) / 32; }

static Status find_scheme(const QuantScheme **out, const QuantModule *module, const SafetensorsTensor *packed) {
  int64_t words = packed->dimensions == 2 ? packed->shape[1] : 0;
  for (int i = 0; i < module->config->scheme_count; i++) {
    *out = &module->config->schemes[i];
    if (!(*out)->is_float && words_of(module->columns, (*out)->bits) == words) return STATUS_OK;
  }
  return quant_fail(module, "weight_packed", "has %lld words a row, and %lld columns of %lld bits fill %lld", (long long)words,
                    (long long)module->columns, (long long)module->config->schemes[0].bits,
                    (long long)words_of(module->columns, module->config->schemes[0].bits));
}

static Status check_shape(const QuantModule *module) {
  const SafetensorsTensor *shape = quant_find(module, "weight_shape");
  if (!shape) return STATUS_OK;
  int64_t size[2] = {0, 0};
  if ((shape->type != ST_I64 && shape->type != ST_I32) || shape->count != 2)
    return quant_fail(module, "weight_shape", "is not two integers");
  for (int i = 0; i < 2; i++) {
    if (shape->type == ST_I64) {
      memcpy(&size[i], (const char *)shape->data + 8 * i, 8);
    } else {
      int32_t value;
      memcpy(&value, (const char *)shape->data + 4 * i, sizeof value);
      size[i] = value;
    }
  }
  if (size[0] == module->rows && size[1] == module->columns) return STATUS_OK;
  return quant_fail(module, "weight_shape", "says %lld x %lld, and the model's dimensions %lld x %lld", (long long)size[0],
                    (long long)size[1], (long long)module->rows, (long long)module->columns);
}

static Status read_codes(Grouped *grouped, const QuantModule *module, const SafetensorsTensor *packed, int bits) {
  int64_t columns = module->columns;
  grouped->bits = bits > 4 || columns % 2 ? 8 : 4;
  if (bits == grouped->bits && columns * bits % 32 == 0) {
    grouped->codes = quant_in_place(module, packed);
    return STATUS_OK;
  }
  uint8_t *codes = quant_new(module, module->rows * columns * grouped->bits / 8, 1);
  Unpack job = {packed->data, codes, columns, words_of(columns, bits), bits, grouped->bits};
  pool_run(module->model->backend->pool, module->rows, unpack_row, &job);
  file_map_forget(packed->data, packed->bytes);
  grouped->codes = codes;
  return STATUS_OK;
}

static Status read_zeros(Grouped *grouped, const QuantModule *module, const QuantScheme *scheme) {
  int64_t rows = module->rows, groups = grouped->groups;
  grouped->zero = 1 << (scheme->bits - 1);
  if (scheme->is_symmetric) return STATUS_OK;
  const SafetensorsTensor *zeros;
  TRY(quant_need(&zeros, module, "weight_zero_point", ST_I32, words_of(rows, scheme->bits), groups));
  int16_t *values = quant_new(module, rows * groups, sizeof *values);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t g = 0; g < groups; g++)
      values[row * groups + g] = (int16_t)quant_bits((const uint8_t *)zeros->data + 4 * g, groups, row, (int)scheme->bits);
  grouped->zeros = values;
  return STATUS_OK;
}

static Status read_order(Grouped *grouped, const QuantModule *module) {
  const SafetensorsTensor *index = quant_find(module, "weight_g_idx");
  if (!index) return STATUS_OK;
  TRY(quant_need(&index, module, "weight_g_idx", ST_I32, module->columns, 0));
  bool is_unset = true;  // all -1: columns are in order
  for (int64_t i = 0; i < index->count * 4; i++) is_unset &= ((const uint8_t *)index->data)[i] == 0xff;
  if (is_unset) return STATUS_OK;
  return quant_read_index(&grouped->group_of, module, index, "weight_g_idx", grouped->groups, grouped->group);
}

Status quant_read_compressed(Matrix *out, const QuantModule *module) {
  const SafetensorsTensor *packed = quant_find(module, "weight_packed"), *scales = quant_find(module, "weight_scale");
  const QuantScheme *scheme = NULL;
  TRY(find_scheme(&scheme, module, packed));
  TRY(quant_need(&packed, module, "weight_packed", ST_I32, module->rows, words_of(module->columns, scheme->bits)));
  TRY(check_shape(module));
  Grouped grouped = {.group = scheme->group_size > 0 ? scheme->group_size : module->columns};
  if (module->columns % grouped.group)
    return quant_fail(module, "weight_packed", "has %lld columns, which the group size of %lld does not divide", (long long)module->columns,
                      (long long)grouped.group);
  grouped.groups = module->columns / grouped.group;
  bool is_tensor = scales && scales->count == 1;
  if (is_tensor && module->rows > 1) grouped.row_group = module->rows, grouped.groups = 1, grouped.group = module->columns;
  else TRY(quant_need(&scales, module, "weight_scale", scales ? scales->type : ST_BF16, module->rows, grouped.groups));
  if (is_tensor && !scheme->is_symmetric)
    return quant_fail(module, "weight_scale", "is one for the whole tensor beside zeros, which is not built");
  TRY(quant_scale_type(&grouped.scale_type, module, "weight_scale", scales));
  grouped.rounding = grouped.scale_type;
  TRY(read_order(&grouped, module));
  TRY(read_codes(&grouped, module, packed, (int)scheme->bits));
  TRY(read_zeros(&grouped, module, scheme));
  grouped.scales = quant_in_place(module, scales);
  return quant_finish(out, module, &grouped);
}
