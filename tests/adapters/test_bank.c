// Adapters that rows of one batch go by, each its own, beside each adapter in the model's slots alone.
#include "adapters/bank.h"
#include "tests/support/decode.h"
#include "tests/support/golden.h"

static const char tiny[] = TESTS_DIR "/data/tiny.gguf";
enum { ADAPTERS = 3, PROMPT = 30, WRITTEN = 12 };
static const int ranks[ADAPTERS] = {4, 16, 3};

// An adapter with random values, written as a PEFT folder.
static char *write_adapter(const char *name, const AdapterSettings *settings) {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  assert_ok(backend_new(&backend, "cpu", 2));
  assert_ok(model_open(&model, tiny, (ModelOptions){0}, backend));
  assert_ok(adapter_create(&adapter, model, settings));
  Rng rng = rng_new(settings->seed, RNG_STREAM_TEST);
  for (int i = 0; i < adapter->count; i++) {
    fill_normal(adapter->pairs[i].b.data, adapter->pairs[i].b.rows * adapter->pairs[i].b.columns, 0.05, &rng);
    Parameter *m = &adapter->pairs[i].magnitude;
    for (int64_t j = 0; j < m->rows; j++) m->data[j] *= (float)(1 + 0.1 * rng_normal(&rng));
  }
  char *folder = path_join(test_folder, name);
  assert_ok(adapter_save_peft(adapter, folder, tiny));
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
  return folder;
}

typedef struct Banked {
  Backend *backend;
  Model *model;
  AdapterBank *bank;
} Banked;

static void banked_open(Banked *banked) {
  assert_ok(backend_new(&banked->backend, "cpu", 2));
  assert_ok(model_open(&banked->model, tiny, (ModelOptions){0}, banked->backend));
  assert_ok(adapter_bank_new(&banked->bank, banked->model));
}

static void banked_close(Banked *banked) {
  adapter_bank_free(banked->bank);
  model_close(banked->model);
  backend_free(banked->backend);
}

typedef struct Folders {
  char *paths[ADAPTERS];
  Decoded alone[ADAPTERS + 1];  // of each adapter in the slots; the last of none
  int32_t ids[PROMPT];
} Folders;

// options.is_exact or as users have it.
static Decoded decode_alone(const Folders *folders, int index, bool is_exact) {
  Backend *backend;
  Model *model;
  Adapter *adapter = NULL;
  assert_ok(backend_new(&backend, "cpu", 2));
  assert_ok(model_open(&model, tiny, (ModelOptions){0}, backend));
  if (index < ADAPTERS) assert_ok(adapter_open(&adapter, model, (const char *const *)&folders->paths[index], NULL, 1, false));
  Decoded decoded = decode(model, (EngineOptions){.is_exact = is_exact}, folders->ids, PROMPT, WRITTEN);
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
  return decoded;
}

static void prepare(Folders *folders, bool dora) {
  Rng rng = rng_new(6, RNG_STREAM_TEST);
  for (int i = 0; i < PROMPT; i++) folders->ids[i] = (int32_t)rng_below(&rng, 300);
  for (int i = 0; i < ADAPTERS; i++) {
    AdapterSettings settings = {.rank = ranks[i], .alpha = 8, .all_linear = true, .seed = (uint64_t)i, .dora = dora && i != 1};
    static const char *const some[] = {"q_proj", "down_proj"};
    if (i == 2) settings.all_linear = false, settings.targets = some, settings.target_count = 2;
    char name[2] = {(char)('a' + i), 0};
    folders->paths[i] = write_adapter(name, &settings);
  }
}

