// The program: finds the command, runs it, prints its failure, and turns its Status into the exit code.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "core/status.h"
#include "core/text.h"

typedef struct Command {
  const char *name;
  Status (*run)(int argc, char **argv);
  const char *summary;
} Command;

static const Command commands[] = {
    {"bench", command_bench, "the rates of kernels and of a model, against this machine's peak"},
    {"chat", command_chat, "a conversation with a model and its adapters"},
    {"doctor", command_doctor, "processors, devices and libraries; every kernel checked on this machine"},
    {"generate", command_generate, "text from a model and its adapters"},
    {"export", command_export, "an adapter as a GGUF file or a PEFT folder"},
    {"imatrix", command_imatrix, "which columns of a model's matrices matter most, measured on a text, for `quantize`"},
    {"inspect", command_inspect, "what a model, adapter, checkpoint or other file holds, and what is wrong with it"},
    {"merge", command_merge, "a model with its adapters merged into the weights, and how far it is from them"},
    {"template", command_template, "a conversation as a chat template renders it"},
    {"tokenize", command_tokenize, "a text's token ids"},
    {"perplexity", command_perplexity, "how well a model foretells a text"},
    {"eval", command_eval, "tasks: choices, continuations and texts that are judged; base and adapter compared"},
    {"eval-loss", command_eval_loss, "the loss over a recipe's rows, without training"},
    {"preprocess", command_preprocess, "tokenise the datasets of a recipe and report on their rows; show them with their masks"},
    {"quantize", command_quantize, "a model as a GGUF file of another type"},
    {"serve", command_serve, "a model and its adapters over HTTP, as OpenAI's API has it; a page to talk to it"},
    {"train", command_train, "train an adapter by a recipe"},
    {"validate", command_validate, "check recipes: every key, its type, its range, and what stands against it"},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static void print_usage(FILE *out) {
  fprintf(
      out,
      "usage: lora COMMAND [options]\n\nFine-tunes language models with LoRA and QLoRA, and exports and runs the result.\n\ncommands:\n");
  for (int i = 0; i < COMMAND_COUNT; i++) fprintf(out, "  %-12s %s\n", commands[i].name, commands[i].summary);
  fprintf(out, "\n`lora COMMAND --help` tells a command's options; `lora --version` the version.\n");
}

static const Command *find_command(const char *name) {
  for (int i = 0; i < COMMAND_COUNT; i++)
    if (strcmp(commands[i].name, name) == 0) return &commands[i];
  return NULL;
}

static Status fail_unknown(const char *name) {
  const char *names[COMMAND_COUNT];
  for (int i = 0; i < COMMAND_COUNT; i++) names[i] = commands[i].name;
  const char *nearest = nearest_name(name, names, COMMAND_COUNT);
  if (nearest) return status_fail(STATUS_USAGE, "unknown command \"%s\"; did you mean `lora %s`?", name, nearest);
  return status_fail(STATUS_USAGE, "unknown command \"%s\"; `lora --help` lists the commands", name);
}

static Status run(int argc, char **argv) {
  if (argc < 2) {
    print_usage(stderr);
    return status_fail(STATUS_USAGE, "no command given");
  }
  const char *name = argv[1];
  if (strcmp(name, "--version") == 0) {
    printf("lora %s\n", LORA_VERSION);
    return STATUS_OK;
  }
  bool asks_help = strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0;
  if (asks_help && argc == 2) {
    print_usage(stdout);
    return STATUS_OK;
  }
  if (asks_help) name = argv[2];
  const Command *command = find_command(name);
  if (!command) return fail_unknown(name);
  if (asks_help) {
    char help[] = "--help", *words[] = {argv[2], help, NULL};
    return command->run(2, words);
  }
  return command->run(argc - 1, argv + 1);
}

int main(int argc, char **argv) {
  // A reader that goes away (`lora ... | head`) must not kill a run half way: writes fail instead.
  signal(SIGPIPE, SIG_IGN);
  Status status = run(argc, argv);
  if (fflush(stdout) != 0 && errno != EPIPE && status == STATUS_OK)
    status = status_errno(STATUS_FAILED, errno, "writing to standard output");
  if (status != STATUS_OK) fprintf(stderr, "lora: %s\n", status_message());
  return status;
}
