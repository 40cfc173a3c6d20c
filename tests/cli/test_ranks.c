#define _GNU_SOURCE
// Runs of several processes under mpirun as a user meets them, on the tiny model: they train as one process does, whatever the data; they stop
// together when one is gone; and they notice what is not the same on all of them.
#include <jansson.h>
#include <math.h>
#include <sys/wait.h>

#include "core/file.h"
#include "core/log.h"
#include "formats/safetensors.h"
#include "tests/support/training.h"

// Open MPI asks an administrator for a word of his own, and wants to be told that there are more ranks than processors.
#define MPIRUN "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe "

static int run_shell(Buffer *output, const char *format, ...) PRINTF_LIKE(2, 3);
static int run_shell(Buffer *output, const char *format, ...) {
  char command[8192];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(command, sizeof command, format, arguments);
  va_end(arguments);
  char *all = memory_format("{ %s; } </dev/null 2>&1", command);
  FILE *pipe = popen(all, "r");
  free(all);
  assert_non_null(pipe);
  char bytes[4096];
  for (size_t got; (got = fread(bytes, 1, sizeof bytes, pipe)) > 0;)
    if (output) buffer_append(output, bytes, got);
  int status = pclose(pipe);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void need_mpirun(void) {
  if (run_shell(NULL, "command -v mpirun && test -e '%.*s/liblora_mpi.so'", (int)(strlen(LORA_PROGRAM) - strlen("/lora")), LORA_PROGRAM) !=
      0)
    skip_test("runs of several processes need Open MPI (libopenmpi-dev, openmpi-bin)");
}

static void train_ranks(int ranks, const char *recipe, const char *more) {
  Buffer output = {0};
  int code = ranks == 1 ? run_program(&output, "train %s %s", recipe, more)
                        : run_shell(&output, MPIRUN "-n %d '%s' train %s %s", ranks, LORA_PROGRAM, recipe, more);
  if (code != 0) fail_msg("%d ranks, %s: exit code %d: %s", ranks, more, code, output.data ? output.data : "");
  buffer_release(&output);
}

// ---- The same run

// Whether all lines of two metrics.jsonl have the same counts, and losses, figures and norms within 1e-5.
static void assert_same_losses(const char *one, const char *other) {
  static const char *const keys[] = {"step",      "epoch",     "tokens",          "trained_tokens",       "loss",
                                     "eval_loss", "grad_norm", "rewards/margins", "eval_rewards/margins", "load_balancing_loss"};
  Buffer texts[2] = {{0}, {0}};
  char *first, *second, *paths[] = {memory_format("%s/metrics.jsonl", one), memory_format("%s/metrics.jsonl", other)};
  for (int i = 0; i < 2; i++) read_whole(&texts[i], paths[i]);
  char *line = strtok_r(texts[0].data, "\n", &first), *twin = strtok_r(texts[1].data, "\n", &second);
  for (int count = 0; line || twin; count++) {
    if (!line || !twin) fail_msg("%s and %s have not the same number of lines", one, other);
    json_t *a = json_loads(line, 0, NULL), *b = json_loads(twin, 0, NULL);
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
      const json_t *x = json_object_get(a, keys[k]), *y = json_object_get(b, keys[k]);
      assert_int_equal(x == NULL, y == NULL);
      if (!x) continue;
      double u = json_number_value(x), v = json_number_value(y), scale = strstr(keys[k], "margins") ? fmax(fabs(u), 1) : fabs(u);
      if (!(fabs(u - v) <= 1e-5 * scale)) fail_msg("line %d: %s is %.9g in %s and %.9g in %s", count + 1, keys[k], u, one, v, other);
    }
    json_decref(a), json_decref(b);
    line = strtok_r(NULL, "\n", &first), twin = strtok_r(NULL, "\n", &second);
  }
  for (int i = 0; i < 2; i++) buffer_release(&texts[i]), free(paths[i]);
}

// The largest difference of two adapters' values, by the largest value.
static double adapter_difference(const char *one, const char *other) {
  Safetensors files[2];
  const char *const names[] = {one, other};
  for (int i = 0; i < 2; i++) {
    char *path = memory_format("%s/%s/adapter_model.safetensors", test_folder, names[i]);
    assert_ok(safetensors_open(&files[i], path));
    free(path);
  }
  double difference = 0, largest = 0;
  assert_int_equal(files[0].tensor_count, files[1].tensor_count);
  for (int64_t t = 0; t < files[0].tensor_count; t++) {
    const SafetensorsTensor *a = &files[0].tensors[t], *b = safetensors_find(&files[1], a->name);
    assert_non_null(b);
    assert_int_equal(a->bytes, b->bytes);
    const float *x = (const float *)a->data, *y = (const float *)b->data;
    for (size_t i = 0; i < a->bytes / sizeof *x; i++) {
      assert_true(isfinite(x[i]) && isfinite(y[i]));
      difference = fmax(difference, fabs((double)x[i] - y[i]));
      largest = fmax(largest, fabs((double)x[i]));
    }
  }
  for (int i = 0; i < 2; i++) safetensors_close(&files[i]);
  return difference / largest;
}

