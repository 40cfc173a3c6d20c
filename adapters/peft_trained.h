// The tensors of a PEFT adapter that are trained in full: adapters/peft.c calls these in this order.
#ifndef ADAPTERS_PEFT_TRAINED_H
#define ADAPTERS_PEFT_TRAINED_H

#include <jansson.h>

#include "adapters/parts.h"
#include "formats/safetensors.h"

// Takes them from a file into the source; adds their number to *used. STATUS_BAD_INPUT for a tensor that cannot be read.
Status peft_read_trained(AdapterSource *source, const Model *model, const Safetensors *st, const json_t *config, int *used);
// Adds them to an adapter that is being built, and fills them once it has memory. STATUS_BAD_INPUT for what fits no module of the model.
Status peft_add_trained(Adapter *adapter, const AdapterSource *source, const char *path);
void peft_put_trained(Adapter *adapter, const AdapterSource *source);

void peft_declare_trained(SafetensorsWriter *writer, const Adapter *adapter);
Status peft_write_trained(SafetensorsWriter *writer, const Adapter *adapter);  // in the order in which they were declared
void peft_config_trained(json_t *config, const Adapter *adapter);  // modules_to_save, trainable_token_indices

#endif
