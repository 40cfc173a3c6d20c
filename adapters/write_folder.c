// A merged model as a Hugging Face folder: config.json, model.safetensors, generation_config.json and the tokenizer's files. It is
// built beside its place and renamed when it is whole.
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/carried.h"
#include "adapters/config_json.h"
#include "adapters/merge.h"
#include "adapters/parts.h"
#include "core/log.h"
#include "core/text.h"
#include "data/tokenizer/export.h"
#include "data/tokenizer/tokenizer.h"
#include "models/quantized_folder.h"

// What a folder of the base may have beside weights and config.json, and what an earlier output may hold.
static const char *const side_files[] = {"generation_config.json",
                                         "tokenizer.json",
                                         "tokenizer_config.json",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "vocab.json",
                                         "merges.txt",
                                         "tokenizer.model",
                                         "chat_template.jinja",
                                         "chat_template.json"};
enum { SIDE_FILES = sizeof side_files / sizeof *side_files };

typedef struct Piece {
  const char *name;
  SafetensorsType type;
  const Linear *linear;  // a matrix; else
  const float *vector;  // [shape[0]] float32; else
  const SafetensorsTensor *tensor;  // the base's own
  int dimensions;
  int64_t shape[SAFETENSORS_MAX_DIMENSIONS];
} Piece;

typedef struct Pieces {
  const Model *model;
  bool same;  // each in the base's own type (a folder base)
  BlockType type;  // else; and what config.json says
  const char *chat_template, *tokenizer;  // NULL: the base's
  Piece *items;
  int64_t count, capacity;
  Arena arena;
} Pieces;

static SafetensorsType safetensors_type(BlockType type) { return type == BLOCK_F32 ? ST_F32 : type == BLOCK_BF16 ? ST_BF16 : ST_F16; }
static BlockType block_type(SafetensorsType type) { return type == ST_F32 ? BLOCK_F32 : type == ST_BF16 ? BLOCK_BF16 : BLOCK_F16; }

// ---- From a GGUF base ----

static void add_matrix(Pieces *pieces, const char *name, const Linear *linear) {
  ARRAY_PUSH(pieces->items, pieces->count, pieces->capacity) = (Piece){.name = name,
                                                                       .type = safetensors_type(pieces->type),
                                                                       .linear = linear,
                                                                       .dimensions = 2,
                                                                       .shape = {linear->weight.rows, linear->weight.columns}};
}

static void add_vector(Pieces *pieces, const char *name, const float *values, int64_t length) {
  ARRAY_PUSH(pieces->items, pieces->count, pieces->capacity) =
      (Piece){.name = name, .type = safetensors_type(pieces->type), .vector = values, .dimensions = 1, .shape = {length}};
}

// Values of a norm or a bias, where the host reads them.
static const float *host_values(Pieces *pieces, const float *values, int64_t count) {
  Backend *backend = pieces->model->backend;
  if (!backend->upload_matrix) return values;
  float *copy = arena_new(&pieces->arena, (size_t)count, sizeof *copy);
  backend->download(copy, values, count * (int64_t)sizeof *copy, backend);
  return copy;
}

static void add_bias(Pieces *pieces, const Linear *linear) {
  int64_t rows = linear->weight.rows;
  const float *bias = host_values(pieces, linear->bias, rows);
  float *values = arena_new(&pieces->arena, (size_t)rows, sizeof *values);
  for (int64_t row = 0; row < rows; row++) values[linear_file_row(row, linear, pieces->model, false)] = bias[row];
  add_vector(pieces, arena_format(&pieces->arena, "%s.bias", linear->name), values, rows);
}

// The values that the folder had from which the file was made, or NULL.
static const float *exact_values(Pieces *pieces, const char *tensor, const float *weight, int64_t columns, float offset) {
  char key[128];
  snprintf(key, sizeof key, MERGE_EXACT_KEY "%s", tensor);
  const GgufValue *value = gguf_find(&pieces->model->gguf, key);
  if (!value || value->type != GGUF_ARRAY || value->element != GGUF_FLOAT32 || value->count != (uint64_t)columns) return NULL;
  float *values = arena_new(&pieces->arena, (size_t)columns, sizeof *values);
  memcpy(values, value->data, (size_t)columns * sizeof *values);
  for (int64_t i = 0; i < columns; i++)
    if (values[i] + offset != weight[i]) return NULL;  // of other weights
  return values;
}

