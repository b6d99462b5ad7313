/* SPDX-License-Identifier: MIT */
/*
 * Messages for whoever debugs vitrine, and the count of what it refused because it is not done yet. Silent unless a sink is set.
 */
#ifndef VITRINE_BASE_LOG_H
#define VITRINE_BASE_LOG_H

#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Gets one line without newline; may be called by any thread, one at a time. */
typedef void (*log_sink)(enum log_level level, const char *line, void *arg);

/* The sink for messages up to max_level; NULL: none. */
void log_set_sink(log_sink sink, void *arg, enum log_level max_level);
/* Lines go to an fd, which stays the caller's. */
void log_set_fd(int fd, enum log_level max_level);
/* VITRINE_LOG=error|warn|info|debug: standard error gets the lines, with VITRINE_NAME in each. Called once by the composition root; does nothing if a sink is
 * set. */
void log_init_from_env(void);

/* What tools and the log call this process's machines: what was set, VITRINE_NAME, or the program's name. Set it before there are threads of ours. */
const char *log_machine_name(void);
void log_set_machine_name(const char *machine);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * "Not done yet": counts, and logs each distinct (kind, what) once. kind is a string that stays valid, such as "rdmsr". Any thread, not a signal handler.
 */
void refusal_note(const char *kind, uint64_t what);

struct refusal {
    const char *kind;
    uint64_t what, count;
};
/* Copies at most max of those seen; returns how many distinct ones there are (the table is bounded: at most REFUSAL_MAX). */
#define REFUSAL_MAX 512u
unsigned refusal_list(struct refusal *out, unsigned max);

#endif
