// The exponential moving average of what is trained (`ema_decay`): after each update
//   average <- decay average + (1 - decay) values,   from the values at the start (Polyak and Juditsky 1992; Tarvainen and Valpola 2017)
// Training goes on with the values; evaluations, adapter files and the export show the average.
#ifndef TRAINER_AVERAGE_H
#define TRAINER_AVERAGE_H

#include "adapters/adapter.h"

typedef struct Average {
  Adapter *adapter;
  float *values;  // [adapter->size] on the device; NULL: there is no average
  double decay;
} Average;

// decay 0: none. STATUS_NO_SPACE.
Status average_open(Average *average, Adapter *adapter, double decay);
void average_close(Average *average);
void average_update(Average *average);  // overwrites the adapter's gradients
void average_show(const Average *average, bool is_shown);

#endif
