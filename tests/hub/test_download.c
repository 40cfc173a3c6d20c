// Ids of the Hub against a server on loopback: the cache's layout, broken and hostile answers, tokens, and what is asked a second time.
#define _GNU_SOURCE
#include "tests/support/test.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "hub/cache.h"
#include "hub/hub.h"
#include "tests/support/hub_server.h"

enum { WEIGHTS = 300000 };

typedef struct HubTest {
  HubServer *server;
  char *home;  // HF_HOME
  char weights[WEIGHTS];
  char *path;  // of the last success
} HubTest;

static HubTest test;
static HubNames names;  // of the last success with a dataset

static int start(void **state) {
  (void)state;
  static const char *const variables[] = {"HF_HUB_CACHE",
                                          "HUGGINGFACE_HUB_CACHE",
                                          "HF_TOKEN",
                                          "HUGGING_FACE_HUB_TOKEN",
                                          "HF_TOKEN_PATH",
                                          "HF_HUB_OFFLINE",
                                          "TRANSFORMERS_OFFLINE",
                                          "http_proxy",
                                          "HTTP_PROXY",
                                          "all_proxy",
                                          "ALL_PROXY",
                                          "HF_HUB_DISABLE_IMPLICIT_TOKEN"};
  for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) unsetenv(variables[i]);
  test = (HubTest){.server = hub_server_start(), .home = temporary_folder()};
  Rng rng = rng_new(7, RNG_STREAM_TEST);
  for (int i = 0; i < WEIGHTS; i++) test.weights[i] = (char)rng_next(&rng);
  setenv("HF_HOME", test.home, 1);
  setenv("HF_ENDPOINT", hub_server_url(test.server), 1);
  setenv("HF_HUB_DOWNLOAD_TIMEOUT", "2", 1);
  setenv("no_proxy", "127.0.0.1,localhost", 1);
  log_set_quiet(true);
  return 0;
}

static int stop(void **state) {
  (void)state;
  hub_server_stop(test.server);
  directory_remove(test.home);
  free(test.home);
  free(test.path);
  hub_names_release(&names);
  return 0;
}

static void add(const char *name, const char *text) { hub_server_add(test.server, "models", "org/tiny", name, text, strlen(text)); }

// config.json, tokenizer.json and the weights, with files that nobody wants.
static void add_model(void) {
  add("config.json", "{\"model_type\": \"llama\"}");
  add("tokenizer.json", "{}");
  add("README.md", "# tiny\n");
  add("pytorch_model.bin", "pickle");
  add("onnx/model.safetensors", "other");
  hub_server_add(test.server, "models", "org/tiny", "model.safetensors", test.weights, WEIGHTS);
}

static Status resolve(HubKind kind, const char *id) {
  free(test.path);
  return hub_resolve(&test.path, &(HubRequest){.kind = kind, .id = id});
}

static void assert_content(const char *folder, const char *name, const char *bytes, size_t length) {
  char *path = path_join(folder, name);
  Buffer content = {0};
  buffer_reserve(&content, 1);
  assert_ok(file_read(&content, path, (size_t)1 << 30));
  assert_int_equal(content.length, length);
  assert_memory_equal(content.data, bytes, length);
  buffer_release(&content);
  free(path);
}

// Everything in the cache's folder that ends so.
static int count_files(const char *folder, const char *ending) {
  DIR *stream = opendir(folder);
  int count = 0;
  if (!stream) return 0;
  for (struct dirent *entry; (entry = readdir(stream));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    char *path = path_join(folder, entry->d_name);
    struct stat information;
    if (lstat(path, &information) == 0 && S_ISDIR(information.st_mode)) count += count_files(path, ending);
    else count += text_ends_with(entry->d_name, ending);
    free(path);
  }
  closedir(stream);
  return count;
}

static char *in_cache(const char *relative) { return memory_format("%s/hub/%s", test.home, relative); }

static void assert_no_blob_kept(void) {
  char *blobs = in_cache("models--org--tiny/blobs");
  char sha[65];
  sha256_bytes(sha, test.weights, WEIGHTS);
  char *blob = path_join(blobs, sha);
  assert_false(file_exists(blob));
  free(blob), free(blobs);
}

