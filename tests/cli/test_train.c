#define _GNU_SOURCE
// `lora train` as a user meets it, on the tiny_gguf model: what it leaves, exact resumption, and what it says of bad input.
#include "tests/support/training.h"

#include <math.h>
#include <sys/wait.h>

#include "core/file.h"
#include "formats/gguf.h"

static void leaves_the_adapter_its_card_metrics_and_checkpoints(void **state) {
  (void)state;
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "");
  assert_runs("train %s %s", recipe, "");
  static const char *const files[] = {"adapter_config.json",
                                      "adapter_model.safetensors",
                                      "adapter.gguf",
                                      "recipe.yml",
                                      "README.md",
                                      "metrics.jsonl",
                                      "checkpoint-8/adapter_model.safetensors",
                                      "checkpoint-8/manifest.json"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char *relative = memory_format("out/%s", files[i]), *path = path_join(test_folder, relative);
    if (!file_exists(path)) fail_msg("%s is missing", files[i]);
    free(relative);
    free(path);
  }
  Buffer metrics = {0};
  read_whole(&metrics, "out/metrics.jsonl");
  assert_non_null(strstr(metrics.data, "\"eval_perplexity\""));
  assert_non_null(strstr(metrics.data, "\"trained_tokens\""));
  buffer_release(&metrics);
  // The recipe that it leaves is whole: it runs again, and gives the same adapter.
  char *again = path_join(test_folder, "out/recipe.yml"), *other = memory_format("--output_dir %s/again", test_folder);
  assert_runs("train %s %s", again, other);
  assert_same_file("out/adapter_model.safetensors", "again/adapter_model.safetensors");
  free(again);
  free(other);
  free(recipe);
}

// The template of the training goes with the adapter: it talks by it, and what is merged carries it.
static void the_chat_template_of_the_training_goes_with_the_adapter(void **state) {
  (void)state;
  static const char template[] =
      "{% for m in messages %}<{{ m.role }}> {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
  char *recipe = training_recipe("chat.yml", tiny_gguf, "out", ""), *path = write_file("own.jinja", template);
  free(write_file("chat.jsonl",
                  "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"one two\"}]}\n"));
  char *more = memory_format(
      "--datasets.0.path %s/chat.jsonl --datasets.0.type chat_template --chat_template jinja --chat_template_jinja %s "
      "--val_set_size 0 --eval_steps null --max_steps 1",
      test_folder, path);
  assert_runs("train %s %s", recipe, more);
  Buffer kept = {0}, output = {0};
  read_whole(&kept, "out/chat_template.jinja");
  assert_string_equal(kept.data, template);
  assert_int_equal(
      run_program(&output, "merge --model %s --adapter %s/out --output %s/merged.gguf --type f32", tiny_gguf, test_folder, test_folder), 0);
  char *messages = write_file("m.json", "[{\"role\": \"user\", \"content\": \"hi\"}]");
  output.length = 0;
  assert_int_equal(run_program(&output, "template --model %s/merged.gguf --messages %s --generation-prompt 2>&1", test_folder, messages),
                   0);
  assert_string_equal(output.data, "<user> hi<|im_end|><assistant>");
  output.length = 0;
  assert_int_equal(
      run_program(&output, "generate --model %s --adapter %s/out --chat --prompt hi --max-tokens 3 --json", tiny_gguf, test_folder), 0);
  buffer_release(&kept), buffer_release(&output);
  free(recipe), free(path), free(more), free(messages);
}

