// HumanEval (Chen et al. 2021): a function's beginning is completed, and its tests are run on it. pass@1 of one greedy answer.
#include <string.h>

#include "eval/generation.h"
#include "eval/matches.h"
#include "eval/sandbox.h"

static const char *member(const json_t *row, const char *key) { return json_string_value(json_object_get(row, key)); }

Status humaneval_fill(TaskSet *set, TaskItem *item, const json_t *row) {
  const char *unused;
  TRY(member_text(&item->question, set, row, "prompt"));
  TRY(member_text(&unused, set, row, "test"));
  return member_text(&unused, set, row, "entry_point");
}

// lm-evaluation-harness's humaneval_instruct.
void humaneval_ask(Buffer *question, Buffer *answer_start, const TaskItem *item) {
  buffer_format(question, "Write a solution to the following problem and make sure that it passes the tests:\n```python\n%s\n```\n",
                item->question);
  buffer_format(answer_start, "Here is the completed function:\n```python\n%s\n", item->question);
}

// In a conversation the program ends where its block does.
static size_t code_length(const char *text, size_t length, bool is_chat) {
  static const char fence[] = "```";
  for (size_t i = 0; is_chat && i + strlen(fence) <= length; i++)
    if (memcmp(text + i, fence, strlen(fence)) == 0) return i;
  return length;
}

Status humaneval_judge(Score *scores, json_t *details, const TaskItem *item, const char *text, size_t length, const JudgeOptions *options) {
  if (!options->allows_code)
    return status_fail(STATUS_USAGE,
                       "humaneval runs programs that a model wrote, in a sandbox (docs/evaluation.md); allow it by --allow-code-execution");
  Buffer program = {0};
  SandboxResult result;
  buffer_append_string(&program, item->question);
  buffer_append(&program, text, code_length(text, length, options->is_chat));
  buffer_format(&program, "\n%s\ncheck(%s)", member(item->row, "test"), member(item->row, "entry_point"));
  Status status = sandbox_run(&result, program.data, program.length, sandbox_defaults());
  *scores = (Score){status == STATUS_OK && result.end == SANDBOX_PASSED, 1};
  if (status == STATUS_OK) {
    json_object_set_new(details, "end", json_string(sandbox_end_name(result.end)));
    json_t *output = json_stringn(result.output.data ? result.output.data : "", result.output.length);
    if (output) json_object_set_new(details, "output", output);  // no UTF-8 is left out
  }
  sandbox_result_release(&result);
  buffer_release(&program);
  return status;
}