static void add_norm(Pieces *pieces, const char *module, const char *tensor, const NormSettings *norm) {
  float offset = pieces->model->family->norm_offset;
  const float *weight = host_values(pieces, norm->weight, norm->columns), *values = weight;
  if (offset != 0 && !(values = exact_values(pieces, tensor, weight, norm->columns, offset))) {
    float *differences = arena_new(&pieces->arena, (size_t)norm->columns, sizeof *differences);
    for (int64_t i = 0; i < norm->columns; i++) differences[i] = weight[i] - offset;
    values = differences;
  }
  add_vector(pieces, arena_format(&pieces->arena, "%s.weight", module), values, norm->columns);
  if (norm->bias)
    add_vector(pieces, arena_format(&pieces->arena, "%s.bias", module), host_values(pieces, norm->bias, norm->columns), norm->columns);
}

static void add_expert_matrix(Pieces *pieces, const char *name, const Matrix *weight) {
  Linear *linear = arena_new(&pieces->arena, 1, sizeof *linear);
  *linear = (Linear){.weight = *weight, .name = name};
  add_matrix(pieces, arena_format(&pieces->arena, "%s.weight", name), linear);
}

static void add_experts(Pieces *pieces, int layer) {
  const ExpertNames *names = &pieces->model->family->experts;
  const ExpertLayer *experts = &pieces->model->layers[layer].experts;
  const char *prefix = arena_format(&pieces->arena, "model.layers.%d.", layer);
  add_expert_matrix(pieces, arena_format(&pieces->arena, "%s%s", prefix, names->router), &experts->router);
  if (experts->settings.bias) {  // chooses between experts: float32 in any case
    add_vector(pieces, arena_format(&pieces->arena, "%s%s", prefix, names->bias), experts->settings.bias, experts->settings.experts);
    pieces->items[pieces->count - 1].type = ST_F32;
  }
  for (int e = 0; e < experts->matrices.experts; e++)
    for (int kind = 0; kind < EXPERT_KINDS; kind++)
      add_expert_matrix(pieces, arena_format(&pieces->arena, "%s%s", prefix, family_expert_name(&pieces->arena, names->matrices[kind], e)),
                        &expert_matrices(&experts->matrices, kind)[e]);
}

static void add_layer(Pieces *pieces, int index) {
  const Model *model = pieces->model;
  const Family *family = model->family;
  const Layer *layer = &model->layers[index];
  for (int i = 0; i < family_norm_count(family); i++) {
    const NormName *norm = &family->norms[i];
    if (config_has(&model->config, norm->presence, index))
      add_norm(pieces, arena_format(&pieces->arena, "model.layers.%d.%s", index, norm->name),
               arena_format(&pieces->arena, "blk.%d.%s.weight", index, norm->gguf), layer_norm(layer, norm));
  }
  for (int i = 0; i < family_linear_count(family); i++) {
    if (!config_has(&model->config, family->linears[i].presence, index)) continue;
    const Linear *linear = layer_linear(layer, &family->linears[i]);
    add_matrix(pieces, arena_format(&pieces->arena, "%s.weight", linear->name), linear);
    if (linear->bias) add_bias(pieces, linear);
  }
  if (layer->kind->is_sparse) add_experts(pieces, index);
}

static void pieces_from_gguf(Pieces *pieces) {
  const Model *model = pieces->model;
  add_matrix(pieces, "model.embed_tokens.weight", &model->embedding);
  for (int layer = 0; layer < model->config.layers; layer++) add_layer(pieces, layer);
  add_norm(pieces, "model.norm", "output_norm.weight", &model->final_norm);
  if (!model->config.tied_embeddings || merge_unties(model)) add_matrix(pieces, "lm_head.weight", &model->head);
}

