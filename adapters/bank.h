// Adapters beside a model, any of which a row of a batch may go by: none of them is in the model's slots. Pairs alone, with or without
// magnitudes (LoRA, DoRA): tensors in full, tokens' rows and factors that changed the base belong to one model at a time.
#ifndef ADAPTERS_BANK_H
#define ADAPTERS_BANK_H

#include "adapters/adapter.h"

typedef struct AdapterBank AdapterBank;

// name: what requests call it. STATUS_USAGE for a name that is there already, and for an adapter that cannot be in a bank: merge it.
Status adapter_bank_new(AdapterBank **out, Model *model);
Status adapter_bank_add(AdapterBank *bank, const char *name, const char *path, double scale);
void adapter_bank_free(AdapterBank *bank);
int adapter_bank_count(const AdapterBank *bank);
int adapter_bank_find(const AdapterBank *bank, const char *name);  // -1: there is none of that name
const char *adapter_bank_name(const AdapterBank *bank, int number);
const char *adapter_bank_path(const AdapterBank *bank, int number);
double adapter_bank_scale(const AdapterBank *bank, int number);
// Its effect, times what the file says; while no pass is under way. STATUS_USAGE for another than 1 of a DoRA adapter.
Status adapter_bank_set_scale(AdapterBank *bank, int number, double scale);

#endif
