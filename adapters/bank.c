// Each adapter is read into the model's slots, as any is, and its pairs are then moved to places beside them.
#include "adapters/bank.h"

#include <stdlib.h>
#include <string.h>

typedef struct BankEntry {
  char *name, *path;
  double scale;
  Adapter *adapter;
  float *scales;  // [adapter->count]: as the file says
} BankEntry;

struct AdapterBank {
  Model *model;
  BankEntry *entries;
  int count;
};

Status adapter_bank_new(AdapterBank **out, Model *model) {
  AdapterBank *bank = *out = memory_new(1, sizeof *bank);
  bank->model = model;
  return STATUS_OK;
}

static void linear_resize(Linear *linear, int count) {
  if (count == 0) {
    free(linear->bank);
    linear->bank = NULL;
    linear->bank_count = 0;
    return;
  }
  linear->bank = memory_grow(linear->bank, (size_t)count, sizeof *linear->bank);
  for (int i = linear->bank_count; i < count; i++) linear->bank[i] = NULL;
  linear->bank_count = count;
}

// Of every linear layer that may have an adapter.
static void resize_all(AdapterBank *bank, int count) {
  for (int i = 0; i < bank->model->linear_count; i++) linear_resize(bank->model->linears[i], count);
  linear_resize(&bank->model->head, count);
}

static Status check_entry(const Adapter *adapter, const char *path) {
  const Model *model = adapter->model;
  for (int i = 0; i < adapter->count; i++)
    if (adapter->linears[i] == &model->embedding)
      return status_fail(STATUS_USAGE, "%s: adapts the embedding, which rows of one batch cannot have each its own of; merge it first",
                         path);
  if (adapter->trained_count || adapter->tokens.rows.rows || adapter->residuals)
    return status_fail(STATUS_USAGE, "%s: changes tensors of the model itself, so that it cannot stand beside others; merge it first",
                       path);
  return STATUS_OK;
}

static Status check_slots(const AdapterBank *bank, const char *name) {
  if (adapter_bank_find(bank, name) >= 0)
    return status_fail(STATUS_USAGE, "two adapters have the name '%s'; requests choose them by it, so give each its own: --adapter NAME=A",
                       name);
  for (int i = 0; i < bank->model->linear_count; i++)
    if (bank->model->linears[i]->adapter)
      return status_fail(STATUS_USAGE, "%s: the model has an adapter in place already, beside which no other can be chosen", name);
  return STATUS_OK;
}

Status adapter_bank_add(AdapterBank *bank, const char *name, const char *path, double scale) {
  TRY(check_slots(bank, name));
  Adapter *adapter;
  TRY(adapter_open(&adapter, bank->model, &path, NULL, 1, false));
  Status status = check_entry(adapter, path);
  if (status != STATUS_OK) {
    adapter_close(adapter);
    return status;
  }
  int number = bank->count++;
  bank->entries = memory_grow(bank->entries, (size_t)bank->count, sizeof *bank->entries);
  BankEntry *entry = &bank->entries[number];
  *entry = (BankEntry){.name = memory_copy_string(name), .path = memory_copy_string(path), .scale = 1, .adapter = adapter};
  entry->scales = memory_new((size_t)adapter->count + 1, sizeof *entry->scales);
  resize_all(bank, bank->count);
  for (int i = 0; i < adapter->count; i++) {
    entry->scales[i] = adapter->pairs[i].scale;
    adapter->linears[i]->adapter = NULL;
    adapter->linears[i]->bank[number] = &adapter->pairs[i];
  }
  return adapter_bank_set_scale(bank, number, scale);
}

void adapter_bank_free(AdapterBank *bank) {
  if (!bank) return;
  resize_all(bank, 0);
  for (int i = 0; i < bank->count; i++) {
    adapter_close(bank->entries[i].adapter);
    free(bank->entries[i].name);
    free(bank->entries[i].path);
    free(bank->entries[i].scales);
  }
  free(bank->entries);
  free(bank);
}

int adapter_bank_count(const AdapterBank *bank) { return bank->count; }

int adapter_bank_find(const AdapterBank *bank, const char *name) {
  for (int i = 0; i < bank->count; i++)
    if (strcmp(bank->entries[i].name, name) == 0) return i;
  return -1;
}

const char *adapter_bank_name(const AdapterBank *bank, int number) { return bank->entries[number].name; }
const char *adapter_bank_path(const AdapterBank *bank, int number) { return bank->entries[number].path; }
double adapter_bank_scale(const AdapterBank *bank, int number) { return bank->entries[number].scale; }

Status adapter_bank_set_scale(AdapterBank *bank, int number, double scale) {
  BankEntry *entry = &bank->entries[number];
  if (entry->adapter->dora && scale != 1)
    return status_fail(STATUS_USAGE, "%s: a DoRA adapter has no share of its effect; its scale stays 1", entry->name);
  entry->scale = scale;
  for (int i = 0; i < entry->adapter->count; i++) entry->adapter->pairs[i].scale = (float)(scale * entry->scales[i]);
  return STATUS_OK;
}
