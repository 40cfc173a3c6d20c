// What the Hub says and what people write as ids: a list of files, a weight index, an id, names and digests. Whatever is accepted must stay
// inside the cache.
#include <stdlib.h>
#include <string.h>

#include "hub/card.h"
#include "hub/glob.h"
#include "hub/name.h"
#include "hub/remote.h"
#include "hub/select.h"
#include "hub/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds) {
  if (!holds) abort();
}

static void check_name(const char *name) {
  must(name[0] && name[0] != '/' && !strstr(name, "//") && strcmp(name, "..") != 0);
  must(strncmp(name, "../", 3) != 0 && !strstr(name, "/../"));
  size_t length = strlen(name);
  must(length < 3 || strcmp(name + length - 3, "/..") != 0);
}

static void select_all(const HubNames *names) {
  static const char *const patterns[] = {"*.json*", "**/train*"};
  for (int kind = HUB_MODEL; kind <= HUB_DATASET; kind++)
    for (int count = 0; count <= 2; count += 2) {
      HubNames chosen = {0};
      HubRequest request = {.kind = (HubKind)kind, .id = "org/name", .patterns = patterns, .pattern_count = count};
      if (hub_select(&chosen, names, &request, "org/name", NULL) == STATUS_OK) must(chosen.count > 0);
      for (int i = 0; i < chosen.count; i++) check_name(chosen.items[i]);
      hub_names_release(&chosen);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  HubListing listing;
  HubNames shards = {0}, listed = {0};
  HubId id;
  char *text = memory_new(size + 1, 1);
  memcpy(text, data, size);
  if (hub_listing_parse(&listing, text, size) == STATUS_OK) {
    must(hub_is_commit(listing.commit));
    for (int i = 0; i < listing.files.count; i++) check_name(listing.files.items[i]);
    select_all(&listing.files);
  }
  hub_listing_release(&listing);
  if (hub_select_shards(&shards, "index", text, size) == STATUS_OK)
    for (int i = 0; i < shards.count; i++) check_name(shards.items[i]);
  hub_names_release(&shards);
  if (hub_tree_parse(&listed, text, size))
    for (int i = 0; i < listed.count; i++) check_name(listed.items[i]);
  hub_names_release(&listed);
  char *folder;
  HubNames patterns = {0};
  hub_card_patterns(&patterns, &folder, text, size, size % 2 ? "small" : NULL, "train");
  for (int i = 0; i < patterns.count; i++) glob_matches(patterns.items[i], "data/train-00000-of-00001.jsonl");
  hub_names_release(&patterns);
  free(folder);
  if (hub_id_parse(&id, text)) {
    check_name(id.repository);
    if (id.revision) check_name(id.revision);
    if (id.file) check_name(id.file);
    hub_id_release(&id);
  }
  if (hub_file_name_is_safe(text)) check_name(text);
  if (hub_etag_is_safe(text)) must(!strchr(text, '/') && text[0] != '.');
  free(text);
  return 0;
}
