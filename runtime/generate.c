// The loop of generation: draw a token from the last logits, show its bytes, feed it.
#include "runtime/generate.h"

#include <stdlib.h>

#include "core/log.h"
#include "runtime/text_stream.h"

Status generate_encode(TokenList *out, const Tokenizer *tokenizer, const char *text, size_t length) {
  TokenList ids = {0};
  Status status = tokenizer_encode(&ids, tokenizer, text, length, TOKENIZE_PARSE_SPECIAL);
  int32_t bos = tokenizer_bos(tokenizer);
  bool has_bos = ids.count && ids.ids[0] == bos;
  if (status == STATUS_OK && tokenizer_adds_bos(tokenizer) && bos >= 0 && !has_bos) token_list_push(out, bos);
  for (int64_t i = 0; i < ids.count && status == STATUS_OK; i++) token_list_push(out, ids.ids[i]);
  token_list_release(&ids);
  return status;
}

// Shows what came since `shown`; false when its reader has gone.
static bool emit_new(const Generation *out, size_t *shown, const GenerateOptions *options) {
  size_t begin = *shown;
  *shown = out->text.length;
  return begin == *shown || !options->emit || options->emit(out->text.data + begin, *shown - begin, options->context);
}

static Status write_text(Generation *out, Session *session, Sampler *sampler, TextStream *stream, const Tokenizer *tokenizer,
                         const GenerateOptions *options) {
  Buffer piece = {0};
  Status status = STATUS_OK;
  size_t shown = 0;
  out->finish = FINISH_LENGTH;
  while (out->tokens.count < options->max_tokens) {
    int32_t id;
    TRY_DONE(
        sampler_next(&id, sampler, session_logits(session), session_vocabulary(session), session_tokens(session), session_length(session)));
    if (tokenizer_is_end(tokenizer, id)) {
      out->finish = FINISH_STOP;
      break;
    }
    token_list_push(&out->tokens, id);
    piece.length = 0;
    tokenizer_decode_piece(&piece, tokenizer, id, false);
    if (!text_stream_push(&out->text, stream, piece.data ? piece.data : "", piece.length)) {
      out->finish = FINISH_STOP;
      break;
    }
    if (!emit_new(out, &shown, options)) {
      out->finish = FINISH_CANCEL;
      goto done;
    }
    if (out->tokens.count == options->max_tokens || session_length(session) == session_capacity(session)) break;
    TRY_DONE(session_feed(session, &id, 1));
  }
  text_stream_finish(&out->text, stream);
  if (!emit_new(out, &shown, options)) out->finish = FINISH_CANCEL;
done:
  buffer_release(&piece);
  return status;
}

Status generate(Generation *out, Session *session, const Tokenizer *tokenizer, const int32_t *prompt, int64_t count,
                const GenerateOptions *options) {
  if (count < 1) return status_fail(STATUS_USAGE, "the prompt is empty, and the model adds no token of its own before a text");
  double start = time_seconds();
  TRY(session_match(session, prompt, count, &out->reused_tokens));
  out->prompt_tokens = count;
  double ready = time_seconds();
  out->prompt_seconds = ready - start;
  Sampler sampler;
  TextStream stream;
  sampler_new(&sampler, options->sampling, session_vocabulary(session));
  text_stream_new(&stream, options->stops, options->stop_count);
  Status status = write_text(out, session, &sampler, &stream, tokenizer, options);
  out->seconds = time_seconds() - ready;
  text_stream_release(&stream);
  sampler_free(&sampler);
  return status;
}

void generation_release(Generation *generation) {
  buffer_release(&generation->text);
  token_list_release(&generation->tokens);
}

const char *finish_reason_name(FinishReason reason) {
  static const char *const names[] = {[FINISH_STOP] = "stop", [FINISH_LENGTH] = "length", [FINISH_CANCEL] = "cancel"};
  return names[reason];
}
