// How a new adapter's factors begin (PEFT's init_lora_weights).
#ifndef ADAPTERS_START_H
#define ADAPTERS_START_H

#include "adapters/adapter.h"

// *start and *iterations (of PiSSA: SVD_EXACT of adapters/svd.h, or a number) of a name as PEFT has it; NULL: "true". STATUS_USAGE for eva,
// corda and names that are not known.
Status adapter_start_parse(AdapterStart *start, int *iterations, const char *name);
// Whether the weights are changed, so that base and factors together begin as the base alone.
bool adapter_start_moves_base(AdapterStart start);
// Whether the model with a new adapter is the model without it, up to rounding. Not so: LoftQ and random factors, and what PiSSA and OLoRA
// leave of weights that are then quantised.
bool adapter_start_is_base(AdapterStart start, const Model *model);

// Fills the flat buffer of a new adapter. PiSSA and OLoRA give each adapted layer a matrix W - scale B A in place of its own, in the type that
// the model has its weights in, and remember the first factors. STATUS_USAGE where the base is quantised in its file; STATUS_NO_SPACE.
Status adapter_start(Adapter *adapter, const AdapterSettings *settings);
void adapter_return_bases(Adapter *adapter);  // gives the layers their own matrices back and frees the others

#endif
