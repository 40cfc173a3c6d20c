#include "cli/merge_job.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "adapters/divergence.h"
#include "adapters/merge.h"
#include "cli/hub_files.h"
#include "cli/merge_texts.h"
#include "cli/model_options.h"
#include "core/log.h"
#include "core/text.h"

typedef struct Measured {
  bool done;
  Divergence divergence;
  const char *source;  // of the texts; or why nothing was measured
} Measured;

static void print_json(const MergeJob *job, const MergeReport *report, const Measured *measured) {
  json_t *result = json_pack("{s:s, s:s, s:I, s:I, s:I}", "output", job->output, "type", block_traits(report->main_type)->name, "tensors",
                             (json_int_t)report->tensors, "adapted", (json_int_t)report->adapted, "bytes", (json_int_t)report->bytes);
  const Divergence *kl = &measured->divergence;
  json_object_set_new(result, "kl_divergence", measured->done ? json_real(kl->mean) : json_null());
  if (measured->done) {
    json_object_set_new(result, "kl_largest", json_real(kl->largest));
    json_object_set_new(result, "kl_tokens", json_integer(kl->tokens));
    json_object_set_new(result, "same_best_token", json_real(kl->agreement));
    json_object_set_new(result, "kl_text", json_string(measured->source));
  } else {
    json_object_set_new(result, "kl_not_measured", json_string(measured->source));
  }
  json_dumpf(result, stdout, JSON_INDENT(2));
  printf("\n");
  json_decref(result);
}

static void print_result(const MergeJob *job, const MergeReport *report, const Measured *measured) {
  if (job->arguments->json) {
    print_json(job, report, measured);
    return;
  }
  char size[32];
  printf("%s: %lld tensors, %lld of them adapted, mostly %s, %s\n", job->output, (long long)report->tensors, (long long)report->adapted,
         block_traits(report->main_type)->name, format_bytes(size, (double)report->bytes));
  const Divergence *kl = &measured->divergence;
  if (measured->done)
    printf("mean KL divergence from base + adapter: %.3g nats over %lld tokens of %s (same best token: %.1f%%)\n", kl->mean,
           (long long)kl->tokens, measured->source, 100 * kl->agreement);
  else printf("mean KL divergence from base + adapter: not measured: %s\n", measured->source);
}

// Opens the written file as a model of its own and compares.
static Status measure(Measured *measured, MergeTexts *texts, const Model *base, const MergeJob *job) {
  double scale;
  // Without an adapter the model itself may lie where it was trained.
  char *adapter = adapter_argument_path(job->adapters.count ? job->adapters.items[0] : job->model, &scale);
  Status status = merge_texts_open(texts, job->model, adapter, job->text, base->config.context_length, base->backend->pool);
  free(adapter);
  *measured = (Measured){.source = texts->source};
  if (status != STATUS_OK || texts->count == 0) return status;
  Model *merged;
  TRY(model_open(&merged, job->output, (ModelOptions){0}, base->backend));
  DivergenceTexts tokens = {.ids = texts->ids, .begins = texts->begins, .count = texts->count};
  status = divergence_measure(&measured->divergence, base, merged, &tokens);
  measured->done = status == STATUS_OK;
  model_close(merged);
  return status;
}

// Few bits may round away what was trained; nobody should have to find that out by talking to the file.
static void warn_of_distance(const MergeJob *job, const MergeReport *report, const Measured *measured) {
  const double far = 0.05;  // nats: about where answers begin to read differently
  if (!measured->done || measured->divergence.mean <= far) return;
  bool quantised = block_traits(report->main_type)->elements > 1;
  const char *nearer = !quantised ? "f32" : report->main_type == BLOCK_Q8_0 ? "f16" : "q8_0";
  log_warning(
      "%s is far from base + adapter: rounding to %s has changed it much; --type %s is nearer, and the adapter beside its base is exact",
      job->output, block_traits(report->main_type)->name, nearer);
}

static Status judge(const MergeJob *job, const Measured *measured) {
  if (job->max_kl < 0) return STATUS_OK;
  if (!measured->done)
    return status_fail(STATUS_FAILED, "--max-kl %g: not measured: %s; %s was written", job->max_kl, measured->source, job->output);
  if (measured->divergence.mean > job->max_kl)
    return status_fail(STATUS_FAILED,
                       "--max-kl %g: the mean KL divergence is %.3g; %s was written, and a type of more bits would be nearer", job->max_kl,
                       measured->divergence.mean, job->output);
  return STATUS_OK;
}

Status merge_job_run(const MergeJob *given) {
  MergeJob found = *given;
  const MergeJob *job = &found;
  char *path = NULL, *template = NULL, *tokenizer = NULL;
  ModelOptions model_options = {0};
  Backend *backend = NULL;
  Model *model = NULL;
  Adapter *adapter = NULL;
  MergeTexts texts = {0};
  MergeReport report;
  Measured measured;
  MergeOptions options = {0};
  Status status;
  TRY(status_context(quantization_parse(&options.type, job->type_name), "--type"));
  TRY(backend_new(&backend, NULL, (int)job->arguments->threads));  // weights are read, changed and written by the host
  TRY_DONE(hub_argument_path(&path, "--model", given->model, HUB_MODEL));
  found.model = path;
  TRY_DONE(adapter_arguments_vocabulary(&model_options.vocabulary, &tokenizer, job->model, &job->adapters));
  TRY_DONE(model_open(&model, job->model, model_options, backend));
  TRY_DONE(adapter_arguments_open(&adapter, &template, model, &job->adapters));
  bool gguf = text_ends_with(job->output, ".gguf");
  options.chat_template = template;
  options.tokenizer = tokenizer;
  TRY_DONE(gguf ? merge_write_gguf(&report, model, job->output, options) : merge_write_folder(&report, model, job->output, options));
  TRY_DONE(measure(&measured, &texts, model, job));
  print_result(job, &report, &measured);
  warn_of_distance(job, &report, &measured);
  status = judge(job, &measured);
done:
  merge_texts_release(&texts);
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
  free(path);
  free(template);
  free(tokenizer);
  return status;
}
