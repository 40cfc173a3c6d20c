// GET /: the chat page, one file with its style and script in it, which the policy allows by their hashes alone: nothing that a model writes can
// become a script.
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <string.h>

#include "server/page/page.h"
#include "server/routes.h"

static char policy[512];
static pthread_once_t policy_is_made = PTHREAD_ONCE_INIT;

// 'sha256-...' of what stands between the tags, as CSP level 2 has it.
static void hash_between(char text[64], const char *open, const char *close) {
  const char *begin = strstr(page_html, open), *end = begin ? strstr(begin, close) : NULL;
  uint8_t hash[32];
  text[0] = 0;
  if (!end) return;
  begin += strlen(open);
  SHA256((const uint8_t *)begin, (size_t)(end - begin), hash);
  EVP_EncodeBlock((unsigned char *)text, hash, sizeof hash);
}

static void make_policy(void) {
  char style[64], script[64];
  hash_between(style, "<style>", "</style>");
  hash_between(script, "<script>", "</script>");
  snprintf(policy, sizeof policy,
           "default-src 'none'; style-src 'sha256-%s'; script-src 'sha256-%s'; connect-src 'self'; img-src data:; base-uri 'none'; "
           "form-action 'none'; frame-ancestors 'none'",
           style, script);
}

Status handle_page(Call *call) {
  pthread_once(&policy_is_made, make_policy);
  call->policy = policy;
  return call_reply(call, MHD_HTTP_OK, "text/html; charset=utf-8", page_html, strlen(page_html));
}
