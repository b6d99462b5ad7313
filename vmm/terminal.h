/* SPDX-License-Identifier: MIT */
/*
 * The user's terminal: raw while a guest has it, as it was on every way out. One terminal in a process; called by the controlling thread only,
 * but for terminal_restore, which is safe in signal handlers too.
 */
#ifndef VITRINE_VMM_TERMINAL_H
#define VITRINE_VMM_TERMINAL_H

#include <stdbool.h>

bool terminal_is_tty(int fd);
bool terminal_enter_raw(int fd); /* false: not a terminal, or we are not in its foreground */
void terminal_restore(void);     /* harmless when nothing is raw */

#endif
