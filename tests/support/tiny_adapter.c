#include "tests/support/tiny_adapter.h"

#include "adapters/adapter.h"
#include "core/file.h"
#include "tests/support/test.h"

char *write_tiny_adapter(const char *folder) {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  Rng rng = rng_new(1, RNG_STREAM_TEST);
  assert_ok(backend_new(&backend, "cpu", 1));
  assert_ok(model_open(&model, TESTS_DIR "/data/tiny.gguf", (ModelOptions){0}, backend));
  assert_ok(adapter_create(&adapter, model, &(AdapterSettings){.rank = 4, .alpha = 8, .all_linear = true, .seed = 1}));
  fill_normal(adapter->data, adapter->size, 0.3, &rng);
  char *path = path_join(folder, "adapter");
  assert_ok(directory_create(path));
  assert_ok(adapter_save_peft(adapter, path, "tiny"));
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
  return path;
}
