#include "eval/ifeval.h"

#include <inttypes.h>
#include <string.h>

#include "eval/generation.h"
#include "eval/ifeval_rules.h"

typedef struct Rule {
  const char *name;
  RuleFunction check;  // NULL: not scored
} Rule;

static const Rule rules[] = {
    {"keywords:existence", rule_existence},
    {"keywords:frequency", rule_frequency},
    {"keywords:forbidden_words", rule_forbidden_words},
    {"keywords:letter_frequency", rule_letter_frequency},
    {"language:response_language", NULL},  // langdetect
    {"length_constraints:number_sentences", NULL},  // NLTK's punkt
    {"length_constraints:number_paragraphs", rule_number_paragraphs},
    {"length_constraints:number_words", rule_number_words},
    {"length_constraints:nth_paragraph_first_word", rule_nth_paragraph},
    {"detectable_content:number_placeholders", rule_number_placeholders},
    {"detectable_content:postscript", rule_postscript},
    {"detectable_format:number_bullet_lists", rule_bullet_lists},
    {"detectable_format:constrained_response", rule_constrained_response},
    {"detectable_format:number_highlighted_sections", rule_highlighted_sections},
    {"detectable_format:multiple_sections", rule_multiple_sections},
    {"detectable_format:json_format", rule_json_format},
    {"detectable_format:title", rule_title},
    {"combination:two_responses", rule_two_responses},
    {"combination:repeat_prompt", rule_repeat_prompt},
    {"startend:end_checker", rule_end_checker},
    {"change_case:capital_word_frequency", NULL},  // NLTK's word_tokenize, which takes sentences apart first
    {"change_case:english_capital", NULL},  // langdetect
    {"change_case:english_lowercase", NULL},
    {"punctuation:no_comma", rule_no_comma},
    {"startend:quotation", rule_quotation},
};
enum { RULES = sizeof rules / sizeof *rules };

static const Rule *find_rule(const char *name) {
  for (int i = 0; i < RULES; i++)
    if (strcmp(rules[i].name, name) == 0) return &rules[i];
  return NULL;
}

bool ifeval_is_known(const char *instruction) { return find_rule(instruction) != NULL; }

bool ifeval_is_scored(const char *instruction) {
  const Rule *rule = find_rule(instruction);
  return rule && rule->check;
}

// ---- Variants of the response ----

enum { VARIANTS = 8 };

// The response between its lines `first` and `last` from its ends, stripped where a line was taken off.
static Text without_lines(Text response, bool first, bool last) {
  Text text = response;
  const char *newline = first ? memchr(text.data, '\n', text.length) : NULL;
  if (first) text = newline ? text_part(text, (size_t)(newline - text.data) + 1, text.length) : text_part(text, 0, 0);
  if (last) {
    size_t end = text.length;
    while (end > 0 && text.data[end - 1] != '\n') end--;
    text = text_part(text, 0, end > 0 ? end - 1 : 0);
  }
  return first || last ? text_stripped(text) : text;
}

static void remove_stars(Buffer *out, Text text) {
  buffer_append(out, "", 0);
  for (size_t i = 0; i < text.length; i++)
    if (text.data[i] != '*') buffer_append(out, &text.data[i], 1);
}

static Status follows_loosely(bool *follows, const Rule *rule, const json_t *arguments, Text response) {
  Status status = STATUS_OK;
  for (int i = 0; i < VARIANTS && !*follows && status == STATUS_OK; i++) {
    Buffer plain = {0};
    Text variant = without_lines(response, i & 1, i & 2);
    if (i & 4) {
      remove_stars(&plain, variant);
      variant = (Text){plain.data, plain.length};
    }
    if (!text_is_blank(variant)) status = rule->check(follows, arguments, variant);
    buffer_release(&plain);
  }
  return status;
}

static Following following(bool follows) { return follows ? FOLLOWING_YES : FOLLOWING_NO; }