static void export_merges_what_the_recipe_asks_for(void **state) {
  (void)state;
  char *recipe = training_recipe("export.yml", tiny_gguf, "out",
                                 "export: {gguf: [q8_0, f16], merge: true}\nsave_first_step: true\nhub_model_id: me/mine\n");
  Buffer output = {0}, card = {0};
  assert_int_equal(run_program(&output, "train %s", recipe), 0);
  const char *files[] = {"out/merged-q8_0.gguf", "out/merged-f16.gguf", "out/merged/config.json", "out/checkpoint-1/manifest.json"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char *path = path_join(test_folder, files[i]);
    if (!file_exists(path)) fail_msg("%s was not written: %s", path, output.data);
    free(path);
  }
  assert_non_null(strstr(output.data, "merged-f16.gguf: 29 tensors, 21 of them adapted, mostly f16"));
  assert_non_null(strstr(output.data, "mean KL divergence from base + adapter: "));
  read_whole(&card, "out/README.md");
  assert_non_null(strstr(card.data, "# me/mine\n"));
  free(recipe);
  recipe = training_recipe("export2.yml", tiny_gguf, "out2", "export: {gguf: [q8_0, q9_9]}\n");
  assert_refused(2, recipe, "", "export2.yml:", ": export: q9_9: no type is called that");
  buffer_release(&output);
  buffer_release(&card);
  free(recipe);
}

static void resuming_gives_the_bits_of_an_uninterrupted_run(void **state) {
  (void)state;
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "");
  assert_runs("train %s %s", recipe, "");
  char *whole = memory_format("%s/whole.safetensors", test_folder),
       *adapter = memory_format("%s/out/adapter_model.safetensors", test_folder);
  assert_int_equal(rename(adapter, whole), 0);
  char *last = memory_format("%s/out/checkpoint-8", test_folder);
  assert_ok(directory_remove(last));
  assert_runs("train %s %s", recipe, "--resume");
  assert_same_file("whole.safetensors", "out/adapter_model.safetensors");
  free(whole);
  free(adapter);
  free(last);
  free(recipe);
}

// The last value of a key in metrics.jsonl.
static double last_metric(const char *relative, const char *key) {
  Buffer metrics = {0};
  char *sought = memory_format("\"%s\": ", key);
  double value = NAN;
  read_whole(&metrics, relative);
  for (const char *found = metrics.data; (found = strstr(found, sought)); found++) value = strtod(found + strlen(sought), NULL);
  buffer_release(&metrics);
  free(sought);
  return value;
}

static void moments_in_8_bits_train_as_well_as_in_float32_and_resume_exactly(void **state) {
  (void)state;
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "");
  char *plain = memory_format("--max_steps 60 --save_steps 40 --output_dir %s/plain", test_folder);
  char *coded = memory_format("--optimizer adamw_bnb_8bit --max_steps 60 --save_steps 40 --output_dir %s/coded", test_folder);
  char *resumed = memory_format("%s --resume %s/coded/checkpoint-40", coded, test_folder);
  assert_runs("train %s %s", recipe, plain);
  assert_runs("train %s %s", recipe, coded);
  const char *keys[] = {"loss", "eval_loss"};
  for (int i = 0; i < 2; i++) {
    double first = last_metric("plain/metrics.jsonl", keys[i]), second = last_metric("coded/metrics.jsonl", keys[i]);
    if (!(fabs(second - first) <= 0.02 * first)) fail_msg("%s is %g in 8 bits, and %g in float32", keys[i], second, first);
    if (second == first) fail_msg("%s is the same in 8 bits as in float32", keys[i]);
  }
  Buffer whole = {0}, again = {0};
  read_whole(&whole, "coded/adapter_model.safetensors");
  assert_runs("train %s %s", recipe, resumed);
  read_whole(&again, "coded/adapter_model.safetensors");
  assert_int_equal(whole.length, again.length);
  assert_memory_equal(whole.data, again.data, whole.length);
  // The checkpoint is of another size, and no run with moments in float32 goes on from it.
  char *other = memory_format("--max_steps 60 --resume %s/coded/checkpoint-40", test_folder);
  assert_refused(3, recipe, other, "another recipe", "checkpoint-40");
  buffer_release(&whole), buffer_release(&again);
  free(recipe), free(plain), free(coded), free(resumed), free(other);
}

