// How evenly a model's routers spread tokens over routed experts: the load-balancing loss of the Switch Transformer (Fedus et al. 2021,
// arXiv 2101.03961, equation 4), summed over the `used` experts of a token as transformers' load_balancing_loss_func does it:
//   loss = experts * sum_e f_e P_e,   f_e = the share of tokens that e was chosen for,   P_e = the mean of e's router probability
// Both are means over tokens, then over the layers with experts: each layer weighs the same, though the last sees only the tokens whose
// hidden state is wanted. Where all layers see the same tokens this is transformers' number. Even routing gives `used`; the more tokens
// prefer the same experts the larger it is, up to `experts`. It is reported only: routers are frozen, and nothing is trained by it.
#ifndef MODELS_BALANCE_H
#define MODELS_BALANCE_H

#include "models/model.h"

// Lets each forward pass, recomputation apart, add to ExpertLayer.totals of all layers with experts. Nothing is done for a model without.
// model_close frees it. STATUS_NO_SPACE.
Status model_balance_open(Model *model);
void model_balance_clear(Model *model);
void model_balance_count(Model *model, bool on);  // off: graphs that are built from now on count nothing
// Of all passes since model_balance_clear; NAN when there was none, or the model is dense or not opened for it.
double model_balance_loss(Model *model);

#endif