// float16 holds what the quantised blocks do better than bfloat16: their scales are float16 themselves.
static BlockType float_type(const Model *model) {
  if (model->quantized) return model->quantized_float_type;
  bool all_f32 = true, all_bf16 = true;
  for (int i = 0; i < model->linear_count; i++) {
    all_f32 &= linear_base(model->linears[i])->type == BLOCK_F32;
    all_bf16 &= linear_base(model->linears[i])->type == BLOCK_BF16;
  }
  return all_f32 ? BLOCK_F32 : all_bf16 ? BLOCK_BF16 : BLOCK_F16;
}

// ---- From a folder ----

// What the model made of the folder's tensors, by their names.
typedef struct Own {
  const Linear *linear;  // a matrix; or
  const float *vector;
} Own;
typedef struct OwnNames {
  Map map;  // of items
  Own *items;
  int64_t count, capacity;
} OwnNames;

static bool is_float(SafetensorsType type) { return type == ST_F32 || type == ST_F16 || type == ST_BF16; }

static bool is_quantized(const Model *model, const SafetensorsTensor *tensor) {
  return quantized_folder_module(model, tensor->name) >= 0 && !is_float(tensor->type);
}

// Codes become floats under the name that floats have. Those of modules that the model does not use are left out.
static void add_quantized(Pieces *pieces, const OwnNames *names, const SafetensorsTensor *tensor) {
  const Model *model = pieces->model;
  int64_t index;
  const char *module = arena_copy_bytes(&pieces->arena, tensor->name, (size_t)quantized_folder_module(model, tensor->name));
  const char *name = arena_format(&pieces->arena, "%s.weight", module);
  const Matrix *weight = quantized_folder_find(model, module);
  if (!weight) return;
  Linear *linear = arena_new(&pieces->arena, 1, sizeof *linear);
  *linear = (Linear){.weight = *weight, .name = module};
  if (map_get_string(&names->map, name, &index) && names->items[index].linear) linear = (Linear *)(uintptr_t)names->items[index].linear;
  BlockType type = pieces->same ? merge_base_type(model, weight) : pieces->type;
  ARRAY_PUSH(pieces->items, pieces->count, pieces->capacity) =
      (Piece){.name = name, .type = safetensors_type(type), .linear = linear, .dimensions = 2, .shape = {weight->rows, weight->columns}};
}

static void name_own(OwnNames *names, Pieces *pieces, const char *module, const char *what, Own own) {
  map_set_string(&names->map, arena_format(&pieces->arena, "%s.%s", module, what), names->count);
  ARRAY_PUSH(names->items, names->count, names->capacity) = own;
}

static void name_norm(OwnNames *names, Pieces *pieces, const char *module, const NormSettings *norm) {
  name_own(names, pieces, module, "weight", (Own){.vector = norm->weight});
  if (norm->bias) name_own(names, pieces, module, "bias", (Own){.vector = norm->bias});
}

static void collect_own(OwnNames *names, Pieces *pieces) {
  const Model *model = pieces->model;
  for (int i = 0; i < model->linear_count; i++) {
    const Linear *linear = model->linears[i];
    name_own(names, pieces, linear->name, "weight", (Own){.linear = linear});
    if (linear->bias) name_own(names, pieces, linear->name, "bias", (Own){.vector = linear->bias});
  }
  for (int layer = 0; layer < model->config.layers; layer++)
    for (int i = 0; i < family_norm_count(model->family); i++) {
      const NormName *norm = &model->family->norms[i];
      if (config_has(&model->config, norm->presence, layer))
        name_norm(names, pieces, arena_format(&pieces->arena, "model.layers.%d.%s", layer, norm->name),
                  layer_norm(&model->layers[layer], norm));
    }
  name_norm(names, pieces, "model.norm", &model->final_norm);
  // (Those that are not changed may be in a form of their own, or under the other's name.)
  bool is_larger = model->file_vocabulary > 0;
  if (linear_is_changed(&model->embedding) || is_larger)
    name_own(names, pieces, model->embedding.name, "weight", (Own){.linear = &model->embedding});
  if (linear_is_changed(&model->head) || is_larger) name_own(names, pieces, model->head.name, "weight", (Own){.linear = &model->head});
}

