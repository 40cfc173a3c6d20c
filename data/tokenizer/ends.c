// The tokens that end generation. Files name EOS and sometimes the end of a turn; the other ends are known by their texts, which are facts
// of the model families (llama.cpp keeps such a list too, in src/llama-vocab.cpp).
#include <string.h>

#include "data/tokenizer/parts.h"

// What ends a turn, in the order in which one becomes tokenizer_eot; then what ends generation as well.
static const char *const turn_ends[] = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>", "<end_of_utterance>",
                                        "<|eot|>",    "<|return|>", "[EOT]",   "<EOT>",         "_<EOT>",  "\xE2\x96\x81<EOT>",
                                        "< EOT >",    "_< EOT >"};
static const char *const other_ends[] = {
    "<|eom_id|>",       "<|eom|>",         "<|end_of_text|>",       "<|endoftext|>",         "<|call|>", "<|calls|>", "<|flush|>",
    "<|tool_response>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "[EOS]",    "[e~[",      "<|fim_pad|>",
    "<|repo_name|>",    "<|file_sep|>"};
// These are words of HTML and the like in other vocabularies: ends only as control tokens.
static const char *const plain_ends[] = {"</s>", "<eos>"};

// An added token, whether its file calls it special or not; -1 when the vocabulary has none with this text.
static int32_t find_added(const Tokenizer *tokenizer, const char *text) {
  int32_t id = tokenizer_find(tokenizer, text);
  return id >= 0 && (tokenizer->tokens[id].added || tokenizer_is_special(tokenizer, id)) ? id : -1;
}

// In these formats <|end|> only ends a message, after which the same turn goes on: gpt-oss, and Solar Open.
static bool end_goes_on(const Tokenizer *tokenizer) {
  bool returns = find_added(tokenizer, "<|return|>") >= 0, calls = find_added(tokenizer, "<|call|>") >= 0;
  return (returns && calls) || (find_added(tokenizer, "<|calls|>") >= 0 && find_added(tokenizer, "<|flush|>") >= 0);
}

void tokenizer_fill_ends(Tokenizer *tokenizer) {
  for (size_t i = 0; i < sizeof turn_ends / sizeof *turn_ends; i++) {
    int32_t id = find_added(tokenizer, turn_ends[i]);
    if (id < 0 || (strcmp(turn_ends[i], "<|end|>") == 0 && end_goes_on(tokenizer))) continue;
    if (tokenizer->eot < 0) tokenizer->eot = id;
    tokenizer_add_end(tokenizer, id);
  }
  for (size_t i = 0; i < sizeof other_ends / sizeof *other_ends; i++) tokenizer_add_end(tokenizer, find_added(tokenizer, other_ends[i]));
  for (size_t i = 0; i < sizeof plain_ends / sizeof *plain_ends; i++) {
    int32_t id = tokenizer_find(tokenizer, plain_ends[i]);
    if (id >= 0 && tokenizer_is_special(tokenizer, id)) tokenizer_add_end(tokenizer, id);
  }
  tokenizer_add_end(tokenizer, tokenizer->eos);
  tokenizer_add_end(tokenizer, tokenizer->eot);
}
