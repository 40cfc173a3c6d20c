#include "trainer/average.h"

Status average_open(Average *average, Adapter *adapter, double decay) {
  *average = (Average){.adapter = adapter, .decay = decay};
  if (decay <= 0) return STATUS_OK;
  Backend *backend = adapter->model->backend;
  TRY(backend->allocate((void **)&average->values, adapter->size * (int64_t)sizeof(float), "the moving average", backend));
  backend->kernels->copy(average->values, adapter->data, adapter->size, backend);
  return STATUS_OK;
}

void average_close(Average *average) {
  if (average->values) average->adapter->model->backend->release(average->values, average->adapter->model->backend);
  *average = (Average){0};
}

void average_update(Average *average) {
  if (!average->values) return;
  Adapter *adapter = average->adapter;
  Backend *backend = adapter->model->backend;
  float *difference = adapter->gradient;  // which the update has read
  backend->kernels->copy(difference, adapter->data, adapter->size, backend);
  backend->kernels->add(difference, average->values, -1, adapter->size, backend);
  backend->kernels->add(average->values, difference, (float)(1 - average->decay), adapter->size, backend);
}

void average_show(const Average *average, bool is_shown) {
  if (average->values) (void)adapter_set_data(average->adapter, is_shown ? average->values : average->adapter->data);
}
