// Tensors that are trained in full: all of a model, modules_to_save beside LoRA, and rows of some tokens. They are added to an adapter, get
// their places in the flat buffers by adapter_allocate, and then take the places of the model's own values.
#ifndef ADAPTERS_TRAINED_H
#define ADAPTERS_TRAINED_H

#include "adapters/adapter.h"

// Every weight, bias and norm; an embedding with the head that is tied to it is one tensor. STATUS_USAGE for a quantised model, or one of
// routed experts.
Status trained_add_all(Adapter *adapter);
// The modules whose names end in one of `names`, each a copy of its own even where weights are tied, as PEFT's modules_to_save.
// STATUS_USAGE for a name that no module has.
Status trained_add_modules(Adapter *adapter, const char *const *names, int name_count);
void trained_add_module(Adapter *adapter, const char *name);  // the one of exactly that name, once; if there is one
bool trained_is_saved(const char *module, const char *const *names, int count);  // whether a name is such an end
bool trained_is_there(const Adapter *adapter, const Linear *linear);  // whether a linear layer is among them
// Rows of tokens that replace the embedding's own, and those of a head that is tied to it. STATUS_USAGE for an id that is not there, or
// there twice.
Status trained_add_tokens(Adapter *adapter, const int32_t *ids, int count);

Status trained_place(Adapter *adapter);  // puts all of them into the model
void trained_enable(Adapter *adapter, bool on);  // off: the model's own values, bit for bit
void trained_remove(Adapter *adapter);  // takes all of them out again
Status trained_begin_at_base(Adapter *adapter);  // their first values are the model's own

#endif
