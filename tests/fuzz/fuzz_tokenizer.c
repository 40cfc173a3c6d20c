// A tokenizer.json, the metadata of a GGUF file, or a SentencePiece model (which begins with the tag of its first piece, a line feed),
// and after a NUL byte (the last two: in the last 64 bytes) a text that it encodes and decodes; the text goes through a small byte-level
// vocabulary of our own as well, which must give it back.
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer/parts.h"
#include "data/tokenizer/sentencepiece.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Tokenizer *own_vocabulary(void) {
  static Tokenizer *tokenizer;
  if (tokenizer) return tokenizer;
  Buffer json = {0};
  buffer_append_string(&json, "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"<|x|>\": 0");
  for (int byte = 0; byte < 256; byte++) {
    char text[4];
    int length = byte_to_alphabet(text, (uint8_t)byte);
    bool escaped = byte == '"' || byte == '\\';
    buffer_format(&json, ", \"%s%.*s\": %d", escaped ? "\\" : "", length, text, byte + 1);
  }
  buffer_append_string(
      &json,
      ", \"aa\": 257, \"aaaa\": 258, \"he\": 259, \"\\u0120he\": 260}, \"merges\": [\"a a\", \"aa aa\", \"h e\", \"\\u0120 he\"]}, "
      "\"added_tokens\": [{\"id\": 0, \"content\": \"<|x|>\", \"special\": true}], \"pre_tokenizer\": {\"type\": \"ByteLevel\"}}");
  if (tokenizer_from_json(&tokenizer, "own", json.data, json.length) != STATUS_OK) abort();
  buffer_release(&json);
  return tokenizer;
}

static void encode_and_decode(const Tokenizer *tokenizer, const char *text, size_t length, bool exact) {
  TokenList ids = {0};
  Buffer decoded = {0};
  Status status = tokenizer_encode(&ids, tokenizer, text, length, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL);
  for (int64_t i = 0; i < ids.count; i++) {
    if (!tokenizer_text(tokenizer, ids.ids[i])) abort();
  }
  tokenizer_decode(&decoded, tokenizer, ids.ids, ids.count, true);
  if (exact && (status != STATUS_OK || decoded.length != length || memcmp(decoded.data, text, length) != 0)) abort();
  token_list_release(&ids);
  buffer_release(&decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  enum { TEXT_MOST = 4096 };
  bool is_gguf = size > 4 && memcmp(data, "GGUF", 4) == 0, is_pieces = size > 2 && data[0] == '\n' && data[1] < 128 && data[2] == '\n';
  const uint8_t *end = is_gguf || is_pieces ? data + size - (size < 64 ? size : 64) : memchr(data, 0, size);
  const char *text = (const char *)(end ? end : data);
  size_t length = size - (size_t)(text - (const char *)data);
  if (length > TEXT_MOST) length = TEXT_MOST;
  encode_and_decode(own_vocabulary(), text, length, true);
  Tokenizer *tokenizer = NULL;
  Gguf gguf;
  if (is_pieces) {
    tokenizer_from_sentencepiece(&tokenizer, "fuzz", data, size);
  } else if (!is_gguf) {
    tokenizer_from_json(&tokenizer, "fuzz", (const char *)data, end ? (size_t)(end - data) : size);
  } else if (gguf_parse(&gguf, "fuzz", data, size) == STATUS_OK) {
    tokenizer_from_gguf(&tokenizer, &gguf);
    gguf_close(&gguf);
  }
  if (tokenizer) encode_and_decode(tokenizer, text, length, false);
  tokenizer_free(tokenizer);
  return 0;
}