// 12 rows less 2 for evaluation: 5 micro-batches an epoch, so that each second step is short, and one rank has less to do or nothing.
static const char shared_keys[] = "bf16: false\n";

static void compare_ranks(const char *recipe, const char *more, int accumulation) {
  char *one = memory_format("%s --gradient_accumulation_steps %d --output_dir %s/ranks1", more, accumulation, test_folder);
  train_ranks(1, recipe, one);
  for (int ranks = 2; ranks <= 4; ranks *= 2) {
    char *name = memory_format("ranks%d", ranks);
    char *many = memory_format("%s --gradient_accumulation_steps %d --output_dir %s/%s", more, accumulation / ranks, test_folder, name);
    train_ranks(ranks, recipe, many);
    assert_same_losses("ranks1", name);
    double difference = adapter_difference("ranks1", name);
    if (difference > 1e-5) fail_msg("%s: the adapter of %d ranks differs by %g", more, ranks, difference);
    free(name), free(many);
  }
  free(one);
}

// Plain gradient descent shows the gradients' own rounding; AdamW would take it times 1 / sqrt(v).
static void ranks_train_as_one_process(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", shared_keys);
  compare_ranks(recipe, "--optimizer sgd --learning_rate 0.1", 4);
  compare_ranks(recipe, "--optimizer sgd --learning_rate 0.1 --sample_packing true --micro_batch_size 1", 4);
  free(recipe);
}

static void ranks_compare_replies_as_one_process(void **state) {
  (void)state;
  need_mpirun();
  char *pairs = write_preference_rows(true), *marks = write_preference_rows(false);
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\nlora_dropout: 0\n");
  char *dpo = memory_format("--rl dpo --optimizer sgd --learning_rate 0.1 --datasets.0.path %s", pairs);
  char *before = memory_format("%s --precompute_ref_log_probs true --rpo_alpha 0.5", dpo);
  char *kto = memory_format("--rl kto --optimizer sgd --learning_rate 0.1 --datasets.0.path %s", marks);
  compare_ranks(recipe, dpo, 4);
  compare_ranks(recipe, before, 4);
  compare_ranks(recipe, kto, 4);
  free(pairs), free(marks), free(recipe), free(dpo), free(before), free(kto);
}

static void a_checkpoint_goes_on_with_another_number_of_ranks(void **state) {
  (void)state;
  need_mpirun();
  char *recipe =
      training_recipe("recipe.yml", tiny_gguf, "whole", "bf16: false\noptimizer: sgd\nlearning_rate: 0.1\nsave_total_limit: 9\n");
  train_ranks(2, recipe, "");
  static const struct {
    int ranks;
    const char *more;
  } others[] = {{1, ""}, {4, ""}, {1, "--gradient_accumulation_steps 4"}, {4, "--gradient_accumulation_steps 1"}};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    char *copy = memory_format("rm -rf %s/again; cp -r %s/whole %s/again; rm -rf %s/again/checkpoint-8", test_folder, test_folder,
                               test_folder, test_folder);
    char *more = memory_format("%s --output_dir %s/again --resume %s/again/checkpoint-4", others[i].more, test_folder, test_folder);
    assert_int_equal(run_shell(NULL, "%s", copy), 0);
    train_ranks(others[i].ranks, recipe, more);
    assert_same_losses("whole", "again");
    double difference = adapter_difference("whole", "again");
    if (difference > 1e-5) fail_msg("%d ranks %s: the adapter differs by %g", others[i].ranks, others[i].more, difference);
    free(copy), free(more);
  }
  // A step of another size is another recipe.
  assert_refused(3, recipe, "--gradient_accumulation_steps 3 --resume", "another recipe", "checkpoint");
  free(recipe);
}

// ---- Ends

typedef struct Ended {
  int code;
  double seconds;  // from the signal to the end
  Buffer output;
} Ended;

