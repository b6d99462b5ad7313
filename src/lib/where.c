/* SPDX-License-Identifier: MIT */
/* See where.h. */
#include "lib/where.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *where_absolute(const char *where)
{
    static const char scheme[] = "unix:";
    const size_t skip = sizeof scheme - 1;
    if (strncmp(where, scheme, skip) || where[skip] == '/' || where[skip] == ',' || !where[skip])
        return strdup(where);
    char *folder = getcwd(NULL, 0);
    char *text = folder ? malloc(skip + 2 * strlen(folder) + 1 + strlen(where + skip) + 1) : NULL;
    if (text) {
        char *to = text + skip;
        memcpy(text, scheme, skip);
        for (const char *from = folder; *from; from++) {
            if (*from == ',') /* one alone would begin an option */
                *to++ = ',';
            *to++ = *from;
        }
        *to++ = '/';
        strcpy(to, where + skip);
    }
    free(folder);
    return text;
}
