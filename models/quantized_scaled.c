// Bytes of E4M3 or signed integers with scales for the tensor, each row, or each block or group, left where the file has them.
//   fp8, fbgemm_fp8:     w = float32(q) * scale in float32 (weight_scale_inv is a factor too: DeepSeek-V3's weight_dequant;
//                        Fp8Dequantize of transformers)
//   compressed-tensors:  w = (q - zero) * scale in the scale's type (its dequantize)
#include "models/quantized_parts.h"

// [], [1], [1, 1]: the tensor; [rows], [rows, 1]: each row; else blocks of [row_group, group].
static Status read_grid(Grouped *grouped, const QuantModule *module, const char *part, const SafetensorsTensor *scales) {
  int64_t rows = module->rows, columns = module->columns, lines, groups;
  if (scales->dimensions > 2) return quant_fail(module, part, "has %d dimensions, not up to 2", scales->dimensions);
  lines = scales->dimensions > 0 ? scales->shape[0] : 1;
  groups = scales->dimensions == 2 ? scales->shape[1] : 1;
  for (int i = 0; i < module->config->scheme_count; i++) {
    const QuantScheme *scheme = &module->config->schemes[i];
    int64_t row_group = 1, group = columns;
    if (scheme->block[0] > 0) row_group = scheme->block[0], group = scheme->block[1];
    else if (scheme->group_size > 0) group = scheme->group_size;
    else if (lines == 1) row_group = rows;
    if (lines != (rows + row_group - 1) / row_group || groups != (columns + group - 1) / group) continue;
    if (scheme->block[0] == 0 && columns % group)
      return quant_fail(module, part, "is of groups of %lld, which do not divide %lld columns", (long long)group, (long long)columns);
    grouped->row_group = row_group;
    grouped->group = group;
    grouped->groups = groups;
    return STATUS_OK;
  }
  const QuantScheme *scheme = &module->config->schemes[0];
  if (scheme->block[0] > 0)
    return quant_fail(module, part, "is a grid of %lld x %lld, and %lld x %lld in blocks of %lld x %lld is another", (long long)lines,
                      (long long)groups, (long long)rows, (long long)columns, (long long)scheme->block[0], (long long)scheme->block[1]);
  return quant_fail(module, part, "is a grid of %lld x %lld, which is none for the tensor, for %lld rows or for groups of %lld columns",
                    (long long)lines, (long long)groups, (long long)rows, (long long)scheme->group_size);
}

static Status read_zeros(Grouped *grouped, const QuantModule *module, const SafetensorsTensor *scales) {
  const SafetensorsTensor *zeros = quant_find(module, "weight_zero_point");
  if (!zeros) return STATUS_OK;
  if (zeros->type == ST_F8_E4M3) {  // float-quantized writes them, all zero
    for (int64_t i = 0; i < zeros->count; i++)
      if (((const uint8_t *)zeros->data)[i] & 127)
        return quant_fail(module, "weight_zero_point", "of FP8 weights is not zero, which is not built");
    return STATUS_OK;
  }
  if (zeros->type != ST_I8 || zeros->count != scales->count)
    return quant_fail(module, "weight_zero_point", "is %s of %lld elements, not I8 of %lld, one a scale",
                      safetensors_type_name(zeros->type), (long long)zeros->count, (long long)scales->count);
  int16_t *values = quant_new(module, zeros->count, sizeof *values);
  for (int64_t i = 0; i < zeros->count; i++) values[i] = ((const int8_t *)zeros->data)[i];
  grouped->zeros = values;
  return STATUS_OK;
}

static Status check_type(const QuantModule *module, bool is_float) {
  const QuantConfig *config = module->config;
  for (int i = 0; i < config->scheme_count; i++)
    if (config->schemes[i].is_float == is_float) return STATUS_OK;
  return quant_fail(module, "weight", "holds %s, and config.json says %s", is_float ? "FP8" : "integers", is_float ? "integers" : "FP8");
}

Status quant_read_scaled(Matrix *out, const QuantModule *module, const SafetensorsTensor *weight) {
  bool is_compressed = module->config->method == QUANT_COMPRESSED, is_float = weight->type == ST_F8_E4M3;
  if (!is_float && !(is_compressed && weight->type == ST_I8))
    return quant_fail(module, "weight", "has the type %s; %s weights may be F8_E4M3%s", safetensors_type_name(weight->type),
                      module->config->name, is_compressed ? " or I8" : "");
  TRY(check_type(module, is_float));
  TRY(quant_need(&weight, module, "weight", weight->type, module->rows, module->columns));
  const char *part = quant_find(module, "weight_scale_inv") ? "weight_scale_inv" : "weight_scale";
  const SafetensorsTensor *scales = quant_find(module, part);
  if (!scales) return quant_fail(module, part, "is missing, without which %s weights mean nothing", module->config->name);
  Grouped grouped = {.bits = 8, .levels = is_float ? grouped_e4m3_levels : grouped_signed_levels};
  TRY(read_grid(&grouped, module, part, scales));
  TRY(quant_scale_type(&grouped.scale_type, module, part, scales));
  grouped.rounding = is_compressed ? grouped.scale_type : BLOCK_F32;
  TRY(read_zeros(&grouped, module, scales));
  grouped.codes = quant_in_place(module, weight);
  grouped.scales = quant_in_place(module, scales);
  return quant_finish(out, module, &grouped);
}