// Two texts under each adapter and two under none, all at once.
static void check(bool dora) {
  Folders folders;
  prepare(&folders, dora);
  for (int i = 0; i <= ADAPTERS; i++) folders.alone[i] = decode_alone(&folders, i, true);
  Banked own;
  Engine *engine;
  banked_open(&own);
  for (int i = 0; i < ADAPTERS; i++) {
    char name[2] = {(char)('a' + i), 0};
    assert_ok(adapter_bank_add(own.bank, name, folders.paths[i], 1));
    assert_int_equal(adapter_bank_find(own.bank, name), i);
  }
  EngineOptions options = {.context = PROMPT + WRITTEN, .parallel = 8, .chunk = 50, .is_exact = true, .adapters = own.bank};
  assert_ok(engine_new(&engine, own.model, options));
  Decoded texts[2 * (ADAPTERS + 1)];
  for (int i = 0; i < 2 * (ADAPTERS + 1); i++)
    decode_submit(&texts[i], engine, folders.ids, PROMPT, WRITTEN, i % (ADAPTERS + 1) < ADAPTERS ? i % (ADAPTERS + 1) : -1);
  assert_ok(engine_run(engine));
  for (int i = 0; i < 2 * (ADAPTERS + 1); i++) {
    const Decoded *alone = &folders.alone[i % (ADAPTERS + 1)];
    assert_int_equal(texts[i].count, alone->count);
    assert_memory_equal(texts[i].ids, alone->ids, (size_t)alone->count * sizeof *alone->ids);
    // Beside a magnitude, residuals of all rows are added after it, and not within the product.
    if (dora) assert_close(texts[i].logits, alone->logits, (alone->count - 1) * alone->vocabulary, 1e-4);
    else assert_memory_equal(texts[i].logits, alone->logits, (size_t)((alone->count - 1) * alone->vocabulary) * sizeof(float));
    Decoded again;  // without the others: the very same
    decode_submit(&again, engine, folders.ids, PROMPT, WRITTEN, i % (ADAPTERS + 1) < ADAPTERS ? i % (ADAPTERS + 1) : -1);
    assert_ok(engine_run(engine));
    assert_memory_equal(again.logits, texts[i].logits, (size_t)((alone->count - 1) * alone->vocabulary) * sizeof(float));
    decoded_release(&again);
    decoded_release(&texts[i]);
  }
  for (int i = 0; i <= ADAPTERS; i++) {  // they are not all alike, which would prove nothing
    const Decoded *a = &folders.alone[i], *b = &folders.alone[(i + 1) % (ADAPTERS + 1)];
    assert_memory_not_equal(a->logits, b->logits, (size_t)a->vocabulary * sizeof *a->logits);
  }
  engine_free(engine);
  adapter_bank_free(own.bank);
  Decoded after = decode(own.model, (EngineOptions){.is_exact = true}, folders.ids, PROMPT, WRITTEN);
  assert_memory_equal(after.logits, folders.alone[ADAPTERS].logits, (size_t)(after.count - 1) * (size_t)after.vocabulary * sizeof(float));
  decoded_release(&after);
  model_close(own.model);
  backend_free(own.backend);
  for (int i = 0; i <= ADAPTERS; i++) decoded_release(&folders.alone[i]);
  for (int i = 0; i < ADAPTERS; i++) free(folders.paths[i]);
}

static void rows_go_by_their_own_adapter(void **state) {
  (void)state;
  check(false);
}

static void magnitudes_are_each_rows_own(void **state) {
  (void)state;
  check(true);
}

