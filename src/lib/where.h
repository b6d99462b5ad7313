/* SPDX-License-Identifier: MIT */
/*
 * Where a tool listens, as users write it: what another process needs to find the same place.
 */
#ifndef VITRINE_LIB_WHERE_H
#define VITRINE_LIB_WHERE_H

/* "unix:PATH..." with a relative PATH made absolute; anything else as it is. The caller's to free; NULL and errno. */
char *where_absolute(const char *where);

#endif
