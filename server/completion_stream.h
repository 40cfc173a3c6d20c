// An answer as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), as OpenAI's API has them: chunks, and
// "[DONE]" at the end. What fails half way is told by an event {"error": ...}, and the connection breaks without the end of the body.
#ifndef SERVER_COMPLETION_STREAM_H
#define SERVER_COMPLETION_STREAM_H

#include "server/completion.h"

Status completion_stream(Completion *completion);

#endif
