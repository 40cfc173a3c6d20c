// An adapter of the tiny model (tests/data/tiny.gguf), on every linear layer, whose B is large enough to be heard.
#ifndef TESTS_SUPPORT_TINY_ADAPTER_H
#define TESTS_SUPPORT_TINY_ADAPTER_H

char *write_tiny_adapter(const char *folder);  // its path, a new string: a PEFT folder in `folder`

#endif
