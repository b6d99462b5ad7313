/* SPDX-License-Identifier: MIT */
/*
 * A guest on the real engine (real_guest.h) and a listener that watches it: programs, the client that runs them until their OUT to port 0x10, and what a test
 * says of the next event. For test_watch*.c.
 */
#ifndef VITRINE_TESTS_WATCHED_H
#define VITRINE_TESTS_WATCHED_H

#include <stdatomic.h>

#include "introspect/listen.h"
#include "tests/unit/real_guest.h"

#define CODE_AT REAL_GUEST_CODE_AT
#define COUNT_AT 0x600u /* counts interrupts: the handler of each vector adds one and returns */
#define DATA_AT 0x8000u
#define WATCHED_TABLES_AT 0x20000u

/* clang-format off: assembler */
#define GUEST_CODE(name, text)                               \
    extern const uint8_t code_##name[], code_##name##_end[]; \
    __asm__(".pushsection .rodata\n .globl code_" #name ", code_" #name "_end\n code_" #name ":\n" text "\n code_" #name "_end:\n .code64\n .popsection\n")
/* clang-format on */

/* Programs of more than one test: a write to CR0; to CR3, CR4 and twice to CR0; accesses to DATA_AT. */
extern const uint8_t code_cr0[], code_cr0_end[], code_cr[], code_cr_end[], code_access[], code_access_end[];

struct watched {
    struct real_guest real;
    struct look_listener *l;
    pthread_t client;
    _Atomic bool is_done;
    _Atomic unsigned n_interrupted;
    unsigned n_debug_port; /* exits for OUT to 0x80 */
};

void watched_create(struct watched *g, const uint8_t *code, const uint8_t *end);
#define WATCHED_CREATE(g, name) watched_create(g, code_##name, code_##name##_end)
/* Nothing may be watched any more. */
void watched_destroy(struct watched *g);

/* The first 2 MiB as they are, by page tables at WATCHED_TABLES_AT; flat segments. */
void watched_long_mode(struct watched *g, unsigned cpl);

/* A thread runs it until its OUT to port 0x10; IN from 0x81 gives 0x42. */
void watched_start(struct watched *g);
void watched_join(struct watched *g);
/* Takes the vCPU out, wherever it is; it may be started again. */
void watched_stop(struct watched *g);

/* Subscriptions that wait for an answer. */
void watched_ask(struct watched *g, uint32_t kinds);
void watched_ask_range(struct watched *g, gpa_t first, gpa_t last, uint32_t access);

/* Waits for the next event; false when the guest came to its end instead. */
bool watched_next(struct watched *g, struct watch_record *r);
void watched_answer(struct watched *g, const struct watch_record *r, enum watch_answer a, uint64_t value);
void watched_reply(struct watched *g, const struct watch_record *r, const struct watch_reply *reply);
/* The next event is this one; or an access, answered so; or there is none and the guest is at its end. */
void watched_expect(struct watched *g, struct watch_record *r, uint32_t kind, uint32_t index, uint64_t old_value, uint64_t value);
void watched_expect_access(struct watched *g, unsigned access, gpa_t gpa, unsigned bytes, enum watch_answer a);
void watched_expect_end(struct watched *g);

#endif
