// The values of recipes that have a form of their own: datasets, special tokens, target modules, sizes.
#include "recipes/schema.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/text.h"

// A list or one text, by the same rules as any key of that kind.
static StringList read_list(Loader *loader, const char *key, Node *value) {
  StringList list = {0};
  loader_read_value(loader, &(SchemaKey){.kind = VALUE_TEXTS}, key, value, &list);
  return list;
}

static bool is_mapping(Loader *loader, const char *key, const Node *value, const char *example) {
  if (value->kind == NODE_MAPPING) return true;
  loader_fail(loader, value, key, "must be a mapping: %s", example);
  return false;
}

// --- datasets ---

// Older spellings of the mappings go into them, unless they say something else.
static void add_mapping(Loader *loader, const Node *entry, DatasetRecipe *dataset, const char *property, char *field, const char *key) {
  StringPairs *pairs = &dataset->message_property_mappings;
  if (!field) return;
  for (int i = 0; i < pairs->count; i++) {
    if (strcmp(pairs->keys[i], property) != 0) continue;
    if (strcmp(pairs->values[i], field) != 0)
      loader_fail(loader, node_find(entry, key), key, "says %s, but message_property_mappings.%s says %s; keep the latter only", field,
                  property, pairs->values[i]);
    return;
  }
  char **keys = arena_new(loader->arena, (size_t)pairs->count + 1, sizeof *keys),
       **values = arena_new(loader->arena, (size_t)pairs->count + 1, sizeof *values);
  for (int i = 0; i < pairs->count; i++) keys[i] = pairs->keys[i], values[i] = pairs->values[i];
  keys[pairs->count] = arena_copy_string(loader->arena, property);
  values[pairs->count] = field;
  *pairs = (StringPairs){keys, values, pairs->count + 1};
}

static void read_dataset(Loader *loader, Node *entry, DatasetRecipe *dataset) {
  if (!is_mapping(loader, "", entry, "- path: rows.jsonl")) return;
  dataset->position = (RecipePosition){entry->line, entry->column};
  loader_read_mapping(loader, &schema_dataset, NULL, entry, dataset);
  dataset->has_roles_to_train = !node_is_null(node_find(entry, "roles_to_train"));
  add_mapping(loader, entry, dataset, "role", dataset->message_field_role, "message_field_role");
  add_mapping(loader, entry, dataset, "content", dataset->message_field_content, "message_field_content");
  if (!dataset->path && !dataset->data_files.count)
    loader_fail(loader, entry, "path", "is missing; name a file, a folder or a dataset of the Hub");
  const Node *chunks = node_find(entry, "preprocess_shards");
  if (dataset->shards && !node_is_off(chunks))
    loader_fail(loader, chunks, "preprocess_shards", "and shards exclude each other; remove this one, rows are read in one pass");
  if (dataset->shards_idx && dataset->shards_idx >= dataset->shards)
    loader_fail(loader, node_find(entry, "shards_idx"), "shards_idx", "must be less than shards (%lld)", (long long)dataset->shards);
  static char jinja[] = "jinja";
  if (dataset->chat_template_jinja && !dataset->chat_template) dataset->chat_template = jinja;
  if (dataset->chat_template && strcmp(dataset->chat_template, "jinja") == 0 && !dataset->chat_template_jinja &&
      !loader->recipe->chat_template_jinja)
    loader_fail(loader, node_find(entry, "chat_template"), "chat_template", "is jinja, but there is no template; set chat_template_jinja");
}

static void read_dataset_list(Loader *loader, const char *key, Node *value, DatasetRecipe **datasets, int *count) {
  if (value->kind != NODE_SEQUENCE) {
    loader_fail(loader, value, key, "must be a list of datasets; begin each with \"- path: ...\"");
    return;
  }
  *datasets = arena_new(loader->arena, (size_t)value->count + 1, sizeof **datasets);
  *count = value->count;
  for (int i = 0; i < value->count; i++) {
    loader->scope = arena_format(loader->arena, "%s.%d.", key, i);
    read_dataset(loader, value->items[i], &(*datasets)[i]);
    loader->scope = "";
  }
}

