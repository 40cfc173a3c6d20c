// `lora eval`: tasks over a model, with its adapters or without, or both beside each other.
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/command.h"
#include "cli/loaded_model.h"
#include "cli/model_options.h"
#include "core/log.h"
#include "eval/report.h"

typedef struct EvalCommand {
  const char *model, *tasks, *data, *output, *samples, *responses;
  ArgumentList adapters, stops;
  int64_t limit, shots, context, parallel, max_tokens;
  bool chat, compare, allows_code, is_deterministic;
} EvalCommand;

// All that is open while tasks are run.
typedef struct EvalRun {
  EvalCommand *command;
  LoadedModel loaded;
  Responses responses;
  FileWriter samples, results;
  TaskSet *sets;
  ReportEntry *entries;
  int count, capacity;
} EvalRun;

// ---- Tasks ----

static Status open_set(EvalRun *run, const char *name) {
  const EvalCommand *command = run->command;
  TaskSet set;
  Status status = task_set_open(&set, name, command->data, command->shots, command->limit);
  if (status == STATUS_OK && set.task->runs_code && !command->allows_code)
    status = status_fail(STATUS_USAGE,
                         "eval: %s runs programs that a model wrote, in a sandbox (docs/evaluation.md); allow it by --allow-code-execution",
                         name);
  if (status == STATUS_OK && command->responses && set.task->kind != TASK_TEXT)
    status = status_fail(STATUS_USAGE, "eval: --responses are for tasks whose answers are texts, and %s scores choices", name);
  for (int i = 0; i < run->count && status == STATUS_OK; i++)
    if (strcmp(run->sets[i].name, set.name) == 0) status = status_fail(STATUS_USAGE, "eval: the task %s is named twice", name);
  if (status == STATUS_OK) log_info("%s: %lld items", name, (long long)set.item_count);
  ARRAY_PUSH(run->sets, run->count, run->capacity) = set;
  return status;
}

static Status open_sets(EvalRun *run) {
  if (!run->command->tasks) {
    Buffer names = {0};
    for (int i = 0; i < task_count(); i++) buffer_format(&names, "%s%s", i ? ", " : "", task_at(i)->name);
    Status status = status_fail(STATUS_USAGE, "eval: --tasks A,B is missing: %s, or files of rows", names.data);
    buffer_release(&names);
    return status;
  }
  char *words = memory_copy_string(run->command->tasks), *rest;
  Status status = STATUS_OK;
  for (char *word = strtok_r(words, ",", &rest); word && status == STATUS_OK; word = strtok_r(NULL, ",", &rest))
    status = open_set(run, word);
  if (status == STATUS_OK && run->count == 0) status = status_fail(STATUS_USAGE, "eval: --tasks names no task");
  free(words);
  if (run->count) run->entries = memory_new((size_t)run->count, sizeof *run->entries);
  for (int i = 0; i < run->count; i++) run->entries[i].set = &run->sets[i];
  return status;
}

// ---- Passes ----

// All tasks once, by the model as it is now; `is_base`: beside its adapters.
static Status run_pass(EvalRun *run, bool is_base) {
  const EvalCommand *command = run->command;
  bool has_adapter = command->adapters.count > 0;
  EvaluateOptions options = {.tokenizer = run->loaded.tokenizer,
                             .chat = run->loaded.chat,
                             .stops = command->stops.items,
                             .stop_count = command->stops.count,
                             .max_tokens = command->max_tokens,
                             .allows_code = command->allows_code,
                             .responses = command->responses ? &run->responses : NULL,
                             .samples = command->samples ? &run->samples : NULL,
                             .label = command->responses        ? "responses"
                                      : has_adapter && !is_base ? "adapter"
                                                                : "base"};
  Scorer scorer = {0};
  Status status = STATUS_OK;
  if (!command->responses) status = scorer_open(&scorer, run->loaded.model, run->loaded.tokenizer, command->context, command->parallel);
  for (int i = 0; i < run->count && status == STATUS_OK; i++) {
    TaskResult *result = is_base && command->compare ? &run->entries[i].base : &run->entries[i].result;
    status = task_evaluate(result, &run->sets[i], &scorer, &options);
  }
  scorer_close(&scorer);
  return status;
}

