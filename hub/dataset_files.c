#include "hub/dataset_files.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "hub/card.h"
#include "hub/select.h"

const char hub_card_name[] = "README.md";
enum { CARD_LIMIT = 16 << 20 };

// The files of one folder, chosen as if it were all there is.
static Status choose_in_folder(HubNames *chosen, const HubNames *all, const char *folder, const HubRequest *given, const char *place) {
  HubNames inside = {0}, found = {0};
  size_t length = strlen(folder);
  while (length && folder[length - 1] == '/') length--;
  for (int i = 0; i < all->count; i++)
    if (strncmp(all->items[i], folder, length) == 0 && all->items[i][length] == '/') hub_names_add(&inside, all->items[i] + length + 1);
  HubRequest request = *given;
  request.subset = NULL;
  Status status = hub_select_data(&found, &inside, &request, place);
  for (int i = 0; i < found.count; i++) {
    char *name = memory_format("%.*s/%s", (int)length, folder, found.items[i]);
    hub_names_add(chosen, name);
    free(name);
  }
  hub_names_release(&inside);
  hub_names_release(&found);
  return status;
}

// Nothing is chosen when the card does not tell.
static Status choose_by_card(HubNames *chosen, const HubNames *all, const char *card, const HubRequest *request, const char *place) {
  char *folder = NULL, *split = memory_copy_string(request->split ? request->split : "train");
  split[strcspn(split, "[+")] = 0;
  Buffer text = {0};
  HubNames patterns = {0};
  const char *subset = request->subset && strcmp(request->subset, "default") != 0 ? request->subset : NULL;
  Status status = file_read(&text, card, CARD_LIMIT);
  if (status == STATUS_OK && text.data)
    status = status_context(hub_card_patterns(&patterns, &folder, text.data, text.length, subset, split), "%s", place);
  if (status == STATUS_OK && patterns.count) {
    HubRequest by_patterns = *request;
    by_patterns.patterns = (const char *const *)patterns.items;
    by_patterns.pattern_count = patterns.count;
    status = hub_select_data(chosen, all, &by_patterns, place);
  } else if (status == STATUS_OK && folder) {
    status = choose_in_folder(chosen, all, folder, request, place);
  }
  hub_names_release(&patterns);
  buffer_release(&text);
  free(split), free(folder);
  return status;
}

Status dataset_files_choose(HubNames *chosen, const HubNames *all, const char *card, const HubRequest *request, const char *place) {
  if (card && !request->pattern_count) TRY(choose_by_card(chosen, all, card, request, place));
  return chosen->count ? STATUS_OK : hub_select_data(chosen, all, request, place);
}

// How deep files that are asked for by name can lie.
static int needed_depth(const HubRequest *request) {
  int depth = request->pattern_count ? 0 : HUB_FOLDER_DEPTH;
  for (int i = 0; i < request->pattern_count; i++) {
    int slashes = 0;
    for (const char *p = request->patterns[i]; *p; p++) slashes += *p == '/';
    if (strstr(request->patterns[i], "**")) slashes = HUB_FOLDER_DEPTH;
    if (slashes > depth) depth = slashes;
  }
  return depth;
}

Status dataset_files_of_folder(HubNames *chosen, const char *folder, const HubRequest *request) {
  HubNames all = {0};
  char *card = path_join(folder, hub_card_name);
  hub_names_read_folder(&all, folder, needed_depth(request));
  Status status = dataset_files_choose(chosen, &all, file_exists(card) ? card : NULL, request, folder);
  hub_names_release(&all);
  free(card);
  return status;
}