Status ifeval_check(Following *strict, Following *loose, const char *instruction, const json_t *arguments, const char *response,
                    size_t length) {
  *strict = *loose = FOLLOWING_NOT_SCORED;
  const Rule *rule = find_rule(instruction);
  if (!rule) return status_fail(STATUS_BAD_INPUT, "the instruction \"%s\" is not known", instruction);
  if (!rule->check) return STATUS_OK;
  Text text = {response, length};
  bool follows = false, follows_loose = false;
  if (!text_is_blank(text)) TRY(status_context(rule->check(&follows, arguments, text), "%s", instruction));
  TRY(status_context(follows_loosely(&follows_loose, rule, arguments, text), "%s", instruction));
  *strict = following(follows);
  *loose = following(follows_loose);
  return STATUS_OK;
}

// ---- The task ----

// The instructions and arguments of a row, which are as long as each other; each is tried once, so that what is wrong shows now.
Status ifeval_fill(TaskSet *set, TaskItem *item, const json_t *row) {
  const char **names;
  int64_t count;
  TRY(member_text(&item->question, set, row, "prompt"));
  TRY(member_texts(&names, &count, set, row, "instruction_id_list"));
  const json_t *arguments = json_object_get(row, "kwargs");
  if (!json_is_array(arguments) || (int64_t)json_array_size(arguments) != count)
    return status_fail(STATUS_BAD_INPUT, "\"kwargs\" must be a list of %" PRId64 " objects, one for each instruction", count);
  for (int64_t i = 0; i < count; i++) {
    Following strict, loose;
    TRY(ifeval_check(&strict, &loose, names[i], json_array_get(arguments, (size_t)i), "a", 1));
  }
  return STATUS_OK;
}

static json_t *following_json(Following value) {
  return value == FOLLOWING_NOT_SCORED ? json_null() : json_boolean(value == FOLLOWING_YES);
}

// Instructions count by themselves; a prompt counts when all of its instructions are scored.
Status ifeval_judge(Score *scores, json_t *details, const TaskItem *item, const char *text, size_t length, const JudgeOptions *options) {
  (void)options;
  const json_t *names = json_object_get(item->row, "instruction_id_list"), *arguments = json_object_get(item->row, "kwargs");
  json_t *list = json_array();
  int64_t scored = 0, strict_count = 0, loose_count = 0, count = (int64_t)json_array_size(names);
  Status status = STATUS_OK;
  for (int64_t i = 0; i < count && status == STATUS_OK; i++) {
    Following strict, loose;
    const char *name = json_string_value(json_array_get(names, (size_t)i));
    status = ifeval_check(&strict, &loose, name, json_array_get(arguments, (size_t)i), text, length);
    if (status == STATUS_OK && strict != FOLLOWING_NOT_SCORED)
      scored++, strict_count += strict == FOLLOWING_YES, loose_count += loose == FOLLOWING_YES;
    json_array_append_new(
        list, json_pack("{s:s, s:o, s:o}", "instruction", name, "strict", following_json(strict), "loose", following_json(loose)));
  }
  json_object_set_new(details, "instructions", list);
  bool is_whole = scored == count;
  scores[0] = (Score){is_whole && strict_count == count, is_whole};
  scores[1] = (Score){(double)strict_count, (double)scored};
  scores[2] = (Score){is_whole && loose_count == count, is_whole};
  scores[3] = (Score){(double)loose_count, (double)scored};
  return status;
}

// {"not_scored": {instruction: how many}}
void ifeval_note(json_t *out, const TaskSet *set) {
  json_t *counts = json_object();
  for (int64_t i = 0; i < set->item_count; i++) {
    const json_t *names = json_object_get(set->items[i].row, "instruction_id_list");
    for (size_t k = 0; k < json_array_size(names); k++) {
      const char *name = json_string_value(json_array_get(names, k));
      if (ifeval_is_scored(name)) continue;
      json_object_set_new(counts, name, json_integer(json_integer_value(json_object_get(counts, name)) + 1));
    }
  }
  json_object_set_new(out, "not_scored", counts);
}
