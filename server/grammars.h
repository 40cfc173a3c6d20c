// Grammars of earlier requests, by their text: what a schema costs to read, and the masks that come while it is followed, are paid once.
#ifndef SERVER_GRAMMARS_H
#define SERVER_GRAMMARS_H

#include <pthread.h>

#include "runtime/constraint.h"

enum { GRAMMARS_MOST = 64 };

typedef struct GrammarEntry {
  char *text;  // "g" and the GBNF, or "s" and the schema
  Grammar *grammar;
  int users;
  uint64_t last_use;
} GrammarEntry;

typedef struct Grammars {
  pthread_mutex_t lock;
  GrammarEntry entries[GRAMMARS_MOST];
  uint64_t clock;
} Grammars;

void grammars_new(Grammars *grammars);
void grammars_free(Grammars *grammars);
// One of them; give it back by grammars_leave. Status as of grammar_from_schema (schema NULL: any object) and grammar_parse.
Status grammars_of_schema(Grammar **out, Grammars *grammars, const json_t *schema);
Status grammars_of_gbnf(Grammar **out, Grammars *grammars, const char *gbnf);
void grammars_leave(Grammars *grammars, Grammar *grammar);

#endif
