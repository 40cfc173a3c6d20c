// `lora eval-loss`: the loss of a model, with adapters or alone, over the rows that a recipe names.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/command.h"
#include "cli/hub_files.h"
#include "cli/model_options.h"
#include "core/log.h"
#include "trainer/evaluate.h"
#include "trainer/run.h"

typedef struct EvalLossCommand {
  ArgumentList adapters;
  bool training_rows;
} EvalLossCommand;

static void print_json(const Evaluation *evaluation, const RowStatistics *rows) {
  json_t *object = json_pack("{s:f, s:o, s:I, s:I, s:I}", "loss", evaluation->loss, "perplexity",
                             isnan(evaluation->perplexity) ? json_null() : json_real(evaluation->perplexity), "rows",
                             (json_int_t)rows->rows, "tokens", (json_int_t)rows->tokens, "trained_tokens", (json_int_t)rows->trained);
  for (int i = 0; i < evaluation->figures.count; i++) {
    const Figure *figure = &evaluation->figures.items[i];
    json_object_set_new(object, figure->name, isfinite(figure->value) ? json_real(figure->value) : json_null());
  }
  json_dumpf(object, stdout, JSON_COMPACT);
  printf("\n");
  json_decref(object);
}

static void print_text(const Evaluation *evaluation, const RowStatistics *rows) {
  printf("loss %.6f", evaluation->loss);
  if (!isnan(evaluation->perplexity)) printf("  perplexity %.4f", evaluation->perplexity);
  printf(" over %lld rows, %lld trained tokens\n", (long long)rows->rows, (long long)rows->trained);
  for (int i = 0; i < evaluation->figures.count; i++)
    printf("%s %.6g\n", evaluation->figures.items[i].name, evaluation->figures.items[i].value);
}

static Status measure(const EvalLossCommand *command, const Recipe *recipe, Model *model, Adapter *adapter, bool json) {
  Evaluation evaluation;
  RowStatistics rows;
  TRY(evaluate_rows(&evaluation, &rows, recipe, model, adapter, command->training_rows));
  if (!isfinite(evaluation.loss)) return status_fail(STATUS_FAILED, "eval-loss: the loss is not a number");
  (json ? print_json : print_text)(&evaluation, &rows);
  return STATUS_OK;
}

static Status run(EvalLossCommand *command, Recipe *recipe, const Arguments *arguments) {
  if (command->adapters.count == 0 && recipe->lora_model_dir)
    ARRAY_PUSH(command->adapters.items, command->adapters.count, command->adapters.capacity) = recipe->lora_model_dir;
  Backend *backend;
  Model *model = NULL;
  Adapter *adapter = NULL;
  char *template = NULL, *tokenizer = NULL;
  TRY(recipe_fetch(recipe, RECIPE_ALL));
  TRY(backend_new(&backend, recipe->device, (int)arguments->threads));
  ModelOptions options = run_model_options(recipe);
  Status status = adapter_arguments_vocabulary(&options.vocabulary, &tokenizer, recipe->base_model, &command->adapters);
  if (status == STATUS_OK) status = model_open(&model, recipe->base_model, options, backend);
  if (status == STATUS_OK) status = adapter_arguments_open(&adapter, &template, model, &command->adapters);
  if (status == STATUS_OK) status = measure(command, recipe, model, adapter, arguments->json);
  free(template);
  free(tokenizer);
  if (adapter) adapter_close(adapter);
  if (model) model_close(model);
  backend_free(backend);
  return status;
}

Status command_eval_loss(int argc, char **argv) {
  EvalLossCommand command = {0};
  const Option options[] = {
      adapter_option(&command.adapters),
      {"training-rows", OPTION_FLAG, &command.training_rows, NULL, "measure over the training rows, though there are evaluation rows"},
  };
  const CommandLine line = {
      .name = "eval-loss",
      .usage = "RECIPE [--adapter A[:SCALE]]... [--training-rows] [--key value ...]",
      .summary =
          "Measures the loss of a recipe's base_model, with adapters or alone, over its evaluation rows, or over its\n"
          "training rows where it has no others; with rl the preference loss and its rewards. Nothing is trained.",
      .options = options,
      .option_count = sizeof options / sizeof options[0],
      .min_positional = 1,
      .max_positional = 1,
      .positional = "RECIPE",
      .takes_overrides = true};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) {
    Recipe recipe;
    status = recipe_load(&recipe, arguments.positional.items[0], arguments.overrides, arguments.override_count);
    if (status == STATUS_OK) status = run(&command, &recipe, &arguments);
    recipe_release(&recipe);
  }
  free(command.adapters.items);
  arguments_release(&arguments);
  return status;
}
