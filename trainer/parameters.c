// Which weight decay and learning rate each trained tensor gets; the header has the rules.
#include "trainer/parameters.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"

// What follows the module's path. A module that is saved is a copy of its own beside the base's.
static const char *name_end(TensorRole role, bool is_full) {
  switch (role) {
    case TENSOR_LORA_A: return "lora_A.default.weight";
    case TENSOR_LORA_B: return "lora_B.default.weight";
    case TENSOR_MAGNITUDE: return "lora_magnitude_vector.default.weight";
    case TENSOR_EMBEDDING_A: return "lora_embedding_A.default";
    case TENSOR_EMBEDDING_B: return "lora_embedding_B.default";
    case TENSOR_TOKENS: return "token_adapter.trainable_tokens_delta.default";
    case TENSOR_BIAS: return is_full ? "bias" : "modules_to_save.default.bias";
    case TENSOR_WEIGHT:
    case TENSOR_NORM:
    case TENSOR_EMBEDDING: return is_full ? "weight" : "modules_to_save.default.weight";
  }
  return "";
}

char *parameter_name(const AdapterTensor *tensor, bool is_full) {
  return memory_format("%s%s.%s", is_full ? "" : "base_model.model.", tensor->module, name_end(tensor->role, is_full));
}

static bool is_undecayed(const AdapterTensor *tensor) { return tensor->role == TENSOR_NORM || tensor->role == TENSOR_BIAS; }

static bool is_embedding(const char *name) { return strstr(name, "embed_tokens") || strstr(name, "lm_head"); }

// The rate of the first of lr_groups that has the tensor; < 0: none.
static double group_rate(const Recipe *recipe, const char *name) {
  double rate = -1;
  for (int i = 0; i < recipe->lr_groups.count && rate < 0; i++) {
    json_t *group = json_loads(recipe->lr_groups.items[i], 0, NULL), *modules = json_object_get(group, "modules"), *module;
    size_t index;
    bool has_it = json_is_string(modules) && strstr(name, json_string_value(modules));
    json_array_foreach(modules, index, module) has_it |= json_is_string(module) && strstr(name, json_string_value(module));
    if (has_it) rate = json_number_value(json_object_get(group, "lr"));
    json_decref(group);
  }
  return rate;
}

// As PEFT's create_loraplus_optimizer: the embedding's own adapter goes by its own rate; B and whatever has one dimension are fast.
static double loraplus_rate(const Recipe *recipe, TensorRole role) {
  if (role == TENSOR_EMBEDDING_A || role == TENSOR_EMBEDDING_B) return recipe->loraplus_lr_embedding;
  bool is_fast = role == TENSOR_LORA_B || role == TENSOR_MAGNITUDE || role == TENSOR_NORM || role == TENSOR_BIAS;
  return is_fast ? recipe->learning_rate * recipe->loraplus_lr_ratio : recipe->learning_rate;
}

static double embedding_rate(const Recipe *recipe) {
  if (recipe->embedding_lr_scale > 0) return recipe->learning_rate * recipe->embedding_lr_scale;
  return recipe->embedding_lr > 0 ? recipe->embedding_lr : recipe->learning_rate;
}

ParameterTensor *parameter_tensors(const Adapter *adapter, const Recipe *recipe) {
  ParameterTensor *tensors = memory_new((size_t)adapter->tensor_count + 1, sizeof *tensors);
  bool is_plus = recipe->loraplus_lr_ratio > 0, is_muon = recipe->optimizer && strcmp(recipe->optimizer, "muon") == 0;
  bool is_grouped = recipe->embedding_lr_scale > 0 || recipe->embedding_lr > 0 || recipe->lr_groups.count > 0;
  for (int i = 0; i < adapter->tensor_count; i++) {
    const AdapterTensor *tensor = &adapter->tensors[i];
    char *name = parameter_name(tensor, adapter->is_full);
    bool has_embedding_rules = is_embedding(name) && !is_plus && (is_grouped || is_muon);
    double rate = recipe->learning_rate, decay = is_undecayed(tensor) ? 0 : recipe->weight_decay;
    if (is_plus) rate = loraplus_rate(recipe, tensor->role);
    else if (has_embedding_rules) rate = embedding_rate(recipe), decay = 0;
    else if (is_grouped && !is_undecayed(tensor) && group_rate(recipe, name) >= 0) rate = group_rate(recipe, name);
    tensors[i] = (ParameterTensor){.rows = tensor->parameter->rows,
                                   .columns = tensor->parameter->columns,
                                   .weight_decay = decay,
                                   .rate_multiplier = recipe->learning_rate > 0 ? rate / recipe->learning_rate : 1,
                                   .by_element = is_embedding(name)};
    free(name);
  }
  return tensors;
}