// --- layout ---

static void a_model_comes_into_the_layout_of_huggingface_hub(void **state) {
  (void)state;
  add_model();
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  const char *commit = hub_server_commit(test.server, "models", "org/tiny");
  char *snapshot = memory_format("%s/hub/models--org--tiny/snapshots/%s", test.home, commit);
  assert_string_equal(test.path, snapshot);
  assert_content(test.path, "model.safetensors", test.weights, WEIGHTS);
  char *reference = in_cache("models--org--tiny/refs/main");
  assert_content("/", reference, commit, 40);
  char sha[65], target[256], *link = path_join(snapshot, "model.safetensors"), *expected;
  sha256_bytes(sha, test.weights, WEIGHTS);
  expected = memory_format("../../blobs/%s", sha);
  ssize_t length = readlink(link, target, sizeof target - 1);
  assert_true(length > 0);
  target[length] = 0;
  assert_string_equal(target, expected);
  char *absent = memory_format("%s/hub/models--org--tiny/.no_exist/%s/tokenizer_config.json", test.home, commit);
  assert_true(file_exists(absent));
  assert_int_equal(count_files(snapshot, ""), 3);  // nothing that nobody wants
  assert_int_equal(count_files(test.home, ".incomplete"), 0);
  free(absent), free(expected), free(link), free(reference), free(snapshot);
}

static void the_second_time_nobody_is_asked(void **state) {
  (void)state;
  add_model();
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  hub_server_forget(test.server);
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_ok(resolve(HUB_TOKENIZER, "org/tiny"));
  assert_int_equal(hub_server_seen_count(test.server), 0);
  hub_server_stop(test.server);
  test.server = NULL;
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
}

static void a_tokenizer_comes_without_the_weights(void **state) {
  (void)state;
  add_model();
  assert_ok(resolve(HUB_TOKENIZER, "org/tiny"));
  assert_int_equal(hub_server_count(test.server, NULL, "safetensors"), 0);
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_int_equal(hub_server_count(test.server, "GET", "/tokenizer.json"), 1);
}

static void drop_marks(void) {
  char *absences = in_cache("models--org--tiny/.no_exist"), *trees = in_cache("models--org--tiny/trees");
  assert_ok(directory_remove(absences));
  assert_ok(directory_remove(trees));
  free(absences), free(trees);
}

static void a_snapshot_that_may_lack_files_is_asked_for_and_used_when_the_hub_is_down(void **state) {
  (void)state;
  add_model();
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  drop_marks();  // as an old huggingface_hub leaves it
  hub_server_forget(test.server);
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_int_equal(hub_server_seen_count(test.server), 1);  // the list alone
  drop_marks();
  hub_server_stop(test.server);
  test.server = NULL;
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_fails(STATUS_FAILED, resolve(HUB_MODEL, "org/other"), "127.0.0.1");
}

static void a_mirror_that_lists_names_alone_will_do(void **state) {
  (void)state;
  add_model();
  hub_server_list_plainly(test.server);
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  hub_server_forget(test.server);
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_int_equal(hub_server_seen_count(test.server), 0);  // it is known which files there are not
}

// A snapshot with its list, of which a file is not there.
static void a_hole_in_a_snapshot_is_filled(void **state) {
  (void)state;
  add_model();
  add("tokenizer_config.json", "{}");
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  char *settings = path_join(test.path, "tokenizer_config.json");
  unlink(settings);
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_true(file_exists(settings));
  free(settings);
}

static void shards_are_those_of_the_index(void **state) {
  (void)state;
  add("config.json", "{}");
  add("tokenizer.json", "{}");
  add("model.safetensors.index.json",
      "{\"weight_map\": {\"a\": \"w-1.safetensors\", \"b\": \"w-2.safetensors\", \"c\": \"w-1.safetensors\"}}");
  add("w-1.safetensors", "one"), add("w-2.safetensors", "two"), add("consolidated.safetensors", "all of it again");
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "w-1.safetensors", "one", 3);
  assert_content(test.path, "w-2.safetensors", "two", 3);
  assert_int_equal(hub_server_count(test.server, NULL, "consolidated"), 0);
  hub_server_forget(test.server);
  char *shard = path_join(test.path, "w-2.safetensors");
  unlink(shard);
  free(shard);
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "w-2.safetensors", "two", 3);
  assert_int_equal(hub_server_count(test.server, "GET", "/resolve/"), 0);  // its blob was there
}

