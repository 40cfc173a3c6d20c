// `lora bench`: what this machine's kernels reach of its peak, and what a model reaches on it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/bench.h"
#include "cli/command.h"
#include "cli/loaded_model.h"
#include "cli/model_options.h"
#include "core/log.h"

typedef struct BenchCommand {
  const char *model;
  bool all, generation;
} BenchCommand;

typedef struct Bench {
  const BenchCommand *command;
  Backend *backend;
  const Model *model;  // NULL: kernels alone, on shapes of our own
  ModelRates model_rates;
  BenchPeak peak;  // of the table that was chosen at start
  KernelRates rates;
} Bench;

static const BlockType weight_types[] = {BLOCK_F32,    BLOCK_BF16,   BLOCK_F16,   BLOCK_Q4_0,  BLOCK_Q4_1,  BLOCK_Q5_0, BLOCK_Q5_1,
                                         BLOCK_Q8_0,   BLOCK_Q2_K,   BLOCK_Q3_K,  BLOCK_Q4_K,  BLOCK_Q5_K,  BLOCK_Q6_K, BLOCK_Q8_K,
                                         BLOCK_IQ4_NL, BLOCK_IQ4_XS, BLOCK_MXFP4, BLOCK_TQ1_0, BLOCK_TQ2_0, BLOCK_NF4};
enum { WEIGHT_TYPES = sizeof weight_types / sizeof weight_types[0] };

// 1 is generation; 512 and 2048 are a prompt and a micro-batch. Only the larger are ever run backward.
static const int64_t few_rows[] = {1, 16, 512}, all_rows[] = {1, 16, 64, 256, 512, 2048};

static void bench_weights(Bench *bench, const Matrix *w, BlockType type, BenchPeak peak) {
  if (bench->command->all) bench_linear(&bench->rates, w, type, all_rows, sizeof all_rows / sizeof all_rows[0], 0, peak, bench->backend);
  else bench_linear(&bench->rates, w, type, few_rows, sizeof few_rows / sizeof few_rows[0], 512, peak, bench->backend);
}

static void bench_own_matrices(Bench *bench, BenchPeak peak) {
  const int64_t shapes[][2] = {{2048, 2048}, {1536, 768}};  // K types need columns by the 256
  for (int shape = 0; shape < (bench->command->all ? 2 : 1); shape++)
    for (int i = 0; i < WEIGHT_TYPES; i++) {
      BenchMemory memory = {.backend = bench->backend};
      Matrix w = bench_matrix(&memory, weight_types[i], shapes[shape][0], shapes[shape][1]);
      bench_weights(bench, &w, weight_types[i], peak);
      bench_release(&memory);
    }
}

static bool is_same_kind(const Matrix *a, const Matrix *b) { return a->type == b->type && a->rows == b->rows && a->columns == b->columns; }

// Each type and shape of the model's matrices once.
static void bench_model_matrices(Bench *bench, BenchPeak peak) {
  const Model *model = bench->model;
  for (int i = 0; i <= model->linear_count; i++) {
    const Matrix *w = i < model->linear_count ? &model->linears[i]->weight : &model->head.weight;
    bool is_new = true;
    for (int j = 0; is_new && j < i; j++) is_new = !is_same_kind(&model->linears[j]->weight, w);
    if (is_new) bench_weights(bench, w, w->type, peak);
  }
}

static BenchShape shape_of(const Model *model) {
  if (!model) return (BenchShape){.columns = 1536, .heads = 9, .kv_heads = 3, .head_size = 64, .vocabulary = 49152};
  const ModelConfig *config = &model->config;
  return (BenchShape){config->heads * config->head_size, config->heads, config->kv_heads, config->head_size, config->vocabulary};
}

static void bench_head(Bench *bench, BenchShape shape, BenchPeak peak) {
  enum { ROWS = 256 };
  BenchMemory memory = {.backend = bench->backend};
  Matrix own;
  const Matrix *head = bench->model ? &bench->model->head.weight : &own;
  if (!bench->model) own = bench_matrix(&memory, BLOCK_Q8_0, shape.vocabulary, shape.columns);
  bench_loss(&bench->rates, head, ROWS, peak, bench->backend);
  bench_release(&memory);
}

static BenchPeak bench_table(Bench *bench) {
  BenchPeak peak = bench_peak(bench->backend);
  BenchShape shape = shape_of(bench->model);
  if (bench->model) bench_model_matrices(bench, peak);
  else bench_own_matrices(bench, peak);
  bench_low_rank(&bench->rates, 16, shape.columns, 2048, peak, bench->backend);
  if (bench->command->all) bench_low_rank(&bench->rates, 256, 2048, 512, peak, bench->backend);
  bench_head(bench, shape, peak);
  bench_experts(&bench->rates, 1024, peak, bench->backend);
  bench_attention(&bench->rates, &shape, 4, 512, peak, bench->backend);
  if (bench->command->all) bench_attention(&bench->rates, &shape, 1, 2048, peak, bench->backend);
  bench_pages(&bench->rates, &shape, bench->backend);
  bench_elementwise(&bench->rates, &shape, 2048, bench->backend);
  return peak;
}