static void add_own(Pieces *pieces, const SafetensorsTensor *tensor, const OwnNames *names, const char *name) {
  Piece *piece = &ARRAY_PUSH(pieces->items, pieces->count, pieces->capacity);
  *piece = (Piece){.name = tensor->name, .type = tensor->type, .tensor = tensor, .dimensions = tensor->dimensions};
  memcpy(piece->shape, tensor->shape, sizeof piece->shape);
  if (!pieces->same && is_float(tensor->type)) piece->type = safetensors_type(pieces->type);
  int64_t index;
  if (!map_get_string(&names->map, name, &index)) return;
  piece->linear = names->items[index].linear;
  if (piece->linear) piece->shape[0] = piece->linear->weight.rows;  // of a vocabulary that has grown, more than in the file
  if (names->items[index].vector) piece->vector = host_values(pieces, names->items[index].vector, tensor->count);
}

static void pieces_from_folder(Pieces *pieces) {
  const Model *model = pieces->model;
  const char *embedding = "model.embed_tokens.weight", *head = "lm_head.weight";
  OwnNames names = {0};
  collect_own(&names, pieces);
  const SafetensorsTensor *shared = NULL;  // the matrix of a tied model, whatever its name
  for (int64_t i = 0; i < model->safetensors.tensor_count; i++) {
    const SafetensorsTensor *tensor = &model->safetensors.tensors[i];
    if (quantized_folder_is_part(model, tensor->name)) continue;
    if (is_quantized(model, tensor)) {
      add_quantized(pieces, &names, tensor);
      continue;
    }
    // A decoder that was saved without its head has no "model." before its names.
    bool is_head = strcmp(tensor->name, head) == 0, is_plain = is_head || text_starts_with(tensor->name, "model.");
    const char *name = is_plain ? tensor->name : arena_format(&pieces->arena, "model.%s", tensor->name);
    bool is_tied = model->config.tied_embeddings && (is_head || strcmp(name, embedding) == 0);
    if (is_tied && merge_unties(model)) shared = tensor;  // both are written below
    else add_own(pieces, tensor, &names, is_tied ? embedding : name);
  }
  if (shared) {
    add_own(pieces, shared, &names, embedding);
    pieces->items[pieces->count - 1].name = embedding;
    if (!pieces->items[pieces->count - 1].linear) pieces->items[pieces->count - 1].linear = &model->embedding;
    add_own(pieces, shared, &names, head);
    pieces->items[pieces->count - 1].name = head;
    if (!pieces->items[pieces->count - 1].linear) pieces->items[pieces->count - 1].linear = &model->head;
  }
  map_release(&names.map);
  free(names.items);
}

// ---- Writing ----

static Status write_floats(SafetensorsWriter *writer, const Model *model, const Piece *piece, const float *values, int64_t count) {
  const BlockTraits *traits = block_traits(block_type(piece->type));
  void *block;
  TRY(memory_try(&block, (size_t)count * (size_t)traits->bytes, piece->name));
  // A vector is a matrix of one row.
  Linear row = {.weight = matrix_f32(values, 1, count), .name = piece->name};
  Status status = merge_matrix(block, traits->type, NULL, &row, model, false);
  if (status == STATUS_OK) safetensors_write(writer, block, (size_t)count * (size_t)traits->bytes);
  free(block);
  return status;
}

static Status write_matrix(SafetensorsWriter *writer, const Model *model, const Piece *piece) {
  BlockType type = block_type(piece->type);
  size_t bytes = (size_t)(piece->linear->weight.rows * block_row_bytes(type, piece->linear->weight.columns));
  void *block;
  TRY(memory_try(&block, bytes, piece->name));
  Status status = merge_matrix(block, type, NULL, piece->linear, model, false);
  if (status == STATUS_OK) safetensors_write(writer, block, bytes);
  free(block);
  return status;
}