static void revisions_are_branches_tags_and_commits(void **state) {
  (void)state;
  add_model();
  hub_server_set_revision(test.server, "models", "org/tiny", "refs/pr/1");
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "no branch, tag or commit \"main\"");
  free(test.path);
  assert_ok(hub_resolve(&test.path, &(HubRequest){.kind = HUB_MODEL, .id = "org/tiny", .revision = "refs/pr/1"}));
  char *reference = in_cache("models--org--tiny/refs/refs/pr/1");
  assert_true(file_exists(reference));
  free(reference);
  assert_int_equal(hub_server_count(test.server, "GET", "/api/models/org/tiny/revision/refs%2Fpr%2F1"), 1);
  hub_server_forget(test.server);
  char *id = memory_format("org/tiny@%s", hub_server_commit(test.server, "models", "org/tiny"));
  assert_ok(resolve(HUB_MODEL, id));
  assert_ok(resolve(HUB_MODEL, "org/tiny@refs/pr/1"));
  assert_int_equal(hub_server_seen_count(test.server), 0);
  free(id);
}

static void one_gguf_file_is_named_in_the_id(void **state) {
  (void)state;
  add("README.md", "x"), add("q/tiny.Q4_K_M.gguf", "GGUF4"), add("tiny.f16.gguf", "GGUF16");
  assert_ok(resolve(HUB_MODEL, "org/tiny/q/tiny.Q4_K_M.gguf"));
  assert_content("/", test.path, "GGUF4", 5);
  assert_true(text_ends_with(test.path, "/q/tiny.Q4_K_M.gguf"));
  char target[256];
  ssize_t length = readlink(test.path, target, sizeof target);
  assert_true(length > 15 && memcmp(target, "../../../blobs/", 15) == 0);
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "more than one GGUF file", "org/tiny/FILE.gguf", "tiny.f16.gguf");
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny/gone.gguf"), "no file \"gone.gguf\"", "q/tiny.Q4_K_M.gguf");
}

static void split_gguf_is_fetched_whole(void **state) {
  (void)state;
  add("README.md", "x"), add("q/m-00002-of-00003.gguf", "two"), add("q/m-00003-of-00003.gguf", "three"),
      add("q/m-00001-of-00003.gguf", "one");
  const char *const ids[] = {"org/tiny", "org/tiny/q/m-00001-of-00003.gguf", "org/tiny/q/m-00003-of-00003.gguf"};
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
    assert_ok(resolve(HUB_MODEL, ids[i]));
    assert_true(text_ends_with(test.path, "/q/m-00001-of-00003.gguf"));
    assert_content("/", test.path, "one", 3);
    char *folder = path_parent(test.path);
    assert_content(folder, "m-00002-of-00003.gguf", "two", 3);
    assert_content(folder, "m-00003-of-00003.gguf", "three", 5);
    // What was removed is noticed.
    char *last = path_join(folder, "m-00003-of-00003.gguf");
    unlink(last);
    free(folder), free(last);
  }
}

static void split_gguf_with_a_file_missing_is_refused(void **state) {
  (void)state;
  add("m-00001-of-00002.gguf", "one");
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "m-00002-of-00002.gguf", "not there");
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny/m-00001-of-00002.gguf"), "m-00002-of-00002.gguf", "not there");
}

static void pickles_are_refused_with_the_remedy(void **state) {
  (void)state;
  add("config.json", "{}"), add("pytorch_model.bin", "pickle");
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "pickles", "safe_serialization=True");
  add("adapter_config.json", "{}"), add("adapter_model.bin", "pickle");
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_ADAPTER, "org/tiny"), "adapter_model.bin", "save_pretrained");
  assert_int_equal(hub_server_count(test.server, NULL, "/resolve/"), 0);
}

