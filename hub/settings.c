// The environment, in the order in which huggingface_hub looks at it.
#include "hub/settings.h"

#include <ctype.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "core/file.h"
#include "core/memory.h"
#include "core/text.h"

static const char *environment(const char *name) {
  const char *value = getenv(name);
  return value && *value ? value : NULL;
}

static bool environment_is_true(const char *name) {
  static const char *const words[] = {"1", "on", "yes", "true"};
  const char *value = environment(name);
  for (size_t i = 0; value && i < sizeof words / sizeof *words; i++)
    if (strcasecmp(value, words[i]) == 0) return true;
  return false;
}

static const char *home_folder(void) {
  const char *home = environment("HOME");
  if (home) return home;
  const struct passwd *user = getpwuid(getuid());
  return user && user->pw_dir ? user->pw_dir : "/";
}

// A path that may begin with "~/".
static char *expand_home(const char *path) {
  if (text_starts_with(path, "~/")) return path_join(home_folder(), path + 2);
  return memory_copy_string(path);
}

static char *hugging_face_home(void) {
  if (environment("HF_HOME")) return expand_home(environment("HF_HOME"));
  if (!environment("XDG_CACHE_HOME")) return path_join(home_folder(), ".cache/huggingface");
  char *cache = expand_home(environment("XDG_CACHE_HOME")), *home = path_join(cache, "huggingface");
  free(cache);
  return home;
}

static char *cache_folder(const char *home) {
  const char *given = environment("HF_HUB_CACHE");
  if (!given) given = environment("HUGGINGFACE_HUB_CACHE");  // its older name
  return given ? expand_home(given) : path_join(home, "hub");
}

// A token goes into a header line, so nothing but plain characters may be in it.
static Status take_token(HubSettings *settings, const char *text, const char *from) {
  size_t length = strlen(text);
  while (length && isspace((unsigned char)text[length - 1])) length--;
  while (length && isspace((unsigned char)*text)) text++, length--;
  if (!length) return STATUS_OK;
  for (size_t i = 0; i < length; i++)
    if (!isgraph((unsigned char)text[i]) || text[i] == '"' || text[i] == '\\')
      return status_fail(STATUS_USAGE, "%s holds no token: a token is one word of letters, digits and '_'", from);
  settings->token = memory_format("%.*s", (int)length, text);
  return STATUS_OK;
}

static Status read_token(HubSettings *settings, const char *home) {
  enum { TOKEN_LIMIT = 1 << 16 };
  if (environment("HF_TOKEN")) return take_token(settings, environment("HF_TOKEN"), "HF_TOKEN");
  if (environment("HUGGING_FACE_HUB_TOKEN")) return take_token(settings, environment("HUGGING_FACE_HUB_TOKEN"), "HUGGING_FACE_HUB_TOKEN");
  if (environment_is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return STATUS_OK;
  char *path = environment("HF_TOKEN_PATH") ? expand_home(environment("HF_TOKEN_PATH")) : path_join(home, "token");
  Buffer text = {0};
  Status status = STATUS_OK;
  if (file_exists(path)) status = file_read(&text, path, TOKEN_LIMIT);
  if (status == STATUS_OK && text.data) status = take_token(settings, text.data, path);
  buffer_release(&text);
  free(path);
  return status;
}

Status hub_settings_read(HubSettings *settings) {
  char *home = hugging_face_home();
  const char *endpoint = environment("HF_ENDPOINT");
  *settings = (HubSettings){.cache = cache_folder(home), .endpoint = memory_copy_string(endpoint ? endpoint : "https://huggingface.co")};
  for (size_t length = strlen(settings->endpoint); length && settings->endpoint[length - 1] == '/';) settings->endpoint[--length] = 0;
  settings->offline = environment_is_true("HF_HUB_OFFLINE") || environment_is_true("TRANSFORMERS_OFFLINE");
  Status status = read_token(settings, home);
  free(home);
  return status;
}

void hub_settings_release(HubSettings *settings) {
  free(settings->cache);
  free(settings->endpoint);
  free(settings->token);
  *settings = (HubSettings){0};
}