// Starts a long run, sends it a signal once it has made a few steps, and returns its exit code; *step is the last that it logged.
static int interrupt(const char *recipe, const char *more, const char *signal, long long *step) {
  Buffer metrics = {0};
  char *command = memory_format(
      "'%s' train %s --max_steps 1000000 %s >/dev/null 2>%s/log & pid=$!; before=$(cat %s/out/metrics.jsonl 2>/dev/null | wc -l); "
      "for i in $(seq 600); do [ $(cat %s/out/metrics.jsonl 2>/dev/null | wc -l) -gt $((before + 3)) ] && break; sleep 0.1; done; "
      "kill -%s $pid; wait $pid",
      LORA_PROGRAM, recipe, more, test_folder, test_folder, test_folder, signal);
  int status = system(command);
  read_whole(&metrics, "out/metrics.jsonl");
  *step = -1;
  for (const char *found = metrics.data; (found = strstr(found, "{\"step\": ")); found++) sscanf(found, "{\"step\": %lld", step);
  buffer_release(&metrics);
  free(command);
  return WEXITSTATUS(status);
}

// Overrides take out what streaming cannot have; the rest of the recipe is the same.
static void streaming_trains_on_the_same_rows_and_resumes_exactly(void **state) {
  (void)state;
  static const char in_order[] = "--val_set_size 0 --eval_steps null --curriculum_sampling true --max_steps 6 --save_steps 2";
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "whole", ""), *streamed, *chunks, *resumed;
  streamed = memory_format("%s --streaming true --output_dir %s/streamed", in_order, test_folder);
  assert_runs("train %s %s", recipe, in_order);
  assert_runs("train %s %s", recipe, streamed);
  assert_same_file("whole/adapter_model.safetensors", "streamed/adapter_model.safetensors");
  // Chunks of 5 of the 12 rows: the checkpoint lies in a later one.
  chunks = memory_format("%s --streaming true --streaming_multipack_buffer_size 5 --output_dir %s/chunks", in_order, test_folder);
  resumed = memory_format("%s --streaming true --streaming_multipack_buffer_size 5 --output_dir %s/chunks --resume %s/chunks/checkpoint-4",
                          in_order, test_folder, test_folder);
  assert_runs("train %s %s", recipe, chunks);
  Buffer first = {0}, second = {0};
  read_whole(&first, "chunks/adapter_model.safetensors");
  assert_runs("train %s %s", recipe, resumed);
  read_whole(&second, "chunks/adapter_model.safetensors");
  assert_int_equal(first.length, second.length);
  assert_memory_equal(first.data, second.data, first.length);
  buffer_release(&first), buffer_release(&second);
  free(recipe), free(streamed), free(chunks), free(resumed);
}

static void streaming_tells_of_the_first_chunk_once_and_of_what_the_others_lose(void **state) {
  (void)state;
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "");
  Buffer output = {0};
  int code = run_program(&output, "train %s --streaming true --val_set_size 0 --eval_steps null --sequence_len 12 --max_steps 2", recipe);
  if (code != 0) fail_msg("exit code %d: %s", code, output.data);
  const char *first = strstr(output.data, "rows: 12 read, 4 kept");
  assert_non_null(first);
  assert_null(strstr(first + 1, "rows: 12 read"));
  assert_non_null(strstr(first, "chunk 1: 8 of 12 rows cut or dropped"));
  buffer_release(&output);
  free(recipe);
}

static void a_signal_leaves_a_checkpoint_of_the_last_step_to_go_on_from(void **state) {
  (void)state;
  char *recipe = training_recipe("r.yml", tiny_gguf, "out", "");
  const char *signals[] = {"TERM", "INT"};
  long long step, before = 0;
  for (int i = 0; i < 2; i++) {
    int code = interrupt(recipe, i ? "--resume" : "", signals[i], &step);
    assert_int_equal(code, i ? 130 : 143);
    assert_true(step > before);
    before = step;
    char *checkpoint = memory_format("%s/out/checkpoint-%lld/manifest.json", test_folder, step);
    if (!file_exists(checkpoint)) fail_msg("there is no %s", checkpoint);
    free(checkpoint);
  }
  free(recipe);
}