void read_datasets(Loader *loader, const char *key, Node *value, void *target) {
  Recipe *recipe = loader->recipe;
  bool training = target == &recipe->datasets;
  read_dataset_list(loader, key, value, target, training ? &recipe->dataset_count : &recipe->test_dataset_count);
}

// The entry of pretraining_dataset: a path alone, a mapping, or a list of one of these.
static Node *pretraining_entry(Loader *loader, Node *value) {
  Node *entry = value->kind == NODE_SEQUENCE ? value->items[0] : value;
  if (entry->kind != NODE_SCALAR) return entry;
  Node *mapping = node_new(loader->arena, NODE_MAPPING), *name = node_new(loader->arena, NODE_SCALAR);
  mapping->line = entry->line, mapping->column = entry->column;
  name->text = arena_copy_string(loader->arena, "path");
  node_append(loader->arena, mapping, name, entry);
  return mapping;
}

void read_pretraining(Loader *loader, const char *key, Node *value, void *target) {
  (void)target;
  DatasetRecipe *dataset = &loader->recipe->pretraining;
  if (value->kind == NODE_SEQUENCE && value->count != 1) {
    if (value->count) loader_fail(loader, value, key, "takes one entry only; join the files into one dataset");
    return;
  }
  Node *entry = pretraining_entry(loader, value), nothing = {.kind = NODE_MAPPING};
  loader->recipe->has_pretraining = true;
  loader->scope = value->kind == NODE_SEQUENCE ? "pretraining_dataset.0." : "pretraining_dataset.";
  loader_read_mapping(loader, &schema_dataset, NULL, &nothing, dataset);  // the defaults
  if (is_mapping(loader, "", entry, "- path: texts.jsonl"))
    loader_read_mapping(loader, &schema_pretraining, &schema_dataset, entry, dataset);
  dataset->position = (RecipePosition){entry->line, entry->column};
  if (!dataset->path && !dataset->data_files.count)
    loader_fail(loader, entry, "path", "is missing; name a file, a folder or a dataset of the Hub");
  loader->scope = "";
}

void read_pretraining_type(Loader *loader, const char *key, Node *value, void *target) {
  if (value->kind == NODE_SCALAR && strcmp(value->text, "pretrain") == 0) *(char **)target = arena_copy_string(loader->arena, "pretrain");
  else read_dataset_type(loader, key, value, target);
}

// The type without ":STYLE" or ".load", where those say what goes without saying: such a type is known as that one.
static const char *plain_type(Loader *loader, const char *type) {
  static const char *const styles[] = {"chat", "instruct", "chatml", "phi", NULL};
  const char *colon = strchr(type, ':');
  if (colon && word_is_in(styles, colon + 1)) {
    char *base = arena_copy_bytes(loader->arena, type, (size_t)(colon - type));
    return strchr(base, '.') || !word_is_in(styled_type_words, base) ? type : base;
  }
  if (text_ends_with(type, ".load") && strchr(type, '.') == strrchr(type, '.'))
    return arena_copy_bytes(loader->arena, type, strlen(type) - strlen(".load"));
  return type;
}

void read_dataset_type(Loader *loader, const char *key, Node *value, void *target) {
  DatasetRecipe *dataset = (DatasetRecipe *)((char *)target - offsetof(DatasetRecipe, type));
  if (value->kind == NODE_MAPPING) {
    const char *scope = loader->scope;
    loader->scope = arena_format(loader->arena, "%stype.", scope);
    dataset->type_is_mapping = true;
    // Fields that both tables have keep the entry's value where the type says nothing.
    DatasetRecipe type = {0};
    loader_read_mapping(loader, &schema_dataset_type, NULL, value, &type);
    if (type.no_input_format && strstr(type.no_input_format, "{input}"))
      loader_fail(loader, node_find(value, "no_input_format"), "no_input_format",
                  "is for rows without an input, and has {input}; take that out, or put it into format");
    for (int i = 0; i < schema_dataset_type.count; i++) {
      size_t offset = schema_dataset_type.keys[i].offset;
      char *field = *(char **)((char *)&type + offset);
      if (field) *(char **)((char *)dataset + offset) = field;
    }
    loader->scope = scope;
    return;
  }
  const char *type = value->kind == NODE_SCALAR ? value->text : "";
  if (text_starts_with(type, "sharegpt"))
    loader_fail(
        loader, value, key,
        "sharegpt is no more; use type: chat_template with field_messages: conversations and message_property_mappings: {role: from, "
        "content: value}");
  else if (text_starts_with(type, "bradley_terry"))
    loader_fail(loader, value, key, "%s is refused: reward models are not built; rl: dpo and its kin learn from pairs without one", type);
  else if (word_is_in(dataset_type_words, plain_type(loader, type))) *(char **)target = arena_copy_string(loader->arena, type);
  else loader_read_value(loader, &(SchemaKey){.kind = VALUE_WORD, .words = dataset_type_words}, key, value, target);
}

