// The weights of a model on a device with a memory of its own: every matrix, norm and bias is sent there once, after loading, and the
// model's pointers are the device's from then on. Where kernels read the process's own memory nothing is to be done.
#include "models/upload.h"

#include "models/shards.h"

// For each matrix, or each vector of floats, that kernels read.
typedef struct Visitor {
  Status (*matrix)(Matrix *matrix, Backend *backend);
  Status (*vector)(const float **values, int64_t count, Backend *backend);
} Visitor;

static Status visit_norm(NormSettings *norm, const Visitor *visitor, Backend *backend) {
  if (norm->weight) TRY(visitor->vector(&norm->weight, norm->columns, backend));
  return norm->bias ? visitor->vector(&norm->bias, norm->columns, backend) : STATUS_OK;
}

static Status visit_linear(Linear *linear, const Visitor *visitor, const Model *model) {
  if (!model->shards) TRY(visitor->matrix(&linear->weight, model->backend));
  return linear->bias ? visitor->vector(&linear->bias, linear->weight.rows, model->backend) : STATUS_OK;
}

static Status visit_layer(Layer *layer, const Family *family, const Visitor *visitor, Backend *backend) {
  for (int i = 0; i < family_norm_count(family); i++)
    TRY(visit_norm((NormSettings *)((char *)layer + family->norms[i].offset), visitor, backend));
  if (!layer->kind->is_sparse) return STATUS_OK;
  TRY(visitor->matrix(&layer->experts.router, backend));
  RouterSettings *router = &layer->experts.settings;
  return router->bias ? visitor->vector(&router->bias, router->experts, backend) : STATUS_OK;
}

static Status visit_model(Model *model, const Visitor *visitor) {
  Backend *backend = model->backend;
  bool is_tied = model->head.weight.data == model->embedding.weight.data;
  if (!model->embedding_on_host) TRY(visitor->matrix(&model->embedding.weight, backend));
  if (is_tied) model->head.weight = model->embedding.weight;
  else TRY(visitor->matrix(&model->head.weight, backend));
  TRY(visit_norm(&model->final_norm, visitor, backend));
  for (int64_t i = 0; i < model->config.layers; i++) TRY(visit_layer(&model->layers[i], model->family, visitor, backend));
  for (int i = 0; i < model->linear_count; i++) TRY(visit_linear(model->linears[i], visitor, model));
  if (model->shards) return STATUS_OK;  // the experts' matrices are there, as the linear layers' are
  for (int64_t i = 0; i < model->expert_matrix_count; i++) TRY(visitor->matrix(model->expert_matrices[i], backend));
  return STATUS_OK;
}

static Status upload_matrix(Matrix *matrix, Backend *backend) { return backend->upload_matrix(matrix, NULL, backend); }

static Status upload_vector(const float **values, int64_t count, Backend *backend) {
  void *device;
  TRY(backend->allocate(&device, count * (int64_t)sizeof **values, "base weights", backend));
  backend->upload(device, *values, count * (int64_t)sizeof **values, backend);
  *values = device;
  return STATUS_OK;
}

static Status release_matrix(Matrix *matrix, Backend *backend) {
  backend->release_matrix(matrix, backend);
  return STATUS_OK;
}

static Status release_vector(const float **values, int64_t count, Backend *backend) {
  (void)count;
  backend->release((void *)(uintptr_t)*values, backend);
  *values = NULL;
  return STATUS_OK;
}

Status model_upload(Model *model) {
  if (!model->backend->upload_matrix) return STATUS_OK;
  const Visitor upload = {upload_matrix, upload_vector};
  int64_t before = model->backend->available_bytes(model->backend);
  model->embedding_on_host = model->shards && model->options.has_plain_embedding && !model->config.tied_embeddings;
  Status status = visit_model(model, &upload);
  model->device_bytes = before - model->backend->available_bytes(model->backend) + shards_bytes(model);
  // After a failure some weights are the host's: the process is about to end, and its memory on the device with it.
  model->is_uploaded = status == STATUS_OK;
  return status == STATUS_OK ? model->backend->check(model->backend) : status;
}

void model_release_uploads(Model *model) {
  if (!model->is_uploaded) return;
  const Visitor release = {release_matrix, release_vector};
  (void)visit_model(model, &release);
  model->is_uploaded = false;
}