// Starts a long run of 2 ranks, waits until it has checkpoints, lets `act` do something to it ($mpirun, $first and $second are the processes'
// numbers), and waits for its end.
static Ended end_by(const char *recipe, const char *more, const char *act) {
  Ended ended = {0};
  char *log = path_join(test_folder, "log"), *folder = path_join(test_folder, "out");
  char *command = memory_format(
      MPIRUN
      "-n 2 '%s' train %s --max_steps 1000000 --save_steps 5 --eval_steps 1000000 --logging_steps 1000000 %s >%s 2>&1 & mpirun=$!; "
      "for i in $(seq 600); do ls -d %s/checkpoint-10 >/dev/null 2>&1 && break; sleep 0.1; done; "
      "set -- $(pgrep -P $mpirun | sort -n); first=$1; second=$2; date +%%s.%%N >%s.time; %s; "
      "for i in $(seq 900); do kill -0 $mpirun 2>/dev/null || break; sleep 0.1; done; kill -9 $mpirun 2>/dev/null; wait $mpirun; code=$?; "
      "date +%%s.%%N >>%s.time; exit $code",
      LORA_PROGRAM, recipe, more, log, folder, log, act, log);
  ended.code = run_shell(NULL, "%s", command);
  read_whole(&ended.output, "log");
  Buffer times = {0};
  read_whole(&times, "log.time");
  double begin = 0, end = 0;
  assert_int_equal(sscanf(times.data, "%lf %lf", &begin, &end), 2);
  ended.seconds = end - begin;
  buffer_release(&times);
  free(log), free(folder), free(command);
  return ended;
}

// The newest checkpoint is whole: another run of one process goes on from it.
static void assert_resumes(const char *recipe) {
  Buffer output = {0};
  int64_t newest = -1;
  assert_int_equal(run_shell(&output, "ls %s/out | sed -n 's/^checkpoint-\\([0-9]*\\)$/\\1/p' | sort -n | tail -1", test_folder), 0);
  newest = strtoll(output.data, NULL, 10);
  assert_true(newest >= 10);
  output.length = 0;
  int code = run_program(
      &output,
      "train %s --resume --max_steps 1000000 --num_epochs 1 --lr_scheduler constant 2>&1 & pid=$!; sleep 2; kill -TERM $pid; wait $pid",
      recipe);
  char *word = memory_format("checkpoint-%lld", (long long)newest);
  if (code != 143 || !strstr(output.data, word)) fail_msg("exit code %d, or %s was not resumed from: %s", code, word, output.data);
  free(word);
  buffer_release(&output);
}

static void a_hung_rank_is_named_and_all_stop(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\nlr_scheduler: constant\nddp_timeout: 3\n");
  static const char *const acts[] = {"kill -STOP $second", "kill -STOP $first"};
  for (int hung = 0; hung < 2; hung++) {
    Ended ended = end_by(recipe, "", acts[hung]);
    const char *name = hung == 0 ? "rank 1 (" : "rank 0 (", *after = "did not come to";
    const char *found = strstr(ended.output.data, after);
    if (ended.code != 1 || !found || !strstr(ended.output.data, name)) fail_msg("exit code %d: %s", ended.code, ended.output.data);
    while (found > ended.output.data && found[-1] != '\n' && strncmp(found, name, strlen(name)) != 0) found--;
    assert_memory_equal(found, name, strlen(name));
    if (ended.seconds > 3 + 30) fail_msg("it took %g s", ended.seconds);
    buffer_release(&ended.output);
    assert_resumes(recipe);
    assert_int_equal(run_shell(NULL, "rm -rf %s/out", test_folder), 0);
  }
  free(recipe);
}

static void a_dead_rank_is_named_and_all_stop(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\nlr_scheduler: constant\nddp_timeout: 3\n");
  Ended ended = end_by(recipe, "", "kill -KILL $second");
  if (ended.code == 0 || !strstr(ended.output.data, "rank 1")) fail_msg("exit code %d: %s", ended.code, ended.output.data);
  if (ended.seconds > 3 + 30) fail_msg("it took %g s", ended.seconds);
  buffer_release(&ended.output);
  assert_resumes(recipe);
  free(recipe);
}

static void a_signal_to_mpirun_checkpoints_and_stops(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\nlr_scheduler: constant\n");
  Ended ended = end_by(recipe, "", "kill -USR1 $mpirun");
  if (ended.code != 143 || !strstr(ended.output.data, "stopped by a signal after step"))
    fail_msg("exit code %d: %s", ended.code, ended.output.data);
  const char *told = strstr(ended.output.data, "stopped by a signal after step");
  assert_null(strstr(told + 1, "stopped by a signal"));  // one rank tells
  int64_t step = strtoll(told + strlen("stopped by a signal after step"), NULL, 10);
  char *folder = memory_format("out/checkpoint-%lld/manifest.json", (long long)step), *path = path_join(test_folder, folder);
  assert_true(file_exists(path));
  buffer_release(&ended.output);
  assert_resumes(recipe);
  free(folder), free(path), free(recipe);
}

// ---- What is not the same

