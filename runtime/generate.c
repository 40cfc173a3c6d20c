// From the engine's tokens to text.
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

typedef struct Writing {
  Generation *out;
  const Tokenizer *tokenizer;
  const GenerateOptions *options;
  TextStream stream;
  size_t shown;
  bool is_stopped;  // by a stop string
  Status status;
  char *message;
} Writing;

// Shows what came since it was last called; false when its reader has gone.
static bool emit_new(Writing *writing) {
  const Buffer *text = &writing->out->text;
  const GenerateOptions *options = writing->options;
  size_t begin = writing->shown;
  writing->shown = text->length;
  if (begin == text->length || !options->emit || options->emit(text->data + begin, text->length - begin, options->context)) return true;
  writing->out->finish = FINISH_CANCEL;
  return false;
}

static bool take_token(const EngineToken *token, void *context) {
  Writing *writing = context;
  Buffer piece = {0};
  token_list_push(&writing->out->tokens, token->id);
  tokenizer_decode_piece(&piece, writing->tokenizer, token->id, false);
  writing->is_stopped = !text_stream_push(&writing->out->text, &writing->stream, piece.data ? piece.data : "", piece.length);
  buffer_release(&piece);
  return !writing->is_stopped && emit_new(writing);
}

static void take_end(FinishReason reason, const EngineUsage *usage, Status status, const char *message, void *context) {
  Writing *writing = context;
  Generation *out = writing->out;
  bool has_gone = out->finish == FINISH_CANCEL;
  if (!has_gone) out->finish = reason;
  out->usage = *usage;
  writing->status = status;
  if (status != STATUS_OK) writing->message = memory_copy_string(message);
  if (has_gone) return;
  if (!writing->is_stopped) text_stream_finish(&out->text, &writing->stream);
  emit_new(writing);
}

Status generate(Generation *out, Engine *engine, const Tokenizer *tokenizer, const int32_t *prompt, int64_t count,
                const GenerateOptions *options) {
  Writing writing = {.out = out, .tokenizer = tokenizer, .options = options};
  EngineRequest request = {.prompt = prompt,
                           .prompt_count = count,
                           .max_tokens = options->max_tokens,
                           .sampling = options->sampling,
                           .adapter = -1,
                           .reader = {.token = take_token, .end = take_end, .context = &writing}};
  int64_t number;
  text_stream_new(&writing.stream, options->stops, options->stop_count);
  Status status = engine_submit(&number, engine, &request);
  if (status == STATUS_OK) status = engine_run(engine);
  if (status == STATUS_OK && writing.status != STATUS_OK) status = status_fail(writing.status, "%s", writing.message);
  free(writing.message);
  text_stream_release(&writing.stream);
  return status;
}

void generation_release(Generation *generation) {
  buffer_release(&generation->text);
  token_list_release(&generation->tokens);
}