static void an_adapter_is_two_files(void **state) {
  (void)state;
  add("adapter_config.json", "{}"), add("adapter_model.safetensors", "weights"), add("optimizer.pt", "x"), add("README.md", "x");
  assert_ok(resolve(HUB_ADAPTER, "org/tiny"));
  assert_int_equal(count_files(test.path, ""), 2);
}

// --- what breaks on the way ---

static void a_broken_connection_is_taken_up_where_it_broke(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .times = 2, .cut_after = 100000});
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "model.safetensors", test.weights, WEIGHTS);
  int64_t next = 0;
  for (int i = 0; i < hub_server_seen_count(test.server); i++) {
    const HubSeen *seen = hub_server_seen(test.server, i);
    if (!text_starts_with(seen->path, "/cdn/")) continue;
    assert_int_equal(seen->from < 0 ? 0 : seen->from, next);
    next += seen->sent;
  }
  assert_int_equal(next, WEIGHTS);  // no byte came twice
}

static void an_old_beginning_that_does_not_fit_is_dropped(void **state) {
  (void)state;
  add_model();
  char sha[65];
  sha256_bytes(sha, test.weights, WEIGHTS);
  char *blobs = in_cache("models--org--tiny/blobs"), *partial = memory_format("%s/%s.incomplete", blobs, sha);
  assert_ok(directory_create(blobs));
  assert_ok(file_write_whole(partial, "not the beginning", 17));
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "model.safetensors", test.weights, WEIGHTS);
  assert_int_equal(hub_server_count(test.server, "GET", "/cdn/"), 2);
  free(partial), free(blobs);
}

static void a_good_beginning_is_kept(void **state) {
  (void)state;
  add_model();
  char sha[65];
  sha256_bytes(sha, test.weights, WEIGHTS);
  char *blobs = in_cache("models--org--tiny/blobs"), *partial = memory_format("%s/%s.incomplete", blobs, sha);
  assert_ok(directory_create(blobs));
  assert_ok(file_write_whole(partial, test.weights, 123456));
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "model.safetensors", test.weights, WEIGHTS);
  const HubSeen *last = NULL;
  for (int i = 0; i < hub_server_seen_count(test.server); i++)
    if (text_starts_with(hub_server_seen(test.server, i)->path, "/cdn/")) last = hub_server_seen(test.server, i);
  assert_non_null(last);
  assert_int_equal(last->from, 123456);
  assert_int_equal(last->sent, WEIGHTS - 123456);
  free(partial), free(blobs);
}

static void a_server_without_ranges_sends_all_of_it_again(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .times = 1, .cut_after = 100000});
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .times = 1, .ignores_range = true});
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "model.safetensors", test.weights, WEIGHTS);
}

static void a_range_that_is_refused_is_given_up(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .times = 1, .cut_after = 100000});
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .times = 1, .code = 416});
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .times = 1, .code = 206, .headers = "Content-Range: bytes 5-11/12\r\n"});
  assert_fails(STATUS_FAILED, resolve(HUB_MODEL, "org/tiny"), "another part");
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "model.safetensors", test.weights, WEIGHTS);
}

static void an_empty_file_is_a_file(void **state) {
  (void)state;
  add_model();
  add("merges.txt", "");
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "merges.txt", "", 0);
}

static void what_the_disk_cannot_hold_is_refused_before_it_comes(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/resolve/",
                                           .code = 302,
                                           .headers = "Location: /cdn/x\r\nX-Linked-Size: 4000000000000000000\r\nX-Linked-Etag: "
                                                      "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n"});
  assert_fails(STATUS_NO_SPACE, resolve(HUB_MODEL, "org/tiny"), "make room", "HF_HUB_CACHE");
  assert_int_equal(hub_server_count(test.server, NULL, "/cdn/"), 0);
}

