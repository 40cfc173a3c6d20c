// The loss of a model over rows that a recipe names, with dropout off.
#ifndef TRAINER_EVALUATE_H
#define TRAINER_EVALUATE_H

#include "adapters/adapter.h"
#include "data/rows.h"
#include "recipes/recipe.h"
#include "trainer/metrics.h"

// Over the recipe's evaluation rows (test_datasets, or val_set_size's part of the datasets), or its training rows where it has no others or
// wants_training_rows. Of a recipe with `rl` the preference loss with its figures, the base being the reference. adapter NULL: the model alone.
// *rows: what was measured. STATUS_USAGE, STATUS_BAD_INPUT, STATUS_NO_SPACE.
Status evaluate_rows(Evaluation *evaluation, RowStatistics *rows, const Recipe *recipe, Model *model, Adapter *adapter,
                     bool wants_training_rows);

#endif
