// The tensors that a run trains, as the optimiser takes them: each with its weight decay and its share of the learning rate.
#ifndef TRAINER_PARAMETERS_H
#define TRAINER_PARAMETERS_H

#include "adapters/adapter.h"
#include "optim/optimizer.h"
#include "recipes/recipe.h"

// tensors[adapter->tensor_count], in its order; free them.
//   weight_decay   of all but norms and biases, as transformers' Trainer has it: magnitudes, though vectors, do decay
//   loraplus_lr_ratio          (PEFT's create_loraplus_optimizer) lora_B and vectors learn at learning_rate times it, adapters of embeddings at
//                              loraplus_lr_embedding; the keys below then say nothing, as in Axolotl
//   embedding_lr_scale, embedding_lr   (Axolotl) embeddings, the output layer and their adapters: their rate, the first if both are there
//   lr_groups                  (Axolotl) the rate of tensors with one of `modules` in their name; the first group that fits, of what decays
// With any of the last three, and for Muon, embeddings and the output layer do not decay.
ParameterTensor *parameter_tensors(const Adapter *adapter, const Recipe *recipe);

// The tensor's name in a PEFT model, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", or where all of a model is
// trained, in that. Free it.
char *parameter_name(const AdapterTensor *tensor, bool is_full);

#endif