static Status run_passes(EvalRun *run) {
  if (!run->command->compare) return run_pass(run, run->command->adapters.count == 0);
  for (int i = 0; i < run->count; i++) run->entries[i].has_base = true;
  adapter_set_enabled(run->loaded.adapter, false);
  Status status = run_pass(run, true);
  adapter_set_enabled(run->loaded.adapter, true);
  return status == STATUS_OK ? run_pass(run, false) : status;
}

// ---- Results ----

static json_t *config_json(const EvalCommand *command) {
  json_t *adapters = json_array();
  for (int i = 0; i < command->adapters.count; i++) json_array_append_new(adapters, json_string(command->adapters.items[i]));
  return json_pack("{s:s, s:s?, s:o, s:o, s:o, s:b, s:b, s:I, s:I}", "tasks", command->tasks, "data", command->data, "adapters", adapters,
                   "shots", command->shots < 0 ? json_null() : json_integer(command->shots), "limit",
                   command->limit > 0 ? json_integer(command->limit) : json_null(), "chat", (int)command->chat, "compare",
                   (int)command->compare, "context", (json_int_t)command->context, "max_tokens", (json_int_t)command->max_tokens);
}

static Status write_results(EvalRun *run, bool json) {
  const EvalCommand *command = run->command;
  json_t *object = json_pack("{s:o, s:s?, s:o}", "results", task_report_json(run->entries, run->count), "model", command->model, "config",
                             config_json(command));
  char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
  json_decref(object);
  if (!text) return status_fail(STATUS_FAILED, "eval: a path or name is no UTF-8 text, so that the results can't be written as JSON");
  if (command->output) file_write(&run->results, text, strlen(text));
  if (json) printf("%s\n", text);
  else task_report_print(stdout, run->entries, run->count);
  free(text);
  return STATUS_OK;
}

static Status check(const EvalCommand *command) {
  if (command->compare && command->adapters.count == 0) return status_fail(STATUS_USAGE, "eval: --compare goes with --adapter A");
  if (command->responses && (command->model || command->compare || command->chat))
    return status_fail(STATUS_USAGE, "eval: with --responses no model is run: leave --model, --chat and --compare away");
  return STATUS_OK;
}

static Status open_inputs(EvalRun *run, const Arguments *arguments) {
  EvalCommand *command = run->command;
  TRY(check(command));
  TRY(open_sets(run));
  if (command->responses) return responses_read(&run->responses, command->responses);
  TRY(loaded_model_open(&run->loaded, "eval", command->model, &command->adapters, arguments));
  run->loaded.backend->is_deterministic = command->is_deterministic;
  return command->chat ? loaded_model_open_chat(&run->loaded, &command->stops) : STATUS_OK;
}

static Status close_file(FileWriter *file, bool is_open, Status status) {
  if (is_open && status == STATUS_OK) return file_writer_commit(file);
  if (is_open) file_writer_abandon(file);
  return status;
}

static Status run_command(EvalCommand *command, const Arguments *arguments) {
  EvalRun run = {.command = command};
  Status status = open_inputs(&run, arguments);
  // Both files are opened before hours of work, not after them.
  bool has_samples = status == STATUS_OK && command->samples;
  if (has_samples) status = file_writer_open(&run.samples, command->samples);
  has_samples = has_samples && status == STATUS_OK;
  bool has_results = status == STATUS_OK && command->output;
  if (has_results) status = file_writer_open(&run.results, command->output);
  has_results = has_results && status == STATUS_OK;
  if (status == STATUS_OK) status = run_passes(&run);
  status = close_file(&run.samples, has_samples, status);
  if (status == STATUS_OK) status = write_results(&run, arguments->json);
  status = close_file(&run.results, has_results, status);
  for (int i = 0; i < run.count; i++) {
    if (run.entries) task_result_release(&run.entries[i].result), task_result_release(&run.entries[i].base);
    task_set_release(&run.sets[i]);
  }
  free(run.entries);
  free(run.sets);
  responses_release(&run.responses);
  loaded_model_release(&run.loaded);
  return status;
}