static void assert_ranks_refused(int code, const char *word, const char *word2, const char *format, ...) PRINTF_LIKE(4, 5);
static void assert_ranks_refused(int code, const char *word, const char *word2, const char *format, ...) {
  char ranks[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(ranks, sizeof ranks, format, arguments);
  va_end(arguments);
  Buffer output = {0};
  double start = time_seconds();
  int got = run_shell(&output, MPIRUN "%s", ranks);
  if (got != code || !strstr(output.data, word) || !strstr(output.data, word2))
    fail_msg("exit code %d where %d was expected, or no \"%s\" or \"%s\" in: %s", got, code, word, word2, output.data);
  assert_true(time_seconds() - start < 30);
  buffer_release(&output);
}

static void ranks_that_differ_are_found_at_the_start(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\n");
  const char *lora = LORA_PROGRAM;
  assert_ranks_refused(2, "rank 1", "another recipe than rank 0's", "-n 1 '%s' train %s : -n 1 '%s' train %s --learning_rate 3e-2", lora,
                       recipe, lora, recipe);
  assert_ranks_refused(2, "\"learning_rate: 0.03", "rank 2", "-n 2 '%s' train %s : -n 1 '%s' train %s --learning_rate 0.03", lora, recipe,
                       lora, recipe);
  assert_ranks_refused(2, "rank 1", "instruction set", "-n 1 '%s' train %s : -n 1 -x LORA_CPU=scalar '%s' train %s", lora, recipe, lora,
                       recipe);
  // The same recipe in two folders with files of their own.
  static const char prepare[] =
      "for d in a b; do mkdir -p %s/$d; cp %s %s/$d/model.gguf; cp %s/rows.jsonl %s/$d/rows.jsonl; sed 's,%s/*,,; "
      "s,base_model:.*,base_model: "
      "model.gguf,' %s > %s/$d/recipe.yml; done; sed -i '2s/, 3/, 4/' %s/b/rows.jsonl";
  const char *f = test_folder;
  assert_int_equal(run_shell(NULL, prepare, f, tiny_gguf, f, f, f, f, recipe, f, f), 0);
  char *apart = memory_format("-n 1 sh -c 'cd %s/a && exec %s train recipe.yml' : -n 1 sh -c 'cd %s/b && exec %s train recipe.yml'", f,
                              lora, f, lora);
  assert_ranks_refused(2, "rank 1", "training rows", "%s", apart);
  assert_int_equal(run_shell(NULL, "cp %s/a/rows.jsonl %s/b/; '%s' quantize %s %s/b/model.gguf --type q4_0", test_folder, test_folder, lora,
                             tiny_gguf, test_folder),
                   0);
  assert_ranks_refused(2, "rank 1", "base model", "%s", apart);
  free(apart), free(recipe);
}

static void what_one_rank_cannot_do_ends_all(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\n");
  const char *lora = LORA_PROGRAM;
  assert_ranks_refused(2, "rank 1", "LORA_CPU=none", "-n 1 '%s' train %s : -n 1 -x LORA_CPU=none '%s' train %s", lora, recipe, lora,
                       recipe);
  assert_ranks_refused(3, "/nowhere", "no such file", "-n 2 '%s' train %s --base_model /nowhere", lora, recipe);
  assert_ranks_refused(2, "learning_rte", "learning_rate", "-n 2 '%s' train %s --learning_rte 1", lora, recipe);
  assert_ranks_refused(4, "rank 0", "File too large", "-n 1 sh -c 'ulimit -f 20; trap \"\" XFSZ; exec %s train %s' : -n 1 '%s' train %s",
                       lora, recipe, lora, recipe);
  free(recipe);
}

static void without_a_launcher_no_mpi_is_opened(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\n");
  assert_int_equal(run_shell(NULL, "LORA_MPI_LIBRARY=/nowhere '%s' train %s", LORA_PROGRAM, recipe), 0);
  assert_ranks_refused(2, "/nowhere", "Open MPI", "-n 2 -x LORA_MPI_LIBRARY=/nowhere '%s' train %s", LORA_PROGRAM, recipe);
  Buffer output = {0};
  assert_int_equal(run_shell(&output, "SLURM_STEP_NUM_TASKS=4 '%s' train %s", LORA_PROGRAM, recipe), 2);
  assert_non_null(strstr(output.data, "srun --mpi=pmix"));
  buffer_release(&output);
  free(recipe);
}

int main(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(ranks_train_as_one_process),
      unit_test_in_folder(ranks_compare_replies_as_one_process),
      unit_test_in_folder(a_checkpoint_goes_on_with_another_number_of_ranks),
      unit_test_in_folder(a_hung_rank_is_named_and_all_stop),
      unit_test_in_folder(a_dead_rank_is_named_and_all_stop),
      unit_test_in_folder(a_signal_to_mpirun_checkpoints_and_stops),
      unit_test_in_folder(ranks_that_differ_are_found_at_the_start),
      unit_test_in_folder(what_one_rank_cannot_do_ends_all),
      unit_test_in_folder(without_a_launcher_no_mpi_is_opened),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
