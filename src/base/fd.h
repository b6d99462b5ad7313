/* SPDX-License-Identifier: MIT */
/*
 * High numbers for fds that live in somebody else's process, out of the way of programs that expect their own. Any thread, no lock.
 */
#ifndef VITRINE_BASE_FD_H
#define VITRINE_BASE_FD_H

/* Its number from now on: a high one if the limit allows it. Close-on-exec. */
int fd_move_up(int fd);
/* A copy of a high number, close-on-exec, or -1 and errno. */
int fd_copy_up(int fd);

#endif
