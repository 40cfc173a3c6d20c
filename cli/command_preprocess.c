// `lora preprocess`: a recipe's datasets as training will see them, without training: what was read, kept, cut
// and dropped, row by row, how well the rows pack, and some of them shown with their masks.
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include <jansson.h>

#include "cli/command.h"
#include "cli/hub_files.h"
#include "cli/options.h"
#include "core/log.h"
#include "core/thread.h"
#include "data/batch.h"
#include "data/dataset_stream.h"
#include "data/prepared.h"

typedef struct PreprocessOptions {
  int64_t debug;  // rows to show
  int64_t events;  // rows to report that were cut or dropped; -1: all
  bool ids, skip_bad_rows, json, colour;
} PreprocessOptions;

static Status show_plan(Buffer *out, const RowSet *rows, const Recipe *recipe, bool evaluation) {
  BatchOptions options = batch_options_from_recipe(recipe, evaluation);
  BatchPlan plan;
  TRY(batch_plan_create(&plan, rows, &options, 0));
  buffer_format(out, "sequences: %" PRId64 " in %" PRId64 " micro-batches of %" PRId64 "; the largest has %" PRId64 " tokens",
                plan.sequence_count, plan.batch_count, plan.micro_batch_size, plan.most_tokens);
  if (options.packing) buffer_format(out, "; packed to %" PRId64 ", %.1f%% full", options.sequence_len, 100 * plan.efficiency);
  buffer_append_string(out, "\n");
  batch_plan_release(&plan);
  return STATUS_OK;
}

// How to read rows of preference training.
static void show_legend(Buffer *out, const TokenRow *row, bool colour) {
  const char *good = row->rejected ? "chosen" : "desirable", *bad = row->rejected ? "rejected" : "undesirable";
  if (colour) buffer_format(out, "\n\033[32m%s\033[0m: to move towards; \033[31m%s\033[0m: to move away from; ", good, bad);
  else buffer_format(out, "\n[[%s]]: to move towards; [[%s]]: to move away from; ", good, bad);
  buffer_format(out, "%sthe prompt is not trained\n", row->rejected ? "both stand behind the prompt by themselves; " : "");
}

static void show_rows(Buffer *out, const RowSet *rows, const Tokenizer *tokenizer, const PreprocessOptions *options) {
  for (int64_t r = 0; r < rows->count && r < options->debug; r++) {
    const TokenRow *row = &rows->rows[r];
    if (r == 0 && row_is_preference(row)) show_legend(out, row, options->colour);
    buffer_format(out, "\n--- %s: %" PRId64 " tokens, %" PRId64 " trained\n", row->source, row->count, row->trained);
    row_show(out, row, tokenizer, options->colour, options->ids);
  }
}

static Status show_set(Buffer *out, const char *title, const RowSet *rows, const Recipe *recipe, const Tokenizer *tokenizer,
                       bool evaluation, const PreprocessOptions *options) {
  buffer_format(out, "%s\n", title);
  row_set_describe(out, rows, options->events);
  if (rows->count) TRY(show_plan(out, rows, recipe, evaluation));
  show_rows(out, rows, tokenizer, options);
  return STATUS_OK;
}

static json_t *set_as_json(const RowSet *rows) {
  RowStatistics statistics = row_set_statistics(rows);
  json_t *events = json_array();
  for (int64_t i = 0; i < rows->report.event_count; i++) {
    const RowEvent *event = &rows->report.events[i];
    json_array_append_new(
        events, json_pack("{s:s, s:s, s:s}", "source", event->source, "fate", row_fate_name(event->fate), "reason", event->reason));
  }
  return json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:o}", "read", (json_int_t)rows->report.read, "rows", (json_int_t)rows->count, "tokens",
                   (json_int_t)statistics.tokens, "trained_tokens", (json_int_t)statistics.trained, "longest",
                   (json_int_t)statistics.longest, "mean", statistics.mean, "events", events);
}