// {role: [names]}, {role: name}, or a list of {to: role, from: [names]}.
void read_roles(Loader *loader, const char *key, Node *value, void *target) {
  StringPairs *roles = target;
  if (value->kind == NODE_SCALAR) {
    loader_fail(loader, value, key, "must be a mapping: {assistant: [gpt, model]}");
    return;
  }
  *roles = (StringPairs){arena_new(loader->arena, (size_t)value->count + 1, sizeof(char *)),
                         arena_new(loader->arena, (size_t)value->count + 1, sizeof(char *)), 0};
  for (int i = 0; i < value->count; i++) {
    Node *item = value->items[i], *name = value->keys[i];
    if (value->kind == NODE_SEQUENCE) {
      name = node_find(item, "to");
      item = node_find(item, "from");
    }
    if (!name || name->kind != NODE_SCALAR || node_is_null(item)) {
      loader_fail(loader, value, key, "must be a mapping: {assistant: [gpt, model]}");
      return;
    }
    StringList sources = read_list(loader, key, item);
    Buffer joined = {0};
    for (int j = 0; j < sources.count; j++) buffer_format(&joined, "%s%s", j ? "," : "", sources.items[j]);
    roles->keys[roles->count] = arena_copy_string(loader->arena, name->text);
    roles->values[roles->count++] = arena_copy_string(loader->arena, joined.data ? joined.data : "");
    buffer_release(&joined);
  }
}

void read_chat_template(Loader *loader, const char *key, Node *value, void *target) {
  static const char fallback[] = "tokenizer_default_fallback_";
  if (value->kind == NODE_SCALAR && text_starts_with(value->text, fallback) &&
      word_is_in(chat_template_words, value->text + sizeof fallback - 1)) {
    *(char **)target = arena_copy_string(loader->arena, value->text);
    return;
  }
  loader_read_value(loader, &(SchemaKey){.kind = VALUE_WORD, .words = chat_template_words}, key, value, target);
}

// --- model and adapter ---

void read_special_tokens(Loader *loader, const char *key, Node *value, void *target) {
  static const char *const names[] = {"pad_token", "eos_token", "bos_token", "unk_token", "additional_special_tokens",
                                      "sep_token", "cls_token", "mask_token"};
  enum { NAMES = sizeof names / sizeof names[0] };
  (void)target;
  if (node_is_off(value) || !is_mapping(loader, key, value, "{pad_token: \"<|pad|>\"}")) return;
  StringPairs *tokens = &loader->recipe->special_tokens;
  *tokens = (StringPairs){arena_new(loader->arena, NAMES, sizeof(char *)), arena_new(loader->arena, NAMES, sizeof(char *)), 0};
  for (int i = 0; i < value->count; i++) {
    Node *name = value->keys[i], *item = value->items[i];
    const char *full = arena_format(loader->arena, "%s.%s", key, name->text), *nearest = nearest_name(name->text, names, NAMES);
    if (!nearest || strcmp(nearest, name->text) != 0) {
      loader_fail(loader, name, full, "unknown key; did you mean %s?", nearest ? nearest : "additional_special_tokens");
    } else if (node_is_null(item)) {
      continue;
    } else if (strcmp(name->text, "additional_special_tokens") == 0) {
      loader->recipe->additional_special_tokens = read_list(loader, full, item);
    } else {
      tokens->keys[tokens->count] = arena_copy_string(loader->arena, name->text);
      loader_read_value(loader, &(SchemaKey){.kind = VALUE_TEXT}, full, item, &tokens->values[tokens->count]);
      if (tokens->values[tokens->count]) tokens->count++;
    }
  }
}

