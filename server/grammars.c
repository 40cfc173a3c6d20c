#include "server/grammars.h"

#include <stdlib.h>
#include <string.h>

void grammars_new(Grammars *grammars) {
  *grammars = (Grammars){0};
  pthread_mutex_init(&grammars->lock, NULL);
}

static void empty_entry(GrammarEntry *entry) {
  if (entry->grammar) grammar_free(entry->grammar);
  free(entry->text);
  *entry = (GrammarEntry){0};
}

void grammars_free(Grammars *grammars) {
  for (int i = 0; i < GRAMMARS_MOST; i++) empty_entry(&grammars->entries[i]);
  pthread_mutex_destroy(&grammars->lock);
}

static Grammar *use(Grammars *grammars, GrammarEntry *entry) {
  entry->users++;
  entry->last_use = ++grammars->clock;
  return entry->grammar;
}

static Grammar *find(Grammars *grammars, const char *text) {
  Grammar *found = NULL;
  pthread_mutex_lock(&grammars->lock);
  for (int i = 0; i < GRAMMARS_MOST && !found; i++) {
    GrammarEntry *entry = &grammars->entries[i];
    if (entry->text && strcmp(entry->text, text) == 0) found = use(grammars, entry);
  }
  pthread_mutex_unlock(&grammars->lock);
  return found;
}

// In the place of the one longest unused; where all are in use it is its user's alone.
static void keep(Grammars *grammars, char *text, Grammar *grammar) {
  GrammarEntry *oldest = NULL;
  pthread_mutex_lock(&grammars->lock);
  for (int i = 0; i < GRAMMARS_MOST; i++) {
    GrammarEntry *entry = &grammars->entries[i];
    if (entry->users == 0 && (!oldest || entry->last_use < oldest->last_use)) oldest = entry;
  }
  if (oldest) {
    empty_entry(oldest);
    *oldest = (GrammarEntry){.text = text, .grammar = grammar};
    use(grammars, oldest);
  } else {
    free(text);
  }
  pthread_mutex_unlock(&grammars->lock);
}

// `text` is taken.
static Status get(Grammar **out, Grammars *grammars, char *text, const json_t *schema, const char *gbnf) {
  *out = find(grammars, text);
  Status status = STATUS_OK;
  if (!*out) {
    status = gbnf ? grammar_parse(out, gbnf) : grammar_from_schema(out, schema);
    if (status == STATUS_OK) {
      keep(grammars, text, *out);
      return STATUS_OK;
    }
  }
  free(text);
  return status;
}

Status grammars_of_schema(Grammar **out, Grammars *grammars, const json_t *schema) {
  char *text = schema ? json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY) : NULL, *key = memory_format("s%s", text ? text : "");
  free(text);
  return get(out, grammars, key, schema, NULL);
}

Status grammars_of_gbnf(Grammar **out, Grammars *grammars, const char *gbnf) {
  return get(out, grammars, memory_format("g%s", gbnf), NULL, gbnf);
}

void grammars_leave(Grammars *grammars, Grammar *grammar) {
  bool is_kept = false;
  pthread_mutex_lock(&grammars->lock);
  for (int i = 0; i < GRAMMARS_MOST && !is_kept; i++) {
    is_kept = grammars->entries[i].grammar == grammar;
    if (is_kept) grammars->entries[i].users--;
  }
  pthread_mutex_unlock(&grammars->lock);
  if (!is_kept) grammar_free(grammar);
}