static void threads_do_not_change_the_adapter(void **state) {
  (void)state;
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "one", "sample_packing: true\n");
  char *two = memory_format("--threads 2 --output_dir %s/two", test_folder);
  assert_runs("train %s %s", recipe, "--threads 1");
  assert_runs("train %s %s", recipe, two);
  assert_same_file("one/adapter_model.safetensors", "two/adapter_model.safetensors");
  free(two);
  free(recipe);
}

static void bad_models_are_refused_by_name(void **state) {
  (void)state;
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "");
  char *more = memory_format("--base_model %s/no.gguf", test_folder);
  assert_refused(STATUS_BAD_INPUT, recipe, more, "no.gguf", "");
  free(more);
  FileMap map;
  assert_ok(file_map(&map, tiny_gguf));
  char *cut = path_join(test_folder, "cut.gguf");
  assert_ok(file_write_whole(cut, map.data, map.size * 2 / 3));
  more = memory_format("--base_model %s", cut);
  assert_refused(STATUS_BAD_INPUT, recipe, more, "cut.gguf", "");
  free(more);
  // The same bytes with another architecture, and with another width than its tensors have.
  char *bytes = memory_new(map.size, 1);
  memcpy(bytes, map.data, map.size);
  char *name = memmem(bytes, map.size, "general.architecture", 20);
  assert_non_null(name);
  memcpy(memmem(name, 64, "llama", 5), "lxmxs", 5);
  assert_ok(file_write_whole(cut, bytes, map.size));
  more = memory_format("--base_model %s", cut);
  assert_refused(STATUS_BAD_INPUT, recipe, more, "lxmxs", "llama");
  memcpy(bytes, map.data, map.size);
  name = memmem(bytes, map.size, "llama.embedding_length", 22);
  assert_non_null(name);
  name[22 + 4] /= 2;  // the key is followed by its type and the value's low byte
  assert_ok(file_write_whole(cut, bytes, map.size));
  assert_refused(STATUS_BAD_INPUT, recipe, more, "cut.gguf", "token_embd.weight");
  file_unmap(&map);
  free(bytes);
  free(more);
  free(cut);
  free(recipe);
}

static void bad_recipes_and_rows_are_refused_with_their_place(void **state) {
  (void)state;
  char *broken = write_file("broken.yml", "base_model: [\n");
  assert_refused(STATUS_USAGE, broken, "", "broken.yml:", "");
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "learning_rat: 1\n");
  assert_refused(STATUS_USAGE, recipe, "", "learning_rat", "learning_rate");
  free(recipe);
  recipe = training_recipe("recipe.yml", tiny_gguf, "out", "");
  char *data = write_file("alpaca.jsonl", "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\", \"answer\": \"b\"}\n");
  char *more = memory_format("--datasets.0.path %s --datasets.0.type alpaca --val_set_size 0 --eval_steps null", data);
  assert_refused(STATUS_BAD_INPUT, recipe, more, "alpaca.jsonl:2", "output");
  free(data);
  data = write_file("alpaca.jsonl", "");
  assert_refused(STATUS_BAD_INPUT, recipe, more, "alpaca.jsonl", "");
  free(data);
  free(more);
  data = write_file("masked.jsonl", "{\"input_ids\": [260, 261, 262], \"labels\": [-100, -100, -100]}\n");
  more = memory_format("--datasets.0.path %s --val_set_size 0 --eval_steps null", data);
  assert_refused(STATUS_BAD_INPUT, recipe, more, "masked.jsonl", "trained");
  free(data);
  free(more);
  free(recipe);
  free(broken);
}