void read_target_modules(Loader *loader, const char *key, Node *value, void *target) {
  (void)target;
  Recipe *recipe = loader->recipe;
  if (value->kind != NODE_SCALAR) recipe->lora_target_modules = read_list(loader, key, value);
  else if (strcmp(value->text, "all-linear") == 0) recipe->lora_target_linear = true;
  else recipe->lora_target_modules_regex = arena_copy_string(loader->arena, value->text);
}

void read_layers(Loader *loader, const char *key, Node *value, void *target) {
  (void)target;
  Recipe *recipe = loader->recipe;
  bool single = value->kind == NODE_SCALAR;
  int count = single ? 1 : value->count;
  recipe->peft_layers_to_transform = arena_new(loader->arena, (size_t)count + 1, sizeof *recipe->peft_layers_to_transform);
  recipe->peft_layers_to_transform_count = count;
  for (int i = 0; i < count; i++) {
    const SchemaKey layer = {.kind = VALUE_INTEGER, .max = 1e6};
    loader_read_value(loader, &layer, key, single ? value : value->items[i], &recipe->peft_layers_to_transform[i]);
  }
}

void read_quantiser(Loader *loader, const char *key, Node *value, void *target) {
  (void)target;
  if (node_is_off(value) || !is_mapping(loader, key, value, "{bnb_4bit_quant_type: nf4}")) return;
  const Node *type = node_find(value, "bnb_4bit_quant_type"), *twice = node_find(value, "bnb_4bit_use_double_quant");
  bool doubled = true;
  if (!node_is_null(type) && (type->kind != NODE_SCALAR || strcmp(type->text, "nf4") != 0))
    loader_fail(loader, type, "bnb_config_kwargs.bnb_4bit_quant_type", "4-bit weights are NF4 here; write nf4, or remove it");
  if (!node_is_null(twice) && node_boolean(twice, &doubled) && !doubled)
    loader_notice(loader, twice, "bnb_config_kwargs.bnb_4bit_use_double_quant", "changes nothing here: scales are always quantised too");
}

void read_peft(Loader *loader, const char *key, Node *value, void *target) {
  (void)target;
  if (node_is_off(value) || !is_mapping(loader, key, value, "{loftq_config: {loftq_bits: 4}}")) return;
  for (int i = 0; i < value->count; i++)
    if (strcmp(value->keys[i]->text, "loftq_config") != 0)
      loader_fail(loader, value->keys[i], arena_format(loader->arena, "%s.%s", key, value->keys[i]->text),
                  "unknown key; loftq_config is the only one");
  Node *config = node_find(value, "loftq_config");
  if (node_is_null(config) || !is_mapping(loader, "peft.loftq_config", config, "{loftq_bits: 4}")) return;
  Node *bits = node_find(config, "loftq_bits");
  const SchemaKey bits_key = {.kind = VALUE_INTEGER, .min = 2, .max = 8};
  loader->recipe->peft_loftq_bits = 4;
  if (!node_is_null(bits)) loader_read_value(loader, &bits_key, "peft.loftq_config.loftq_bits", bits, &loader->recipe->peft_loftq_bits);
}

void read_start(Loader *loader, const char *key, Node *value, void *target) {
  static const char *const words[] = {"true", "false", "gaussian", "pissa", "olora", "loftq", "eva", "corda", "orthogonal", NULL};
  static const char iterations[] = "pissa_niter_";
  const char *text = value->kind == NODE_SCALAR ? value->text : "";
  const char *count = text_starts_with(text, iterations) ? text + sizeof iterations - 1 : "";
  if (*count && strspn(count, "0123456789") == strlen(count)) *(char **)target = arena_copy_string(loader->arena, text);
  else loader_read_value(loader, &(SchemaKey){.kind = VALUE_WORD, .words = words}, key, value, target);
}