static void wrong_content_is_refused_and_not_kept(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .times = 1, .corrupt = true});
  assert_fails(STATUS_FAILED, resolve(HUB_MODEL, "org/tiny"), "digest", "not kept");
  assert_no_blob_kept();
  assert_int_equal(count_files(test.home, ".incomplete"), 0);
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "model.safetensors", test.weights, WEIGHTS);
}

static void wrong_content_of_a_small_file_is_refused(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/config.json", .only_get = true, .corrupt = true});
  assert_fails(STATUS_FAILED, resolve(HUB_MODEL, "org/tiny"), "config.json", "digest");
}

static void content_that_stays_short_is_refused(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .times = 1, .cut_after = 1000});
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .code = 500});
  assert_fails(STATUS_FAILED, resolve(HUB_MODEL, "org/tiny"), "500");
  assert_no_blob_kept();
  assert_int_equal(count_files(test.home, ".incomplete"), 1);  // a later attempt goes on there
}

static void silence_is_a_broken_connection(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .times = 1, .stall_seconds = 4});
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "model.safetensors", test.weights, WEIGHTS);
  assert_int_equal(hub_server_count(test.server, "GET", "/cdn/"), 2);
}

static void errors_of_the_server_pass(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/api/", .times = 1, .code = 500});
  hub_server_fault(test.server, (HubFault){.path = "/resolve/", .times = 1, .code = 503});
  hub_server_fault(test.server, (HubFault){.path = "/cdn/", .times = 1, .code = 429, .headers = "Retry-After: 1\r\n"});
  double begin = time_seconds();
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_true(time_seconds() - begin >= 1);
  assert_content(test.path, "model.safetensors", test.weights, WEIGHTS);
}

static void errors_that_last_are_told(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/api/", .times = 1, .code = 429, .headers = "Retry-After: 3600\r\n"});
  assert_fails(STATUS_FAILED, resolve(HUB_MODEL, "org/tiny"), "429", "later", "HF_TOKEN");
  hub_server_fault(test.server, (HubFault){.path = "/api/", .code = 502});
  assert_fails(STATUS_FAILED, resolve(HUB_MODEL, "org/tiny"), "502");
}

// --- who may ---

static void refusals_say_what_to_do(void **state) {
  (void)state;
  add_model();
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/unknown"), "org/unknown", "no such model", "HF_TOKEN", "path");
  hub_server_require_token(test.server, "hf_secret", "GatedRepo");
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "gated", "accept its terms", "HF_TOKEN");
  hub_server_require_token(test.server, "hf_secret", "RepoNotFound");
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "no such model, or it is private", "HF_TOKEN");
  hub_server_require_token(test.server, "hf_secret", "");
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "HF_TOKEN");
  setenv("HF_TOKEN", "hf_wrong", 1);
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "token is not accepted");
  assert_null(strstr(status_message(), "hf_wrong"));
  setenv("HF_TOKEN", "two words", 1);
  assert_fails(STATUS_USAGE, resolve(HUB_MODEL, "org/tiny"), "HF_TOKEN holds no token");
  unsetenv("HF_TOKEN");
}

static void the_token_goes_to_the_hub_and_to_no_other(void **state) {
  (void)state;
  add_model();
  HubServer *other = hub_server_start();
  hub_server_add(other, "models", "org/tiny", "model.safetensors", test.weights, WEIGHTS);
  hub_server_require_token(test.server, "hf_secret", "GatedRepo");
  hub_server_redirect_cdn(test.server, hub_server_url(other));
  char *token = path_join(test.home, "token");
  assert_ok(file_write_whole(token, "hf_secret\n", 10));
  assert_ok(resolve(HUB_MODEL, "org/tiny"));
  assert_content(test.path, "model.safetensors", test.weights, WEIGHTS);
  assert_int_equal(hub_server_seen_count(other), 1);
  assert_false(hub_server_seen(other, 0)->has_token);
  for (int i = 0; i < hub_server_seen_count(test.server); i++) assert_true(hub_server_seen(test.server, i)->has_token);
  hub_server_stop(other);
  free(token);
}

