/* SPDX-License-Identifier: MIT */
/*
 * Tools that listen, as options and arguments: see attach.c.
 */
#ifndef VITRINE_CLI_ATTACH_H
#define VITRINE_CLI_ATTACH_H

#include <stdbool.h>

extern const char attach_where_help[]; /* what can stand behind --kvmi */

/*
 * --kvmi of a command that runs VMs, once or more: into the environment. The first takes the place of what stands there, and sets *has_some. CLI_DONE, or the
 * status after a message.
 */
int attach_environment(const char *command, const char *where, bool *has_some);

#endif