// One id, a list of ids, or {module: [ids]}.
void read_token_indices(Loader *loader, const char *key, Node *value, void *target) {
  StringList *indices = target;
  if (value->kind == NODE_MAPPING && value->count == 1 && strcmp(value->keys[0]->text, "embed_tokens") == 0) value = value->items[0];
  if (value->kind == NODE_MAPPING) {
    Buffer json = {0};
    node_write_json(&json, value);
    *indices = (StringList){arena_new(loader->arena, 1, sizeof *indices->items), 1};
    indices->items[0] = arena_copy_string(loader->arena, json.data);
    buffer_release(&json);
    return;
  }
  *indices = read_list(loader, key, value);
  for (int i = 0; i < indices->count; i++) {
    int64_t id;
    if (!node_integer(&(Node){.kind = NODE_SCALAR, .text = indices->items[i]}, &id) || id < 0)
      loader_fail(loader, value, key, "must be ids of tokens (whole numbers), not \"%s\"", indices->items[i]);
  }
}

// {id: text}
void read_token_texts(Loader *loader, const char *key, Node *value, void *target) {
  loader_read_value(loader, &(SchemaKey){.kind = VALUE_PAIRS}, key, value, target);
  for (int i = 0; value->kind == NODE_MAPPING && i < value->count; i++) {
    int64_t id;
    if (node_integer(value->keys[i], &id) && id >= 0) continue;
    loader_fail(loader, value->keys[i], arena_format(loader->arena, "%s.%s", key, value->keys[i]->text),
                "must be the number of a token: {128003: \"<|tool|>\"}");
  }
}

// {name: number}
void read_numbers_by_name(Loader *loader, const char *key, Node *value, void *target) {
  loader_read_value(loader, &(SchemaKey){.kind = VALUE_PAIRS}, key, value, target);
  for (int i = 0; value->kind == NODE_MAPPING && i < value->count; i++) {
    double number;
    if (node_is_null(value->items[i]) || (node_number(value->items[i], &number) && number > 0)) continue;
    loader_fail(loader, value->items[i], arena_format(loader->arena, "%s.%s", key, value->keys[i]->text), "must be a number above 0");
  }
}

// true or false; auto leaves it to the machine, and nothing depends on it here.
void read_switch(Loader *loader, const char *key, Node *value, void *target) {
  if (value->kind == NODE_SCALAR && strcmp(value->text, "auto") == 0) return;
  loader_read_value(loader, &(SchemaKey){.kind = VALUE_BOOLEAN}, key, value, target);
}

void read_lr_groups(Loader *loader, const char *key, Node *value, void *target) {
  (void)target;
  if (value->kind != NODE_SEQUENCE) {
    loader_fail(loader, value, key, "must be a list of {name: ..., modules: [...], lr: ...}");
    return;
  }
  StringList *groups = &loader->recipe->lr_groups;
  *groups = (StringList){arena_new(loader->arena, (size_t)value->count + 1, sizeof *groups->items), 0};
  for (int i = 0; i < value->count; i++) {
    double rate;
    if (!node_find(value->items[i], "modules") || !node_number(node_find(value->items[i], "lr"), &rate)) {
      loader_fail(loader, value->items[i], key, "each group is {name: ..., modules: [...], lr: a number}");
      continue;
    }
    Buffer json = {0};
    node_write_json(&json, value->items[i]);
    groups->items[groups->count++] = arena_copy_string(loader->arena, json.data);
    buffer_release(&json);
  }
}

// {name: value}, or the text "name=value, name=value".
void read_arguments(Loader *loader, const char *key, Node *value, void *target) {
  Node *mapping = value;
  if (value->kind == NODE_SCALAR) {
    mapping = node_new(loader->arena, NODE_MAPPING);
    char *save = NULL, *text = arena_copy_string(loader->arena, value->text);
    for (char *part = strtok_r(text, ", ", &save); part; part = strtok_r(NULL, ", ", &save)) {
      char *sign = strchr(part, '=');
      if (!sign || sign == part) {
        loader_fail(loader, value, key, "must be a mapping (name: value), or text of the form name=value, not \"%s\"", part);
        return;
      }
      Node *name = node_new(loader->arena, NODE_SCALAR), *item = node_new(loader->arena, NODE_SCALAR);
      name->text = arena_copy_bytes(loader->arena, part, (size_t)(sign - part));
      item->text = arena_copy_string(loader->arena, sign + 1);
      node_append(loader->arena, mapping, name, item);
    }
  }
  loader_read_value(loader, &(SchemaKey){.kind = VALUE_PAIRS}, key, mapping, target);
}