static bool is_same_matrix(const KernelRate *a, const KernelRate *b) {
  return a->weights == b->weights && a->out == b->out && a->in == b->in && a->activations == b->activations;
}

static const char *short_name(FloatType type) { return type == FLOAT_32 ? "float" : type == FLOAT_BF16 ? "bf16" : "fp16"; }

// A line for each matrix, a column for each number of rows: GFLOP/s and the share of the peak.
static void print_products(const KernelRate *rates, int count, const char *kernel, FloatType type) {
  const KernelRate *first = NULL, *previous = NULL;
  for (int i = 0; i < count; i++) {
    const KernelRate *rate = &rates[i];
    if (!rate->weights || rate->activations != type || strcmp(rate->kernel, kernel) != 0) continue;
    if (!first) {
      first = rate;
      printf("\n%-19s %-5s ", kernel, short_name(type));
      for (int j = i; j < count && is_same_matrix(&rates[j], first) && strcmp(rates[j].kernel, kernel) == 0; j++)
        printf("%8lld row%s ", (long long)rates[j].rows, rates[j].rows == 1 ? " " : "s");
    }
    if (!previous || !is_same_matrix(previous, rate))
      printf("\n%-6s [%lld, %lld]%*s", rate->weights, (long long)rate->out, (long long)rate->in,
             (int)(17 - snprintf(NULL, 0, "%lld, %lld", (long long)rate->out, (long long)rate->in)), "");
    if (rate->is_slow) printf("%13s ", "-");
    else printf("%8.1f %3.0f%% ", rate->flops * 1e-9, 100 * rate->share);
    previous = rate;
  }
  if (first) printf("\n");
}

static void print_others(const KernelRate *rates, int count) {
  printf("\n");
  for (int i = 0; i < count; i++) {
    const KernelRate *rate = &rates[i];
    if (rate->weights) continue;
    char shape[64] = "";
    if (rate->out) snprintf(shape, sizeof shape, "[%lld, %lld]", (long long)rate->out, (long long)rate->in);
    printf("%-20s %-5s %-13s %5lld rows %8.1f ", rate->kernel, short_name(rate->activations), shape, (long long)rate->rows,
           (rate->flops + rate->bytes) * 1e-9);
    if (rate->flops > 0) printf("GFLOP/s %3.0f%%\n", 100 * rate->share);
    else printf("GB/s\n");
  }
}

static void print_table(const Bench *bench, BenchPeak peak, int first) {
  const KernelRate *rates = bench->rates.items + first;
  int count = bench->rates.count - first;
  bool has_slow = false;
  for (int i = 0; i < count; i++) has_slow |= rates[i].is_slow;
  printf("%s, threads: %d; multiply-adds on registers: %.1f GFLOP/s in float32", bench->backend->kernels->name,
         pool_threads(bench->backend->pool), peak.float32 * 1e-9);
  if (peak.half > 0) printf(", %.1f in %s", peak.half * 1e-9, float_name(peak.half_type));
  printf("\nGFLOP/s of the products and their share of that, by rows of x:\n");
  for (FloatType type = FLOAT_32; type <= FLOAT_F16; type++) {
    print_products(rates, count, "linear_forward", type);
    print_products(rates, count, "linear_backward", type);
    print_products(rates, count, "linear_forward_int8", type);
  }
  if (has_slow) printf("-: not measured, a call takes more than %d s\n", BENCH_SLOW_SECONDS);
  print_others(rates, count);
  fflush(stdout);
}

// The device's table, or the chosen one of the processor's, or all that it has.
static void bench_tables(Bench *bench, bool prints) {
  const Kernels *chosen = bench->backend->kernels;
  if (bench->backend->upload_matrix) {
    bench->peak = bench_table(bench);
    if (prints) print_table(bench, bench->peak, 0);
    return;
  }
  bench->peak = (BenchPeak){0};
  for (int i = 0; backend_cpu_kernels(i); i++) {
    if (!bench->command->all && backend_cpu_kernels(i) != chosen) continue;
    bench->backend->kernels = backend_cpu_kernels(i);
    int first = bench->rates.count;
    BenchPeak peak = bench_table(bench);
    if (prints && first > 0) printf("\n");
    if (prints) print_table(bench, peak, first);
    if (bench->backend->kernels == chosen) bench->peak = peak;
  }
  bench->backend->kernels = chosen;
}

static double largest_peak(const Bench *bench) { return bench->peak.float32 > bench->peak.half ? bench->peak.float32 : bench->peak.half; }