Status command_eval(int argc, char **argv) {
  EvalCommand command = {.shots = -1, .parallel = 8};
  const Option options[] = {
      model_option(&command.model),
      adapter_option(&command.adapters),
      deterministic_option(&command.is_deterministic),
      {.name = "tasks",
       .kind = OPTION_STRING,
       .value = &command.tasks,
       .argument = "A,B",
       .help = "names, or paths of files of rows (.jsonl)"},
      {.name = "data", .kind = OPTION_STRING, .value = &command.data, .argument = "FOLDER", .help = "where the rows of named tasks are"},
      {.name = "shots",
       .kind = OPTION_INTEGER,
       .value = &command.shots,
       .argument = "N",
       .help = "worked examples before each item (default: the task's own)",
       .min = 0,
       .max = 100},
      {.name = "limit",
       .kind = OPTION_INTEGER,
       .value = &command.limit,
       .argument = "N",
       .help = "the first N items of each file (default: all)",
       .min = 1,
       .max = 1e9},
      {.name = "compare",
       .kind = OPTION_FLAG,
       .value = &command.compare,
       .help = "the base as well, over the same items: differences with a 95% confidence interval"},
      {.name = "chat", .kind = OPTION_FLAG, .value = &command.chat, .help = "ask for texts in the model's chat template"},
      {.name = "output", .kind = OPTION_STRING, .value = &command.output, .argument = "F.json", .help = "the results as JSON"},
      {.name = "samples", .kind = OPTION_STRING, .value = &command.samples, .argument = "F.jsonl", .help = "a line for each item"},
      {.name = "responses",
       .kind = OPTION_STRING,
       .value = &command.responses,
       .argument = "F.jsonl",
       .help = "rows {prompt, response} to judge, in place of a model"},
      {.name = "allow-code-execution",
       .kind = OPTION_FLAG,
       .value = &command.allows_code,
       .help = "run programs that the model writes, in a sandbox (humaneval; needs python3)"},
      {.name = "max-tokens",
       .kind = OPTION_INTEGER,
       .value = &command.max_tokens,
       .argument = "N",
       .help = "of an answer (default: the task's own)",
       .min = 1,
       .max = 1e9},
      {.name = "context",
       .kind = OPTION_INTEGER,
       .value = &command.context,
       .argument = "N",
       .help = "tokens of prompt and answer at most (default: what the model was made for)",
       .min = 2,
       .max = 1e9},
      {.name = "parallel",
       .kind = OPTION_INTEGER,
       .value = &command.parallel,
       .argument = "N",
       .help = "items that are worked on at once (default: 8)",
       .min = 1,
       .max = 1024},
  };
  const CommandLine line = {
      .name = "eval",
      .usage = "--model MODEL [--adapter A[:SCALE]]... --tasks A,B --data FOLDER [--compare] [options]",
      .summary =
          "Scores a model on tasks by the rules of lm-evaluation-harness: arc_easy, arc_challenge, piqa, winogrande, boolq,\n"
          "openbook_qa, lambada, mmlu, gsm8k, math500, ifeval, humaneval, and any JSONL of {query, choices, gold}.",
      .options = options,
      .option_count = sizeof options / sizeof options[0]};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) status = run_command(&command, &arguments);
  free(command.adapters.items);
  free(command.stops.items);
  arguments_release(&arguments);
  return status;
}