static Status write_piece(SafetensorsWriter *writer, const Model *model, const Piece *piece) {
  if (piece->linear) return write_matrix(writer, model, piece);
  if (piece->vector) return write_floats(writer, model, piece, piece->vector, piece->shape[0]);
  const SafetensorsTensor *tensor = piece->tensor;
  if (tensor->type == piece->type) {
    safetensors_write(writer, tensor->data, tensor->bytes);
    return STATUS_OK;
  }
  void *values;
  TRY(memory_try(&values, (size_t)tensor->count * sizeof(float), piece->name));
  safetensors_to_float(values, tensor, 0, tensor->count);
  Status status = write_floats(writer, model, piece, values, tensor->count);
  free(values);
  return status;
}

static void put_metadata(SafetensorsWriter *writer, const Model *model) {
  if (model->is_gguf) {
    safetensors_put_metadata(writer, "format", "pt");
    carried_to_metadata(writer, &model->gguf, model->family->gguf);
    return;
  }
  const Safetensors *base = &model->safetensors;
  bool has_format = false;
  for (int64_t i = 0; i < base->metadata_count; i++) {
    safetensors_put_metadata(writer, base->metadata_keys[i], base->metadata_values[i]);
    has_format |= strcmp(base->metadata_keys[i], "format") == 0;
  }
  if (!has_format) safetensors_put_metadata(writer, "format", "pt");
}

static Status write_tensors(MergeReport *report, const Pieces *pieces, const char *folder) {
  SafetensorsWriter writer;
  safetensors_writer_new(&writer);
  put_metadata(&writer, pieces->model);
  for (int64_t i = 0; i < pieces->count; i++)
    safetensors_declare(&writer, pieces->items[i].name, pieces->items[i].type, pieces->items[i].dimensions, pieces->items[i].shape);
  char *path = path_join(folder, "model.safetensors");
  Status status = STATUS_OK;
  TRY_DONE(safetensors_writer_open(&writer, path));
  for (int64_t i = 0; i < pieces->count; i++) {
    progress_show(i, pieces->count, "%s", pieces->items[i].name);
    TRY_DONE(write_piece(&writer, pieces->model, &pieces->items[i]));
    report->adapted += pieces->items[i].linear && linear_is_changed(pieces->items[i].linear);
  }
  report->bytes = (int64_t)writer.written;
  status = safetensors_writer_commit(&writer);
done:
  progress_clear();
  safetensors_writer_abandon(&writer);
  free(path);
  return status;
}

static Status copy_side_files(const char *folder, const char *base) {
  Status status = STATUS_OK;
  for (int i = 0; status == STATUS_OK && i < SIDE_FILES; i++) {
    char *from = path_join(base, side_files[i]), *to = path_join(folder, side_files[i]);
    FileMap map;
    if (file_exists(from)) {
      status = file_map(&map, from);
      if (status == STATUS_OK) {
        status = file_write_whole(to, map.data, map.size);
        file_unmap(&map);
      }
    }
    free(from);
    free(to);
  }
  return status;
}

// A file without a vocabulary still makes a model that others can load.
static Status write_tokenizer(const char *folder, const Model *model) {
  if (!model->is_gguf) return copy_side_files(folder, model->path);
  GgufString kind;
  if (gguf_get_string(&model->gguf, "tokenizer.ggml.model", &kind) && !(kind.length == 8 && memcmp(kind.data, "no_vocab", 8) == 0))
    return tokenizer_write_folder(folder, &model->gguf, model->config.context_length);
  log_warning("%s: no vocabulary, so the folder has no tokenizer.json", model->path);
  return STATUS_OK;
}

// chat_template.jinja comes before what tokenizer_config.json says.
static Status write_template(const char *folder, const char *source) {
  char *path = path_join(folder, "chat_template.jinja");
  Status status = file_write_whole(path, source, strlen(source));
  free(path);
  return status;
}

static Status write_all(MergeReport *report, const Pieces *pieces, const char *folder) {
  TRY(directory_create(folder));
  TRY(config_json_write(folder, pieces->model, pieces->type));
  TRY(write_tokenizer(folder, pieces->model));
  if (pieces->tokenizer) TRY(tokenizer_copy_folder(folder, pieces->tokenizer, &(TokenChanges){0}));
  if (pieces->chat_template) TRY(write_template(folder, pieces->chat_template));
  TRY(write_tensors(report, pieces, folder));
  return directory_sync(folder);
}