static void offline_asks_nobody_and_says_what_is_missing(void **state) {
  (void)state;
  add_model();
  setenv("HF_HUB_OFFLINE", "1", 1);
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "does not have anything of the model org/tiny", "main", "HF_HUB_OFFLINE");
  unsetenv("HF_HUB_OFFLINE");
  assert_ok(resolve(HUB_TOKENIZER, "org/tiny"));
  setenv("TRANSFORMERS_OFFLINE", "1", 1);
  hub_server_forget(test.server);
  assert_ok(resolve(HUB_TOKENIZER, "org/tiny"));
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "all that is needed");
  unsetenv("TRANSFORMERS_OFFLINE");
  free(test.path);
  assert_fails(STATUS_BAD_INPUT, hub_resolve(&test.path, &(HubRequest){.kind = HUB_MODEL, .id = "org/tiny", .cache_only = true}), "cache");
  assert_int_equal(hub_server_seen_count(test.server), 0);
}

// --- hostile ---

static void names_that_lead_out_are_refused(void **state) {
  (void)state;
  static const char *const hostile[] = {"../../evil.json", "/etc/evil.json", "a/../../evil.json", "a//b.json", "./x.json", "a\\\\b.json"};
  for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
    char *repository = memory_format("org/evil%zu", i);
    hub_server_add(test.server, "models", repository, "config.json", "{}", 2);
    hub_server_add(test.server, "models", repository, hostile[i], "evil", 4);
    assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, repository), "leads out of its folder");
    free(repository);
  }
  assert_int_equal(hub_server_count(test.server, NULL, "/resolve/"), 0);
  assert_int_equal(count_files(test.home, ".json"), 0);
}

static void a_shard_outside_the_folder_is_refused(void **state) {
  (void)state;
  add("config.json", "{}"), add("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"../../../../evil.safetensors\"}}");
  add("w.safetensors", "w");
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "weight_map");
}

static void a_digest_that_is_a_path_is_refused(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/config.json", .code = 200, .headers = "ETag: \"../../../evil\"\r\n"});
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "ETag cannot be one");
}

static void answers_that_make_no_sense_are_refused(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server, (HubFault){.path = "/api/", .times = 1, .code = 200});
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/tiny"), "not JSON");
  hub_server_fault(test.server, (HubFault){.path = "/api/", .times = 1, .code = 302, .headers = "Location: file:///etc/passwd\r\n"});
  assert_fails(STATUS_FAILED, resolve(HUB_MODEL, "org/tiny"), "redirects to what is no http");
  hub_server_fault(test.server, (HubFault){.path = "/api/", .times = 20, .code = 302, .headers = "Location: /api/again\r\n"});
  assert_fails(STATUS_FAILED, resolve(HUB_MODEL, "org/tiny"), "redirects without end");
}

static void a_renamed_repository_is_followed(void **state) {
  (void)state;
  add_model();
  hub_server_fault(test.server,
                   (HubFault){.path = "/api/models/org/old/", .code = 307, .headers = "Location: /api/models/org/tiny/revision/main\r\n"});
  hub_server_fault(test.server, (HubFault){.path = "/org/old/resolve/", .code = 404});
  assert_fails(STATUS_BAD_INPUT, resolve(HUB_MODEL, "org/old"), "org/old");
  assert_int_equal(hub_server_count(test.server, "GET", "/api/models/org/tiny/revision/main"), 1);
}

// --- datasets ---

static void add_data(const char *name, const char *text) { hub_server_add(test.server, "datasets", "org/rows", name, text, strlen(text)); }

static Status resolve_data(const char *const *patterns, int count, const char *subset, const char *split) {
  free(test.path);
  hub_names_release(&names);
  HubRequest request = {
      .kind = HUB_DATASET, .id = "org/rows", .patterns = patterns, .pattern_count = count, .subset = subset, .split = split};
  return hub_resolve_files(&test.path, &names, &request);
}