static void print_model(const Bench *bench) {
  const ModelRates *rates = &bench->model_rates;
  const struct {
    const char *what;
    double rate, flop;
    int64_t tokens;
  } rows[] = {{"prompt", rates->prompt, rates->prompt_flop, rates->prompt_tokens},
              {"generation", rates->generation, rates->generation_flop, rates->generated_tokens},
              {"training", rates->train, rates->train_flop, rates->train_tokens}};
  char memory[32];
  printf("\n%s, peak memory %s\n", bench->model->path, format_bytes(memory, (double)rates->peak_bytes));
  for (int i = 0; i < 3 && rows[i].rate > 0; i++)
    printf("%-10s %5lld tokens %9.1f tokens/s %8.1f GFLOP/s in products %3.0f%%\n", rows[i].what, (long long)rows[i].tokens, rows[i].rate,
           rows[i].rate * rows[i].flop * 1e-9, 100 * rows[i].rate * rows[i].flop / largest_peak(bench));
}

static json_t *kernel_json(const KernelRate *rate) {
  json_t *object = json_pack("{s:s, s:s, s:s, s:I}", "instruction_set", rate->instructions, "kernel", rate->kernel, "activations",
                             float_name(rate->activations), "rows", (json_int_t)rate->rows);
  if (rate->weights) json_object_set_new(object, "weights", json_string(rate->weights));
  if (rate->out) json_object_set_new(object, "shape", json_pack("[I, I]", (json_int_t)rate->out, (json_int_t)rate->in));
  if (rate->is_slow) json_object_set_new(object, "not_measured", json_true());
  if (rate->flops > 0) json_object_set_new(object, "flops", json_real(rate->flops));
  if (rate->flops > 0) json_object_set_new(object, "share_of_peak", json_real(rate->share));
  if (rate->bytes > 0) json_object_set_new(object, "bytes_per_second", json_real(rate->bytes));
  return object;
}

static void print_json(const Bench *bench) {
  json_t *kernels = json_array();
  for (int i = 0; i < bench->rates.count; i++) json_array_append_new(kernels, kernel_json(&bench->rates.items[i]));
  json_t *object = json_object();
  if (bench->model) {
    const ModelRates *rates = &bench->model_rates;
    json_object_set_new(object, "model", json_string(bench->model->path));
    json_object_set_new(object, "prompt_tokens_per_second", json_real(rates->prompt));
    json_object_set_new(object, "generation_tokens_per_second", json_real(rates->generation));
    json_object_set_new(object, "peak_memory_bytes", json_integer(rates->peak_bytes));
    if (rates->train > 0) json_object_set_new(object, "train_tokens_per_second", json_real(rates->train));
  }
  json_object_set_new(object, "instruction_set", json_string(bench->backend->kernels->name));
  json_object_set_new(object, "threads", json_integer(pool_threads(bench->backend->pool)));
  json_object_set_new(object, "peak_flops", json_real(largest_peak(bench)));
  json_object_set_new(object, "peaks",
                      json_pack("{s:f, s:f}", "float32", bench->peak.float32, float_name(bench->peak.half_type), bench->peak.half));
  json_object_set_new(object, "kernels", kernels);
  json_dumpf(object, stdout, JSON_COMPACT);
  printf("\n");
  json_decref(object);
}

static Status measure(Bench *bench, Model *model, bool json) {
  bench->model = model;
  bool generation_only = bench->command->generation;
  if (model) TRY(bench_model(&bench->model_rates, model, !generation_only));
  if (generation_only) bench->peak = bench_peak(bench->backend);
  else bench_tables(bench, !json);
  if (json) print_json(bench);
  else if (model) print_model(bench);
  return STATUS_OK;
}

static Status run(const BenchCommand *command, const Arguments *arguments) {
  Bench bench = {.command = command};
  LoadedModel loaded = {0};
  Status status;
  if (command->model) status = loaded_model_open(&loaded, "bench", command->model, &(ArgumentList){0}, arguments);
  else status = backend_new(&loaded.backend, arguments->device, (int)arguments->threads);
  bench.backend = loaded.backend;
  if (status == STATUS_OK) status = measure(&bench, loaded.model, arguments->json);
  free(bench.rates.items);
  loaded_model_release(&loaded);
  return status;
}

Status command_bench(int argc, char **argv) {
  BenchCommand command = {0};
  const Option options[] = {
      model_option(&command.model),
      {.name = "all",
       .kind = OPTION_FLAG,
       .value = &command.all,
       .help = "every instruction set that the processor has, and more shapes: minutes"},
      {.name = "generation",
       .kind = OPTION_FLAG,
       .value = &command.generation,
       .help = "with --model: only the rates of the prompt and of what is generated"},
  };
  const CommandLine line = {
      .name = "bench",
      .usage = "[--model MODEL [--generation]] [--all]",
      .summary =
          "Measures each kernel against the peak of this machine, which is measured by multiply-adds on registers; and, with\n"
          "--model, tokens a second: of a prompt of 512, of 64 generated after a prompt of 8, and in training (4 rows of 512,\n"
          "every token labelled, r = 16 on all linear layers).",
      .options = options,
      .option_count = sizeof options / sizeof options[0]};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help && command.generation && !command.model)
    status = status_fail(STATUS_USAGE, "--generation measures a model: name it with --model");
  if (status == STATUS_OK && !arguments.help) status = run(&command, &arguments);
  arguments_release(&arguments);
  return status;
}