static void a_share_of_an_adapter_is_that_of_its_file_times_it(void **state) {
  (void)state;
  Folders folders;
  prepare(&folders, true);
  Banked own;
  Engine *engine;
  banked_open(&own);
  Decoded base = decode(own.model, (EngineOptions){.is_exact = true}, folders.ids, PROMPT, 1);
  assert_ok(adapter_bank_add(own.bank, "dora", folders.paths[0], 1));
  assert_ok(adapter_bank_add(own.bank, "plain", folders.paths[1], 0.5));
  assert_fails(STATUS_USAGE, adapter_bank_add(own.bank, "plain", folders.paths[1], 1), "two adapters", "'plain'");
  assert_fails(STATUS_USAGE, adapter_bank_set_scale(own.bank, 0, 0.5), "DoRA");
  EngineOptions options = {.context = PROMPT + WRITTEN, .parallel = 1, .is_exact = true, .adapters = own.bank, .cache_tokens = 1000};
  assert_ok(engine_new(&engine, own.model, options));
  Decoded half, none, again;
  decode_submit(&half, engine, folders.ids, PROMPT, 1, 1);
  assert_ok(engine_run(engine));
  assert_ok(engine_set_scale(engine, 1, 0));
  assert_int_equal(engine_counts(engine).waiting, 0);
  decode_submit(&none, engine, folders.ids, PROMPT, 1, 1);
  assert_ok(engine_run(engine));
  assert_ok(engine_set_scale(engine, 1, 0.5));
  decode_submit(&again, engine, folders.ids, PROMPT, 1, 1);
  assert_ok(engine_run(engine));
  int64_t bytes = (PROMPT - 1) * base.vocabulary * (int64_t)sizeof(float);
  assert_close(none.logits, base.logits, (PROMPT - 1) * base.vocabulary, 1e-5);
  assert_memory_equal(again.logits, half.logits, (size_t)bytes);
  assert_memory_not_equal(half.logits, none.logits, (size_t)bytes);
  Decoded *all[] = {&base, &half, &none, &again};
  for (int i = 0; i < 4; i++) decoded_release(all[i]);
  engine_free(engine);
  banked_close(&own);
  for (int i = 0; i < ADAPTERS; i++) free(folders.paths[i]);
}

typedef struct Turn {
  int *clock, when;
} Turn;

static void take_turn(FinishReason reason, const EngineUsage *usage, Status status, const char *message, void *context) {
  (void)reason, (void)usage, (void)message;
  assert_int_equal(status, STATUS_OK);
  Turn *turn = context;
  turn->when = (*turn->clock)++;
}

// Rows lie by adapter, but prompts are read in the order in which they came.
static void who_came_first_is_read_first_whatever_the_adapter(void **state) {
  (void)state;
  Folders folders;
  prepare(&folders, false);
  Banked own;
  Engine *engine;
  banked_open(&own);
  for (int i = 0; i < 2; i++) assert_ok(adapter_bank_add(own.bank, i ? "b" : "a", folders.paths[i], 1));
  EngineOptions options = {.context = PROMPT, .parallel = 3, .chunk = 8, .adapters = own.bank};
  assert_ok(engine_new(&engine, own.model, options));
  int clock = 0;
  Turn turns[3];
  for (int i = 0; i < 3; i++) {
    turns[i] = (Turn){&clock, -1};
    EngineRequest request = {
        .prompt = folders.ids, .prompt_count = PROMPT, .adapter = 1 - i, .reader = {.end = take_turn, .context = &turns[i]}};
    int64_t number;
    assert_ok(engine_submit(&number, engine, &request));
  }
  assert_ok(engine_run(engine));
  for (int i = 0; i < 3; i++) assert_int_equal(turns[i].when, i);
  engine_free(engine);
  banked_close(&own);
  for (int i = 0; i < ADAPTERS; i++) free(folders.paths[i]);
}

static void what_cannot_stand_beside_others_is_refused(void **state) {
  (void)state;
  static const char *const modules[] = {"norm"};
  AdapterSettings settings = {.rank = 4, .alpha = 8, .all_linear = true, .modules_to_save = modules, .modules_to_save_count = 1, .seed = 7};
  char *folder = write_adapter("full", &settings);
  Banked own;
  banked_open(&own);
  assert_fails(STATUS_USAGE, adapter_bank_add(own.bank, "full", folder, 1), folder, "merge it first");
  assert_int_equal(adapter_bank_count(own.bank), 0);
  assert_int_equal(adapter_bank_find(own.bank, "full"), -1);
  banked_close(&own);
  free(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(rows_go_by_their_own_adapter),
      unit_test_in_folder(magnitudes_are_each_rows_own),
      unit_test_in_folder(a_share_of_an_adapter_is_that_of_its_file_times_it),
      unit_test_in_folder(who_came_first_is_read_first_whatever_the_adapter),
      unit_test_in_folder(what_cannot_stand_beside_others_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