static void assert_names_at(const char *const *expected, int count, int line) {
  if (names.count != count) fail_msg("line %d: %d files", line, names.count);
  for (int i = 0; i < count; i++) {
    if (strcmp(names.items[i], expected[i]) != 0) fail_msg("line %d: %s in place of %s", line, names.items[i], expected[i]);
    char *path = path_join(test.path, names.items[i]);
    assert_true(file_exists(path));
    free(path);
  }
  hub_names_release(&names);
}
#define assert_names(...) assert_names_at((const char *[]){__VA_ARGS__}, sizeof(const char *[]){__VA_ARGS__} / sizeof(char *), __LINE__)

static void data_files_are_of_the_kind_that_most_have_and_of_the_split(void **state) {
  (void)state;
  add_data("README.md", "x"), add_data("dataset_infos.json", "{}"), add_data("LICENSE.txt", "x");
  add_data("data/train.jsonl", "{}"), add_data("data/test.jsonl", "{}"), add_data("extra.csv", "a");
  assert_ok(resolve_data(NULL, 0, NULL, NULL));
  assert_names("data/train.jsonl");
  assert_int_equal(hub_server_count(test.server, NULL, "extra.csv") + hub_server_count(test.server, NULL, "test.jsonl"), 0);
  assert_non_null(strstr(test.path, "/hub/datasets--org--rows/snapshots/"));
  hub_server_forget(test.server);
  assert_ok(resolve_data(NULL, 0, NULL, "train[:10%]+train[-10%:]"));
  assert_names("data/train.jsonl");
  assert_int_equal(hub_server_seen_count(test.server), 0);
  assert_ok(resolve_data(NULL, 0, NULL, "train+test"));
  assert_names("data/train.jsonl", "data/test.jsonl");
  assert_fails(STATUS_BAD_INPUT, resolve_data(NULL, 0, NULL, "validation"), "no files of the split \"validation\"", "data/train.jsonl");
}

static void data_files_and_folders_choose(void **state) {
  (void)state;
  add_data("en/train-1.jsonl", "1"), add_data("en/train-2.jsonl", "2"), add_data("de/train.jsonl", "3"), add_data("x.parquet", "4");
  assert_ok(resolve_data((const char *const[]){"en/*.jsonl"}, 1, NULL, NULL));
  assert_names("en/train-1.jsonl", "en/train-2.jsonl");
  assert_ok(resolve_data(NULL, 0, "de", NULL));
  assert_names("de/train.jsonl");
  hub_server_forget(test.server);
  assert_ok(resolve_data((const char *const[]){"de/train.jsonl"}, 1, NULL, NULL));
  assert_names("de/train.jsonl");
  assert_int_equal(hub_server_seen_count(test.server), 0);
  assert_fails(STATUS_BAD_INPUT, resolve_data(NULL, 0, "fr", NULL), "no folder \"fr\"", "de/train.jsonl");
  assert_fails(STATUS_BAD_INPUT, resolve_data((const char *const[]){"*.jsonl"}, 1, NULL, NULL), "no file \"*.jsonl\"");
  assert_fails(STATUS_BAD_INPUT, resolve_data((const char *const[]){"*.parquet"}, 1, NULL, NULL), "Parquet");
}

static void the_card_says_which_files_are_what(void **state) {
  (void)state;
  add_data("README.md",
           "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: [a.jsonl, more/*.jsonl]\n  - "
           "split: test\n    path: b.jsonl\n- config_name: small\n  data_dir: small\n- config_name: plain\n  data_files: b.jsonl\n---\n# "
           "Rows\n");
  add_data("a.jsonl", "a"), add_data("b.jsonl", "b"), add_data("more/c.jsonl", "c"), add_data("small/train.jsonl", "s"),
      add_data("small/dev.jsonl", "s");
  assert_ok(resolve_data(NULL, 0, NULL, NULL));
  assert_names("a.jsonl", "more/c.jsonl");
  assert_ok(resolve_data(NULL, 0, "default", "test[:5]"));
  assert_names("b.jsonl");
  assert_ok(resolve_data(NULL, 0, "small", "train"));
  assert_names("small/train.jsonl");
  hub_server_forget(test.server);
  assert_ok(resolve_data(NULL, 0, "plain", NULL));
  assert_names("b.jsonl");
  assert_int_equal(hub_server_seen_count(test.server), 0);
  assert_fails(STATUS_BAD_INPUT, resolve_data(NULL, 0, "large", NULL), "no configuration \"large\"", "default, small, plain");
  assert_fails(STATUS_BAD_INPUT, resolve_data(NULL, 0, NULL, "dev"), "no split \"dev\"", "train, test");
}