static Status print_sets(const RowSet *train, const RowSet *evaluation, const Recipe *recipe, const Tokenizer *tokenizer,
                         const PreprocessOptions *options) {
  if (options->json) {
    json_t *result = json_pack("{s:o, s:o}", "train", set_as_json(train), "evaluation", set_as_json(evaluation));
    json_dumpf(result, stdout, JSON_COMPACT);
    printf("\n");
    json_decref(result);
    return STATUS_OK;
  }
  Buffer out = {0};
  Status status = show_set(&out, "training", train, recipe, tokenizer, false, options);
  if (status == STATUS_OK && (evaluation->count || evaluation->report.event_count))
    status = show_set(&out, "\nevaluation", evaluation, recipe, tokenizer, true, options);
  if (out.length) fwrite(out.data, 1, out.length, stdout);
  buffer_release(&out);
  return status;
}

// Of data that are streamed, the first chunk stands for all.
static Status read_chunk(RowSet *train, const Recipe *recipe, const Tokenizer *tokenizer, const DatasetOptions *options) {
  DatasetStream *stream;
  TRY(dataset_stream_open(&stream, recipe, tokenizer, options));
  Status status = dataset_stream_read(train, stream, 0);
  dataset_stream_close(stream);
  log_notice("the data are streamed: this is the first chunk of them");
  return status;
}

static Status preprocess(const char *path, const Arguments *arguments, const PreprocessOptions *options) {
  Recipe recipe;
  Tokenizer *tokenizer = NULL;
  RowSet train = {0}, evaluation = {0};
  ThreadPool *pool = NULL;
  Status status = recipe_load(&recipe, path, arguments->overrides, arguments->override_count);
  bool tokenizes = dataset_needs_tokenizer(&recipe) || options->debug;
  if (status == STATUS_OK) status = recipe_fetch(&recipe, tokenizes ? RECIPE_TOKENIZER | RECIPE_DATA : RECIPE_DATA);
  if (status == STATUS_OK && tokenizes) status = dataset_open_tokenizer(&tokenizer, &recipe);
  if (status == STATUS_OK) {
    pool = pool_new((int)arguments->threads);
    DatasetOptions how = {pool, options->skip_bad_rows, true};
    status = prepared_load(&train, &evaluation, &recipe, tokenizer, &how);
    if (status == STATUS_OK && dataset_is_streamed(&recipe)) status = read_chunk(&train, &recipe, tokenizer, &how);
  }
  if (status == STATUS_OK) status = print_sets(&train, &evaluation, &recipe, tokenizer, options);
  pool_free(pool);
  row_set_release(&train);
  row_set_release(&evaluation);
  tokenizer_free(tokenizer);
  recipe_release(&recipe);
  return status;
}

Status command_preprocess(int argc, char **argv) {
  PreprocessOptions chosen = {.events = 100};
  bool all = false;
  const Option options[] = {
      {.name = "debug",
       .kind = OPTION_INTEGER,
       .value = &chosen.debug,
       .argument = "N",
       .help = "show N rows: trained tokens in colour, masked ones grey; where the output is no terminal, trained text in [[...]]; with rl "
               "the better reply is green and the worse red",
       .min = 0,
       .max = 1e9},
      {.name = "ids", .kind = OPTION_FLAG, .value = &chosen.ids, .help = "with --debug: a token a line, with its id and its label"},
      {.name = "all", .kind = OPTION_FLAG, .value = &all, .help = "list every row that was cut or dropped, not only the first 100"},
      {.name = "skip-bad-rows",
       .kind = OPTION_FLAG,
       .value = &chosen.skip_bad_rows,
       .help = "count and list rows that cannot be read, instead of stopping at them"},
  };
  const CommandLine line = {.name = "preprocess",
                            .usage = "RECIPE [--debug N] [--key value]...",
                            .summary = "Tokenises the recipe's datasets as training would, and reports on them row by row.",
                            .options = options,
                            .option_count = sizeof options / sizeof options[0],
                            .min_positional = 1,
                            .max_positional = 1,
                            .positional = "RECIPE",
                            .takes_overrides = true};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (all) chosen.events = -1;
  chosen.json = arguments.json;
  chosen.colour = isatty(STDOUT_FILENO);
  if (status == STATUS_OK && !arguments.help) status = preprocess(arguments.positional.items[0], &arguments, &chosen);
  arguments_release(&arguments);
  return status;
}