// A file of rows of 512 labelled tokens.
static char *write_long_rows(int count) {
  Buffer rows = {0};
  for (int i = 0; i < count; i++) {
    for (int labels = 0; labels < 2; labels++) {
      buffer_append_string(&rows, labels ? "], \"labels\": [260" : "{\"input_ids\": [260");
      for (int j = 1; j < 512; j++) buffer_format(&rows, ", %d", 260 + (i * 37 + j * 11) % 200);
    }
    buffer_append_string(&rows, "]}\n");
  }
  char *path = write_file("long.jsonl", rows.data);
  buffer_release(&rows);
  return path;
}

// The number behind `what` in `text`.
static double number_after(const char *text, const char *what) {
  const char *at = strstr(text, what);
  double value;
  if (!at || sscanf(at + strlen(what), "%lf", &value) != 1) fail_msg("no number after \"%s\" in: %s", what, text);
  return value;
}

typedef struct Within {
  int64_t peak, recomputed;  // bytes; layers
  double loss, gradient;  // of the last step
} Within;

// A run over 64 rows of 512 tokens, all in one micro-batch unless `more` says else, within `max_memory` bytes: what it logged.
static Within run_within(int64_t max_memory, const char *more, int expected, const char *word) {
  Buffer output = {0}, metrics = {0};
  char *data = write_long_rows(64), *recipe = training_recipe("long.yml", tiny_gguf, "long", "");
  int code = run_program(&output,
                         "train %s --datasets.0.path %s --sequence_len 512 --micro_batch_size 64 --max_steps 2 --threads 2 "
                         "--gradient_accumulation_steps 1 --max_memory %lld %s",
                         recipe, data, (long long)max_memory, more);
  if (code != expected || !strstr(output.data, word)) fail_msg("exit code %d, or no \"%s\" in: %s", code, word, output.data);
  Within run = {0};
  if (expected == 0) {
    read_whole(&metrics, "long/metrics.jsonl");
    const char *last = strstr(metrics.data, "\"step\": 2, \"epoch\""), *layers = strstr(output.data, "; activations ");
    run = (Within){.peak = (int64_t)number_after(last, "\"peak_memory_bytes\": "),
                   .recomputed = (int64_t)number_after(layers, "iB, "),
                   .loss = number_after(last, "\"loss\": "),
                   .gradient = number_after(last, "\"grad_norm\": ")};
  }
  buffer_release(&output);
  buffer_release(&metrics);
  free(data);
  free(recipe);
  return run;
}

static void max_memory_is_kept_by_recomputing_layers_or_refused_before_the_first_step(void **state) {
  (void)state;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  skip_test("a sanitizer's own memory is more than the program's");
#endif
  Within plain = run_within((int64_t)16 << 30, "", 0, " 0 of "), before = plain;
  for (int percent = 95; percent >= 65; percent -= 10) {
    Within run = run_within(plain.peak * percent / 100, "", 0, " layers recomputed");
    if (!(run.peak <= plain.peak * percent / 100))
      fail_msg("%lld bytes of %lld", (long long)run.peak, (long long)plain.peak * percent / 100);
    assert_true(run.recomputed >= before.recomputed);
    assert_true(run.loss == plain.loss && run.gradient == plain.gradient);
    before = run;
  }
  assert_true(before.recomputed > 0);
  run_within(plain.peak / 10, "", 4, "even with every layer recomputed");
}

