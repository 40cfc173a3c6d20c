// Rows of tokens and labels: what datasets become, and what micro-batches are made of.
//   ids    [count] token ids
//   labels [count] stand under ids: labels[i] == ids[i] where token i is trained, LABEL_MASKED elsewhere
//                  (Hugging Face's convention; the shift by one is made by batch_fill).
// A row of preference training is a prompt, masked, with one reply behind it or two, which both train:
//   ids = prompt, reply                      KTO: one that is wished for, or one to move away from
//   ids = prompt, better reply, worse reply  all others: each reply stands behind the prompt as if there were no other
#ifndef DATA_ROWS_H
#define DATA_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/file.h"
#include "core/memory.h"
#include "core/rng.h"
#include "core/status.h"
#include "data/tokenizer/tokenizer.h"

enum { LABEL_MASKED = -100 };

typedef struct TokenRow {
  int32_t *ids;  // [count]
  int32_t *labels;  // [count]
  int64_t count;
  // Labels that are targets: all but masked ones and the row's first, which nothing predicts; where a prompt is empty, no reply's first.
  int64_t trained;
  const char *source;  // "FILE:LINE"
  int64_t prompt;  // preference training: tokens of the prompt at the row's beginning; 0 in rows of supervised training
  int64_t rejected;  // where the worse reply begins: ids = prompt, better reply, worse reply; 0: there is one reply
  bool is_undesirable;  // KTO: the reply is one to move away from
} TokenRow;

// What became of a row of a file (or of a piece of one: completion cuts long texts into several rows).
typedef enum RowFate {
  ROW_KEPT,
  ROW_CUT,  // kept, its end cut off at sequence_len
  ROW_TOO_LONG,  // this and the following: dropped
  ROW_TOO_SHORT,
  ROW_UNTRAINED,  // no trained token
  ROW_DUPLICATE,
  ROW_EMPTY_REPLY,  // preference training: nothing to prefer, or to reject
  ROW_EQUAL_REPLIES,  // the better reply is the worse one
  ROW_BAD,  // not JSON, or not what its type needs
  ROW_FATES
} RowFate;

const char *row_fate_name(RowFate fate);  // "kept", "cut to sequence_len", ...

typedef struct RowEvent {
  RowFate fate;  // never ROW_KEPT
  const char *source;
  const char *reason;  // "1200 tokens, sequence_len is 1024"
} RowEvent;

typedef struct RowReport {
  int64_t read;  // rows taken from files
  int64_t held_out;  // rows moved from here to the evaluation set (val_set_size)
  int64_t fates[ROW_FATES];  // rows by fate; cut ones are not counted as kept
  RowEvent *events;  // each row that is not simply kept, in reading order
  int64_t event_count, event_capacity;
} RowReport;

// Rows and all that they point to; release with row_set_release.
typedef struct RowSet {
  Arena arena;
  FileMap map;  // of the cache that tokens lie in, if they do
  TokenRow *rows;
  int64_t count, capacity;
  RowReport report;
} RowSet;

typedef struct RowStatistics {
  int64_t rows, tokens, trained, longest;
  double mean;
} RowStatistics;

// Copies ids and labels; `source` is kept as it is (memory of row_set's arena, or that outlives it).
void row_set_add(RowSet *set, const int32_t *ids, const int32_t *labels, int64_t count, const char *source);
// The same for any row: copies its ids and labels, and what it says of its replies; `trained` is counted here.
void row_set_add_row(RowSet *set, const TokenRow *row);
int64_t row_count_trained(const TokenRow *row);  // what `trained` has to be
bool row_is_preference(const TokenRow *row);  // it says where its replies are; false too for a good reply to nothing, which reads alike
void row_set_event(RowSet *set, RowFate fate, const char *source, const char *format, ...) PRINTF_LIKE(4, 5);
RowStatistics row_set_statistics(const RowSet *set);  // reads no token
// -1 without rows; rows without a tokenizer are checked against the model by it. Reads all tokens.
int32_t row_set_largest_id(const RowSet *set);
// The report as text: counts, tokens, and up to `events` lines "SOURCE: fate: reason" (-1: all of them).
void row_set_describe(Buffer *out, const RowSet *set, int64_t events);
void row_set_release(RowSet *set);
// Tokens that lie in a mapped cache leave memory until they are next read, so that it does not grow with the rows that have been.
void row_set_forget(const RowSet *set);
// For those who read all rows in order, after each: the same now and then.
void row_set_has_read(const RowSet *set, int64_t row);

// How a row is shown to people: trained runs in colour and masked ones grey, or trained runs in [[...]];
// `with_ids` puts each token on a line with its id and label. Control characters print as \xNN. Of a preference row the replies
// begin lines of their own, "chosen: " and "rejected: ", or "desirable: " or "undesirable: "; those to move away from are red.
void row_show(Buffer *out, const TokenRow *row, const Tokenizer *tokenizer, bool colour, bool with_ids);

// Random numbers for the order of data: a function of seed, purpose and number (an epoch, a dataset) alone.
typedef enum DataOrder { DATA_ORDER_MERGED = 0, DATA_ORDER_DATASET = 1, DATA_ORDER_SHARD = 2, DATA_ORDER_EPOCH = 3 } DataOrder;
Rng data_rng(int64_t seed, DataOrder purpose, int64_t number);

#endif