static void parquet_is_refused_with_the_command_that_converts_it(void **state) {
  (void)state;
  add_data("README.md", "x"), add_data("data/train-00000-of-00001.parquet", "PAR1");
  assert_fails(STATUS_BAD_INPUT, resolve_data(NULL, 0, NULL, NULL), "data/train-00000-of-00001.parquet", "load_dataset(\"org/rows\"",
               "to_json");
}

static void a_dataset_in_the_cache_is_used_when_the_hub_is_down(void **state) {
  (void)state;
  add_data("rows.jsonl", "{}");
  hub_server_list_plainly(test.server);  // so that only the Hub knows whether this is all
  assert_ok(resolve_data(NULL, 0, NULL, NULL));
  hub_server_forget(test.server);
  assert_ok(resolve_data(NULL, 0, NULL, NULL));
  assert_int_equal(hub_server_seen_count(test.server), 1);
  hub_server_stop(test.server);
  test.server = NULL;
  assert_ok(resolve_data(NULL, 0, NULL, NULL));
  assert_content(test.path, "rows.jsonl", "{}", 2);
}

#define hub_test(function) cmocka_unit_test_setup_teardown(function, start, stop)

int main(void) {
  const struct CMUnitTest tests[] = {
      hub_test(a_model_comes_into_the_layout_of_huggingface_hub),
      hub_test(the_second_time_nobody_is_asked),
      hub_test(a_tokenizer_comes_without_the_weights),
      hub_test(a_snapshot_that_may_lack_files_is_asked_for_and_used_when_the_hub_is_down),
      hub_test(a_mirror_that_lists_names_alone_will_do),
      hub_test(a_hole_in_a_snapshot_is_filled),
      hub_test(shards_are_those_of_the_index),
      hub_test(revisions_are_branches_tags_and_commits),
      hub_test(one_gguf_file_is_named_in_the_id),
      hub_test(split_gguf_is_fetched_whole),
      hub_test(split_gguf_with_a_file_missing_is_refused),
      hub_test(pickles_are_refused_with_the_remedy),
      hub_test(an_adapter_is_two_files),
      hub_test(a_broken_connection_is_taken_up_where_it_broke),
      hub_test(an_old_beginning_that_does_not_fit_is_dropped),
      hub_test(a_good_beginning_is_kept),
      hub_test(a_server_without_ranges_sends_all_of_it_again),
      hub_test(a_range_that_is_refused_is_given_up),
      hub_test(an_empty_file_is_a_file),
      hub_test(what_the_disk_cannot_hold_is_refused_before_it_comes),
      hub_test(wrong_content_is_refused_and_not_kept),
      hub_test(wrong_content_of_a_small_file_is_refused),
      hub_test(content_that_stays_short_is_refused),
      hub_test(silence_is_a_broken_connection),
      hub_test(errors_of_the_server_pass),
      hub_test(errors_that_last_are_told),
      hub_test(refusals_say_what_to_do),
      hub_test(the_token_goes_to_the_hub_and_to_no_other),
      hub_test(offline_asks_nobody_and_says_what_is_missing),
      hub_test(names_that_lead_out_are_refused),
      hub_test(a_shard_outside_the_folder_is_refused),
      hub_test(a_digest_that_is_a_path_is_refused),
      hub_test(answers_that_make_no_sense_are_refused),
      hub_test(a_renamed_repository_is_followed),
      hub_test(data_files_are_of_the_kind_that_most_have_and_of_the_split),
      hub_test(data_files_and_folders_choose),
      hub_test(the_card_says_which_files_are_what),
      hub_test(parquet_is_refused_with_the_command_that_converts_it),
      hub_test(a_dataset_in_the_cache_is_used_when_the_hub_is_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