void read_rl(Loader *loader, const char *key, Node *value, void *target) {
  static const char *const methods[] = {"dpo", "ipo", "simpo", "orpo", "kto", NULL};
  static const char *const online[] = {"grpo", "gdpo", "ebft", NULL};
  if (value->kind == NODE_SCALAR && word_is_in(online, value->text))
    loader_fail(loader, value, key, "%s is refused: training on the model's own samples is not built; use dpo, ipo, simpo, orpo or kto",
                value->text);
  else loader_read_value(loader, &(SchemaKey){.kind = VALUE_WORD, .words = methods}, key, value, target);
}

void read_losses(Loader *loader, const char *key, Node *value, void *target) {
  const StringList *losses = target;
  *(StringList *)target = read_list(loader, key, value);
  for (int i = 0; i < losses->count; i++) {
    Node *at = value->kind == NODE_SEQUENCE && losses->count == value->count ? value->items[i] : value;
    Node loss = {.kind = NODE_SCALAR, .line = at->line, .column = at->column, .text = losses->items[i]};
    char *known;
    loader_read_value(loader, &(SchemaKey){.kind = VALUE_WORD, .words = dpo_loss_words}, key, &loss, &known);
  }
}

// --- machine and files ---

void read_max_memory(Loader *loader, const char *key, Node *value, void *target) {
  static const struct {
    const char *suffix;
    double bytes;
  } units[] = {{"", 1},         {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
               {"TiB", 0x1p40}, {"KB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};
  (void)target;
  if (value->kind == NODE_MAPPING) {
    // Axolotl's form, a size for each device: that of ours counts.
    const Node *device = node_find(loader->root, "device");
    const char *name = device && device->kind == NODE_SCALAR ? device->text : "cpu";
    const char *number = text_starts_with(name, "cuda:") ? name + strlen("cuda:") : text_starts_with(name, "cuda") ? "0" : "cpu";
    value = node_find(value, number);
    if (node_is_null(value)) return;
  }
  if (value->kind == NODE_SCALAR) {
    size_t digits = strspn(value->text, "0123456789._e+");
    Node number = {.kind = NODE_SCALAR, .text = arena_copy_bytes(loader->arena, value->text, digits)};
    const char *suffix = value->text + digits + strspn(value->text + digits, " ");
    double amount;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
      if (strcasecmp(suffix, units[i].suffix) != 0 || !node_number(&number, &amount)) continue;
      double bytes = amount * units[i].bytes;
      if (bytes < 1 || bytes > 0x1p60) break;
      loader->recipe->max_memory = (int64_t)bytes;
      return;
    }
  }
  loader_fail(loader, value, key, "must be one size, in bytes or as 6GiB");
}

void read_device(Loader *loader, const char *key, Node *value, void *target) {
  (void)target;
  const char *device = value->kind == NODE_SCALAR ? value->text : "";
  const char *number = text_starts_with(device, "cuda:") ? strchr(device, ':') + 1 : NULL;
  bool numbered = number && *number && strspn(number, "0123456789") == strlen(number) && strlen(number) <= 4;
  if (numbered || strcmp(device, "cpu") == 0 || strcmp(device, "cuda") == 0)
    loader->recipe->device = arena_copy_string(loader->arena, device);
  else loader_fail(loader, value, key, "must be cpu, cuda or cuda:N, not \"%s\"", device);
}

void read_export(Loader *loader, const char *key, Node *value, void *target) {
  (void)target;
  if (node_is_off(value) || !is_mapping(loader, key, value, "{gguf: [q4_k_m], merge: true}")) return;
  for (int i = 0; i < value->count; i++) {
    Node *name = value->keys[i], *item = value->items[i];
    const char *full = arena_format(loader->arena, "%s.%s", key, name->text);
    if (node_is_null(item)) continue;
    if (strcmp(name->text, "gguf") == 0) loader->recipe->export_gguf = read_list(loader, full, item);
    else if (strcmp(name->text, "merge") == 0)
      loader_read_value(loader, &(SchemaKey){.kind = VALUE_BOOLEAN}, full, item, &loader->recipe->export_merge);
    else loader_fail(loader, name, full, "unknown key; export has gguf and merge");
  }
}
