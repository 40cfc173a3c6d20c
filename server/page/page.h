// The page at /, server/page/index.html, as the build embeds it.
#ifndef SERVER_PAGE_PAGE_H
#define SERVER_PAGE_PAGE_H

extern const char page_html[];

#endif
