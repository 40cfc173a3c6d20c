// Judges of what a model wrote, and the rows that they know: TASK_TEXT of eval/task.h. Answers are valid UTF-8.
#ifndef EVAL_GENERATION_H
#define EVAL_GENERATION_H

#include "eval/task.h"

// eval/gsm8k.c: the number behind "#### " (strict), or the last number (flexible), is the row's.
Status gsm8k_judge(Score *scores, json_t *details, const TaskItem *item, const char *text, size_t length, const JudgeOptions *options);
// eval/math_answer.c: what stands between the first and the last $, or else all, is the row's answer (exact_match); or what the last
// \boxed of the answer holds (exact_match_boxed).
Status math_judge(Score *scores, json_t *details, const TaskItem *item, const char *text, size_t length, const JudgeOptions *options);
// eval/ifeval.c
Status ifeval_judge(Score *scores, json_t *details, const TaskItem *item, const char *text, size_t length, const JudgeOptions *options);
void ifeval_note(json_t *out, const TaskSet *set);
// eval/humaneval.c: the function passes its tests, in the sandbox. STATUS_USAGE when code may not run.
Status humaneval_judge(Score *scores, json_t *details, const TaskItem *item, const char *text, size_t length, const JudgeOptions *options);
void humaneval_ask(Buffer *question, Buffer *answer_start, const TaskItem *item);

#endif