static void what_max_memory_has_no_room_for_is_refused_with_its_remedy(void **state) {
  (void)state;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  skip_test("a sanitizer's own memory is more than the program's");
#endif
  const int64_t megabyte = 1 << 20, small = 128 * megabyte;
  run_within(small, "--gradient_checkpointing false", 4, "set gradient_checkpointing: true, a smaller micro_batch_size or sequence_len");
  run_within(small, "--gradient_checkpointing true", 4, "set a smaller micro_batch_size or sequence_len, or a larger max_memory");
  run_within(megabyte, "", 4, "there is room for 0 B");  // less than the program takes without activations
  // The evaluation, too, is planned before the first step.
  const char *evaluation = "--micro_batch_size 1 --val_set_size 40 --eval_steps 1 --eval_batch_size";
  char *single = memory_format("%s 1", evaluation), *all = memory_format("%s 40", evaluation);
  assert_true(run_within(84 * megabyte, single, 0, "eval_loss").peak <= 84 * megabyte);
  run_within(84 * megabyte, all, 4, "set a smaller eval_batch_size or sequence_len, or a larger max_memory");
  free(single);
  free(all);
}

// The number with its unit (B to GiB) at the end of `text`'s line that begins with `what`, in bytes; or before a share.
static double bytes_of(const char *text, const char *what) {
  const char *line = strstr(text, what);
  double value;
  char unit[8];
  if (!line || sscanf(line + strlen(what), " %lf %7s", &value, unit) != 2) fail_msg("no bytes of \"%s\" in: %s", what, text);
  return value * (*unit == 'G' ? 1 << 30 : *unit == 'M' ? 1 << 20 : *unit == 'K' ? 1 << 10 : 1);
}

// Each step's share of the peak: the flop that the profile counts, by the time that the step took.
static void check_peak_shares(const char *output, double profiled_flop) {
  Buffer metrics = {0};
  read_whole(&metrics, "profiled/metrics.jsonl");
  double peak = 1e9 * number_after(output, "products at most "), flop = 0;
  for (char *line = strtok(metrics.data, "\n"); line; line = strtok(NULL, "\n")) {
    if (strstr(line, "eval_loss")) continue;
    double share = number_after(line, "\"peak_share\": ");
    assert_true(share > 0 && share <= 1);
    flop += share * peak * number_after(line, "\"tokens\": ") / number_after(line, "\"tokens_per_second\": ");
  }
  if (!(fabs(flop / profiled_flop - 1) < 0.1))
    fail_msg("steps of %g flop by their share of the peak, %g by the profile", flop, profiled_flop);
  buffer_release(&metrics);
}

static void a_profile_accounts_for_time_and_memory(void **state) {
  (void)state;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  skip_test("a sanitizer's own memory is more than the program's");
#endif
  Buffer output = {0};
  char *data = write_long_rows(32), *recipe = training_recipe("profiled.yml", tiny_gguf, "profiled", "");
  assert_int_equal(run_program(&output,
                               "train %s --profile --datasets.0.path %s --sequence_len 512 --micro_batch_size 16 --max_steps 2 "
                               "--threads 2 --gradient_accumulation_steps 1",
                               recipe, data),
                   0);
  // Time: the largest first, and the shares add up.
  const char *table = strstr(output.data, "op               direction");
  assert_non_null(table);
  double sum = 0, before = INFINITY, share, flop = 0, seconds, rate;
  for (const char *line = strchr(table, '\n') + 1; *line != '\n'; line = strchr(line, '\n') + 1) {
    if (sscanf(line + 36, "%lf %*f%% %lf", &seconds, &rate) == 2) flop += seconds * rate * 1e9;
    const char *percent = strchr(line, '%');
    while (percent[-1] != ' ') percent--;
    assert_int_equal(sscanf(percent, "%lf%%", &share), 1);
    if (strncmp(line, "the rest", 8) != 0) assert_true(share <= before);
    before = share;
    sum += share;
  }
  assert_true(fabs(sum - 100) < 2);
  check_peak_shares(output.data, flop);
  // Memory: the largest first, and the sum is what the process took.
  double largest = INFINITY, parts = 0;
  const char *first = strstr(table, "\n\n") + 2;
  for (const char *line = first; strncmp(line, "together", 8) != 0; line = strchr(line, '\n') + 1) {
    char name[40];
    snprintf(name, sizeof name, "%.36s", line);
    double bytes = bytes_of(line, name);
    assert_true(bytes <= largest * 1.01);
    largest = bytes;
    parts += bytes;
  }
  double peak = bytes_of(first, "the process at its largest");
  assert_true(fabs(bytes_of(first, "together") / parts - 1) < 0.02);
  if (!(fabs(parts / peak - 1) < 0.15)) fail_msg("the sum of all purposes is %g of the peak: %s", parts / peak, table);
  buffer_release(&output);
  free(data);
  free(recipe);
}

