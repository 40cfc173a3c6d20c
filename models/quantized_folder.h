// Quantised Hugging Face folders as frozen bases: from config.json's quantization_config and the tensors of a module to its
// Matrix. Read are
//   bitsandbytes       NF4 and FP4 with plain or nested statistics, LLM.int8 by rows
//   gptq               2, 3, 4 and 8 bits, groups or rows, desc_act, both versions of zeros
//   awq                4 bits in the GEMM version's order
//   fp8, fbgemm_fp8    E4M3 with a scale for the tensor, each row or each block
//   compressed-tensors pack-quantized, int-quantized, float-quantized and naive-quantized
// What a module holds is told by its tensors, and config.json must say the same. Values are those of each format's
// reference, bit for bit; the file that reads a format names it.
#ifndef MODELS_QUANTIZED_FOLDER_H
#define MODELS_QUANTIZED_FOLDER_H

#include "models/model.h"

// Reads the settings into model->quantized, which stays NULL where the folder is not quantised.
Status quantized_folder_open(Model *model);
// *is_quantized: the module has such weights, and *out is their matrix; else it has plain floats, or nothing.
Status quantized_folder_matrix(Matrix *out, bool *is_quantized, Model *model, const char *module, int64_t rows, int64_t columns);
void quantized_folder_close(Model *model);
// The matrix that was read of a module with such weights; NULL: none was. Names may lack "model." at their beginning.
const Matrix *quantized_folder_find(const Model *model, const char *module);
// Bytes of the module's name in that of the tensor with its codes or floats ("q_proj.qweight"); -1: it is another tensor.
int64_t quantized_folder_module(const Model *model, const char *name);
// `name` is a part of a quantised weight beside a module's own ("q_proj.scales"), which a merged folder does not have.
bool quantized_folder_is_part(const Model *model, const char *name);

#endif
