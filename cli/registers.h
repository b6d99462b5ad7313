/* SPDX-License-Identifier: MIT */
/*
 * Names of registers as users write and read them, and where struct vitrine_regs has them. Tables and lookups only; commands print.
 */
#ifndef VITRINE_CLI_REGISTERS_H
#define VITRINE_CLI_REGISTERS_H

#include <stdbool.h>
#include <stdint.h>

#include "vitrine/inspect.h"

extern const char *const registers_gpr[16];
extern const char *const registers_segment[VITRINE_SEGMENTS];

/* Registers of one word beside the general ones, in the order in which they are shown. */
extern const struct register_word {
    const char *name;
    uint16_t at;   /* in struct vitrine_regs */
    uint8_t bytes; /* 4 or 8 */
    uint32_t msr;  /* to set it by, if not 0: struct vitrine_regs only shows it */
} registers_word[];
extern const unsigned registers_n_words;
uint64_t registers_word_get(const struct vitrine_regs *r, unsigned i);

/* MSRs that are not among the words: those with a meaning of their own, in the order of their numbers. */
extern const struct register_msr {
    const char *name;
    uint32_t index;
} registers_msr[];
extern const unsigned registers_n_msrs;

/* A number, or a name of the table; false: neither. */
bool registers_msr_parse(const char *text, uint32_t *index);
/* NULL: it has no name here. */
const char *registers_msr_name(uint32_t index);

/* Where `name` is to be set. */
enum register_home { REGISTER_NONE, REGISTER_REGS, REGISTER_MSR, REGISTER_XSAVE };
struct register_place {
    enum register_home home;
    uint16_t at;    /* in struct vitrine_regs, or in the XSAVE area */
    uint8_t bytes;  /* up to 16 */
    uint32_t index; /* of an MSR; of XSAVE: the component's bit */
};
struct register_place registers_find(const char *name);

#endif
