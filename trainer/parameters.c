// Which weight decay and learning rate each trained tensor gets; the header has the rules.
#include "trainer/parameters.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"

char *parameter_name(const AdapterTensor *tensor) {
  switch (tensor->role) {
    case TENSOR_LORA_A: return memory_format("base_model.model.%s.lora_A.default.weight", tensor->module);
    case TENSOR_LORA_B: return memory_format("base_model.model.%s.lora_B.default.weight", tensor->module);
    default: return memory_format("base_model.model.%s.weight", tensor->module);
  }
}

static bool is_vector(const AdapterTensor *tensor) { return tensor->parameter->rows == 1 || tensor->parameter->columns == 1; }

// Norms and biases, by the names that transformers goes by; of what has another role than an adapter's factors every vector is held to be one.
static bool is_undecayed(const AdapterTensor *tensor, const char *name) {
  if (tensor->role == TENSOR_LORA_A || tensor->role == TENSOR_LORA_B) return false;
  return is_vector(tensor) || strstr(name, "bias") || strstr(name, "norm.") || strstr(name, "layernorm");
}

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

// As PEFT's create_loraplus_optimizer: the embedding's own adapter goes by its own rate, what remains by the role.
static double loraplus_rate(const Recipe *recipe, const AdapterTensor *tensor, const char *name) {
  bool is_adapted = tensor->role == TENSOR_LORA_A || tensor->role == TENSOR_LORA_B;
  if (is_adapted && strstr(name, "embed_tokens")) return recipe->loraplus_lr_embedding;
  bool is_fast = tensor->role == TENSOR_LORA_B || (!is_adapted && is_vector(tensor));
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
    char *name = parameter_name(tensor);
    bool has_embedding_rules = is_embedding(name) && !is_plus && (is_grouped || is_muon);
    double rate = recipe->learning_rate, decay = is_undecayed(tensor, name) ? 0 : recipe->weight_decay;
    if (is_plus) rate = loraplus_rate(recipe, tensor, name);
    else if (has_embedding_rules) rate = embedding_rate(recipe), decay = 0;
    else if (is_grouped && !is_undecayed(tensor, name) && group_rate(recipe, name) >= 0) rate = group_rate(recipe, name);
    tensors[i] = (ParameterTensor){.rows = tensor->parameter->rows,
                                   .columns = tensor->parameter->columns,
                                   .weight_decay = decay,
                                   .rate_multiplier = recipe->learning_rate > 0 ? rate / recipe->learning_rate : 1,
                                   .by_element = is_embedding(name)};
    free(name);
  }
  return tensors;
}
