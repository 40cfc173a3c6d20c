// The table of routes, and the way of a request: what its head says is checked (route, host, key, length), its body read within the limit,
// the model waited for, the handler called, a failure told.
#ifndef SERVER_ROUTES_H
#define SERVER_ROUTES_H

#include "server/http.h"

// libmicrohttpd's callbacks; `context` is the Server.
enum MHD_Result routes_handle(void *context, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
                              const char *upload, size_t *upload_size, void **request);
void routes_completed(void *context, struct MHD_Connection *connection, void **request, enum MHD_RequestTerminationCode code);

// Whether a request that names `host` in its head can be meant for a server that listens on loopback as `own`: a page from elsewhere, whose
// name somebody has turned to this machine's address (DNS rebinding), names its own.
bool host_is_local(const char *host, const char *own);

// The handlers, each in the file of its name.
Status handle_completions(Call *call);
Status handle_chat(Call *call);
Status handle_embeddings(Call *call);
Status handle_models(Call *call);
Status handle_model(Call *call);
Status handle_tokenize(Call *call);
Status handle_detokenize(Call *call);
Status handle_tokenizer_info(Call *call);
Status handle_adapters(Call *call);
Status handle_set_adapters(Call *call);
Status handle_health(Call *call);
Status handle_metrics(Call *call);
Status handle_page(Call *call);

#endif