static void an_adapter_of_another_model_is_refused(void **state) {
  (void)state;
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "");
  assert_runs("train %s %s", recipe, "");
  char *path = memory_format("%s/out/adapter_model.safetensors", test_folder),
       *more = memory_format("--lora_model_dir %s/out --output_dir %s/next", test_folder, test_folder);
  assert_runs("train %s %s", recipe, more);
  // Its tensors under another layer's name.
  FileMap map;
  assert_ok(file_map(&map, path));
  char *bytes = memory_new(map.size, 1);
  memcpy(bytes, map.data, map.size);
  char *name = memmem(bytes, map.size, "layers.0.self_attn.q_proj.lora_A", 32);
  assert_non_null(name);
  name[7] = '9';
  assert_ok(file_write_whole(path, bytes, map.size));
  file_unmap(&map);
  assert_refused(STATUS_BAD_INPUT, recipe, more, "adapter_model.safetensors", "q_proj");
  free(bytes);
  free(path);
  free(more);
  free(recipe);
}

static void a_full_disk_has_its_own_exit_code_and_leaves_earlier_checkpoints(void **state) {
  (void)state;
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "");
  assert_runs("train %s %s", recipe, "");
  char *command = memory_format("trap '' XFSZ; ulimit -f 8; '%s' train %s --output_dir %s/full >/dev/null 2>%s/errors", LORA_PROGRAM,
                                recipe, test_folder, test_folder);
  int code = system(command);
  assert_int_equal(code >> 8, STATUS_NO_SPACE);
  Buffer errors = {0};
  read_whole(&errors, "errors");
  assert_non_null(strstr(errors.data, "full/"));
  char *checkpoint = memory_format("%s/full/checkpoint-4", test_folder);
  assert_false(directory_exists(checkpoint));  // half-written ones are not seen
  buffer_release(&errors);
  free(command);
  free(checkpoint);
  free(recipe);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(leaves_the_adapter_its_card_metrics_and_checkpoints),
      unit_test_in_folder(the_chat_template_of_the_training_goes_with_the_adapter),
      unit_test_in_folder(export_merges_what_the_recipe_asks_for),
      unit_test_in_folder(resuming_gives_the_bits_of_an_uninterrupted_run),
      unit_test_in_folder(moments_in_8_bits_train_as_well_as_in_float32_and_resume_exactly),
      unit_test_in_folder(streaming_trains_on_the_same_rows_and_resumes_exactly),
      unit_test_in_folder(streaming_tells_of_the_first_chunk_once_and_of_what_the_others_lose),
      unit_test_in_folder(a_signal_leaves_a_checkpoint_of_the_last_step_to_go_on_from),
      unit_test_in_folder(threads_do_not_change_the_adapter),
      unit_test_in_folder(bad_models_are_refused_by_name),
      unit_test_in_folder(bad_recipes_and_rows_are_refused_with_their_place),
      unit_test_in_folder(max_memory_is_kept_by_recomputing_layers_or_refused_before_the_first_step),
      unit_test_in_folder(what_max_memory_has_no_room_for_is_refused_with_its_remedy),
      unit_test_in_folder(a_profile_accounts_for_time_and_memory),
      unit_test_in_folder(an_adapter_of_another_model_is_refused),
      unit_test_in_folder(a_full_disk_has_its_own_exit_code_and_leaves_earlier_checkpoints),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
