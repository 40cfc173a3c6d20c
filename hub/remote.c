// Listing and description, checked before anything is made of them: names become paths, digests become names of blobs.
#include "hub/remote.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/memory.h"
#include "core/text.h"
#include "hub/name.h"
#include "hub/tree.h"

void hub_listing_release(HubListing *listing) {
  free(listing->commit);
  hub_names_release(&listing->files);
  json_decref(listing->tree);
  *listing = (HubListing){0};
}

void hub_file_release(HubFile *file) {
  free(file->name);
  free(file->url);
  free(file->etag);
  *file = (HubFile){0};
}

static Status take_names(HubListing *listing, const json_t *siblings) {
  size_t i;
  json_t *sibling;
  json_array_foreach(siblings, i, sibling) {
    const char *name = json_string_value(json_object_get(sibling, "rfilename"));
    if (!name) return status_fail(STATUS_BAD_INPUT, "file %zu of the list has no name", i);
    if (!hub_file_name_is_safe(name))
      return status_fail(STATUS_BAD_INPUT,
                         "file %zu of the list has a name that leads out of its folder, or cannot be shown; nothing was downloaded", i);
    hub_names_add(&listing->files, name);
  }
  return STATUS_OK;
}

Status hub_listing_parse(HubListing *listing, const char *text, size_t length) {
  *listing = (HubListing){0};
  json_error_t error;
  json_t *answer = json_loadb(text, length, 0, &error);
  if (!answer) return status_fail(STATUS_BAD_INPUT, "the answer is not JSON (line %d); does HF_ENDPOINT name a Hub?", error.line);
  const char *commit = json_string_value(json_object_get(answer, "sha"));
  Status status = STATUS_OK;
  if (!commit || !hub_is_commit(commit)) status = status_fail(STATUS_BAD_INPUT, "the answer names no commit");
  else status = take_names(listing, json_object_get(answer, "siblings"));
  if (status == STATUS_OK) {
    listing->commit = memory_copy_string(commit);
    listing->tree = hub_tree_from_siblings(json_object_get(answer, "siblings"));
  }
  json_decref(answer);
  return status;
}

// --- refusals ---

static Status refuse_unknown(const HubRemote *remote, const char *page, bool with_token) {
  return status_fail(STATUS_BAD_INPUT,
                     "%s: there is no such %s, or it is private%s; check the id (a file or folder of this disk is given by its path)", page,
                     remote->is_dataset ? "dataset" : "model",
                     with_token ? " and the token may not read it" : ": then set HF_TOKEN to a token that may read it");
}

Status hub_remote_refusal(const HubRemote *remote, const HttpResponse *response, const char *what) {
  bool with_token = remote->settings->token != NULL;
  const char *error = http_header(response, "x-error-code");
  char *page = memory_format("%s/%s%s", remote->settings->endpoint, remote->is_dataset ? "datasets/" : "", remote->repository);
  Status status;
  if (error && strcmp(error, "GatedRepo") == 0)
    status = status_fail(STATUS_BAD_INPUT,
                         "%s: is gated; accept its terms on that page, and set HF_TOKEN to a token of the account that did", page);
  else if (error && strcmp(error, "RevisionNotFound") == 0)
    status = status_fail(STATUS_BAD_INPUT, "%s: has no branch, tag or commit \"%s\"", page, remote->revision);
  else if (error && strcmp(error, "EntryNotFound") == 0) status = status_fail(STATUS_BAD_INPUT, "%s: has no file %s", page, what);
  else if (error && strcmp(error, "RepoNotFound") == 0) status = refuse_unknown(remote, page, with_token);
  else if (response->code == 401)
    status = with_token ? status_fail(STATUS_BAD_INPUT, "%s: the token is not accepted; set HF_TOKEN to a valid one", page)
                        : refuse_unknown(remote, page, with_token);
  else if (response->code == 403)
    status = status_fail(STATUS_BAD_INPUT, "%s: access is refused (%s); %s", page, what,
                         with_token ? "the token's account has no access, or its terms are not accepted on that page"
                                    : "set HF_TOKEN to a token that has access");
  else if (response->code == 404) status = refuse_unknown(remote, page, with_token);
  else if (response->code == 429)
    status = status_fail(STATUS_FAILED, "%s: too many requests (429) for %s; try again later%s", page, what,
                         with_token ? "" : ", or set HF_TOKEN: with a token more are allowed");
  else status = status_fail(STATUS_FAILED, "%s: the server answers %d to %s; try again later", page, response->code, what);
  free(page);
  return status;
}

// --- requests ---

static char *listing_url(const HubRemote *remote) {
  Buffer url = {0};
  buffer_format(&url, "%s/api/%s/%s/revision/", remote->settings->endpoint, remote->is_dataset ? "datasets" : "models", remote->repository);
  url_append(&url, remote->revision, false);
  buffer_append_string(&url, "?blobs=true");
  return url.data;
}

Status hub_remote_list(HubListing *listing, bool *unreachable, const HubRemote *remote) {
  *listing = (HubListing){0};
  HttpResponse response;
  char *url = listing_url(remote);
  Status status = http_send_patiently(&response, remote->http, &(HttpRequest){.url = url, .token = remote->settings->token});
  if (unreachable) *unreachable = response.outcome != HTTP_ANSWERED || response.code == 429 || response.code >= 500;
  if (status == STATUS_OK && response.code != 200) status = hub_remote_refusal(remote, &response, "the list of its files");
  else if (status == STATUS_OK)
    status = status_context(hub_listing_parse(listing, response.body.data ? response.body.data : "", response.body.length), "%s", url);
  http_response_release(&response);
  free(url);
  return status;
}

// The digest without its quotes and the mark of a weak one.
static char *plain_etag(const char *text) {
  if (text_starts_with(text, "W/")) text += 2;
  size_t length = strlen(text);
  if (length >= 2 && text[0] == '"' && text[length - 1] == '"') text++, length -= 2;
  return memory_format("%.*s", (int)length, text);
}

static Status take_description(HubFile *file, const HttpResponse *response, const char *commit) {
  const char *linked = http_header(response, "x-linked-etag"), *plain = http_header(response, "etag");
  const char *answered = http_header(response, "x-repo-commit");
  if (answered && strcmp(answered, commit) != 0)
    return status_fail(STATUS_BAD_INPUT, "%s: the server answers with another commit than it was asked for", file->url);
  if (!linked && !plain) return status_fail(STATUS_BAD_INPUT, "%s: the server tells no digest (ETag) of the file", file->url);
  file->etag = plain_etag(linked ? linked : plain);
  if (!hub_etag_is_safe(file->etag)) return status_fail(STATUS_BAD_INPUT, "%s: the server's ETag cannot be one", file->url);
  file->size = http_header_integer(response, linked ? "x-linked-size" : "content-length");
  return STATUS_OK;
}

Status hub_remote_describe(HubFile *file, const HubRemote *remote, const char *commit, const char *name) {
  Buffer url = {0};
  buffer_format(&url, "%s/%s%s/resolve/%s/", remote->settings->endpoint, remote->is_dataset ? "datasets/" : "", remote->repository, commit);
  url_append(&url, name, true);
  *file = (HubFile){.name = memory_copy_string(name), .url = url.data, .size = -1};
  HttpResponse response;
  HttpRequest request = {.url = file->url, .token = remote->settings->token, .head = true};
  Status status = http_send_patiently(&response, remote->http, &request);
  if (status == STATUS_OK && response.code >= 400) status = hub_remote_refusal(remote, &response, name);
  else if (status == STATUS_OK) status = take_description(file, &response, commit);
  http_response_release(&response);
  return status;
}