// ---- The place ----

static bool is_our_file(const char *name) {
  if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "config.json") == 0 || strcmp(name, "model.safetensors") == 0)
    return true;
  for (int i = 0; i < SIDE_FILES; i++)
    if (strcmp(name, side_files[i]) == 0) return true;
  return false;
}

static Status check_place(const Model *model, const char *path) {
  TRY(merge_check_output(model, path));
  DIR *folder = opendir(path);
  if (!folder) return errno == ENOENT ? STATUS_OK : status_errno(STATUS_USAGE, errno, "--output %s: cannot be a folder", path);
  Status status = STATUS_OK;
  for (struct dirent *entry; status == STATUS_OK && (entry = readdir(folder));)
    if (!is_our_file(entry->d_name))
      status = status_fail(STATUS_USAGE, "--output %s: the folder holds %s, which is no part of a model folder; name a new folder", path,
                           entry->d_name);
  closedir(folder);
  return status;
}

// Puts the finished folder in its place; what was there is removed last.
static Status put_in_place(const char *temporary, const char *path) {
  char *old = memory_format("%s.old-%ld", path, (long)getpid());
  bool moved = rename(path, old) == 0;
  Status status = STATUS_OK;
  if (!moved && errno != ENOENT) status = status_errno(STATUS_FAILED, errno, "%s: cannot be replaced", path);
  if (status == STATUS_OK && rename(temporary, path) != 0) {
    status = status_errno(STATUS_FAILED, errno, "%s: cannot be written", path);
    if (moved) (void)rename(old, path);
  } else if (status == STATUS_OK && moved) {
    status = directory_remove(old);
  }
  free(old);
  return status;
}

static Status write_pieces(MergeReport *report, const Pieces *pieces, const char *path) {
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') length--;
  char *place = memory_format("%.*s", (int)length, path), *temporary = memory_format("%s.partial-%ld", place, (long)getpid());
  *report = (MergeReport){.tensors = pieces->count, .main_type = pieces->type};
  Status status = write_all(report, pieces, temporary);
  if (status == STATUS_OK) status = put_in_place(temporary, place);
  if (status != STATUS_OK) {
    char *message = memory_copy_string(status_message());
    (void)directory_remove(temporary);
    status = status_fail(status, "%s", message);
    free(message);
  }
  free(place);
  free(temporary);
  return status;
}

static void plan_pieces(Pieces *pieces, MergeOptions options) {
  const Model *model = pieces->model;
  const Quantization *type = options.type;
  pieces->same = !type && !model->is_gguf;
  pieces->type = type ? type->type : float_type(model);
  pieces->chat_template = options.chat_template;
  pieces->tokenizer = options.tokenizer;
  if (model->is_gguf) pieces_from_gguf(pieces);
  else pieces_from_folder(pieces);
}

Status merge_write_files(const Model *model, const char *folder, const char *chat_template) {
  TRY(merge_check_output(model, folder));
  Pieces pieces = {.model = model};
  MergeReport report = {0};
  plan_pieces(&pieces, (MergeOptions){.chat_template = chat_template});
  Status status = write_all(&report, &pieces, folder);
  free(pieces.items);
  arena_release(&pieces.arena);
  return status;
}

Status merge_write_folder(MergeReport *report, const Model *model, const char *path, MergeOptions options) {
  const Quantization *type = options.type;
  if (type && block_traits(type->type)->elements > 1)
    return status_fail(
        STATUS_USAGE, "--type %s: a Hugging Face folder holds f32, f16 or bf16; name a file that ends in .gguf for the others", type->name);
  TRY(check_place(model, path));
  Pieces pieces = {.model = model};
  plan_pieces(&pieces, options);
  if (!type && model->is_gguf) log_notice("%s is written in %s (--type f16, bf16 or f32 chooses)", path, block_traits(pieces.type)->name);
  Status status = write_pieces(report, &pieces, path);
  free(pieces.items);
  arena_release(&pieces.arena);
  return status;
}
