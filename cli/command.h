// The commands of `lora`, one file each (command_NAME.c), and what they share. A command reads its
// options and calls the folders; argv[0] is its own name. It returns a Status with its message set;
// main prints it and makes it the exit code. Results go to stdout, progress and log to stderr.
// SIGPIPE is ignored: a command that streams stops when ferror(stdout) says that its reader has gone.
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include "core/status.h"

Status command_bench(int argc, char **argv);
Status command_chat(int argc, char **argv);
Status command_doctor(int argc, char **argv);
Status command_generate(int argc, char **argv);
Status command_export(int argc, char **argv);
Status command_imatrix(int argc, char **argv);
Status command_inspect(int argc, char **argv);
Status command_merge(int argc, char **argv);
Status command_tokenize(int argc, char **argv);
Status command_template(int argc, char **argv);
Status command_perplexity(int argc, char **argv);
Status command_eval(int argc, char **argv);
Status command_eval_loss(int argc, char **argv);
Status command_preprocess(int argc, char **argv);
Status command_quantize(int argc, char **argv);
Status command_serve(int argc, char **argv);
Status command_train(int argc, char **argv);
Status command_validate(int argc, char **argv);

#endif
