#include "cli/generate_output.h"

#include <inttypes.h>
#include <stdio.h>

#include "core/log.h"
#include "core/text.h"

Status message_append(json_t *messages, const char *role, const char *content, size_t length) {
  size_t offset;
  if (!utf8_is_valid(content, length, &offset))
    return status_fail(STATUS_USAGE, "the %s message is no UTF-8 text: it breaks at byte %zu", role, offset);
  json_array_append_new(messages, json_pack("{s:s, s:s%}", "role", role, "content", content, length));
  return STATUS_OK;
}

Status messages_encode(TokenList *ids, const json_t *messages, const ChatTemplate *chat, const Tokenizer *tokenizer) {
  ChatText rendered = {0};
  Status status = chat_template_render(&rendered, chat, messages, NULL, true);
  if (status == STATUS_OK) status = tokenizer_encode(ids, tokenizer, rendered.text.data, rendered.text.length, TOKENIZE_PARSE_SPECIAL);
  chat_text_release(&rendered);
  return status;
}

bool emit_to_stdout(const char *text, size_t length, void *context) {
  (void)context;
  fwrite(text, 1, length, stdout);
  fflush(stdout);
  return !ferror(stdout);
}

double tokens_per_second(int64_t tokens, double seconds) { return seconds > 0 && tokens > 0 ? (double)tokens / seconds : 0; }

double writing_rate(const EngineUsage *usage) { return tokens_per_second(usage->new_tokens - 1, usage->seconds); }

void log_speed(const Generation *result) {
  const EngineUsage *usage = &result->usage;
  log_info("%" PRId64 " prompt tokens (%" PRId64 " kept, %.1f a second), %" PRId64 " written (%.1f a second)", usage->prompt_tokens,
           usage->reused_tokens, tokens_per_second(usage->prompt_tokens - usage->reused_tokens, usage->prompt_seconds), usage->new_tokens,
           writing_rate(usage));
}
