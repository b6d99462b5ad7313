/* SPDX-License-Identifier: MIT */
/* Helpers of help_string.c: string instructions on memory. */
#ifndef VITRINE_ENGINE_SOFT_HELP_STRING_H
#define VITRINE_ENGINE_SOFT_HELP_STRING_H

#include "engine/soft/soft_priv.h"

enum step help_movs(struct soft_vcpu *sv, const struct insn *in);
enum step help_stos(struct soft_vcpu *sv, const struct insn *in);
enum step help_lods(struct soft_vcpu *sv, const struct insn *in);
enum step help_cmps(struct soft_vcpu *sv, const struct insn *in);
enum step help_scas(struct soft_vcpu *sv, const struct insn *in);

/* What string instructions share with INS and OUTS (help_io.c). */
struct string_op {
    unsigned bytes;   /* of one element */
    uint64_t mask;    /* of the address size */
    bool is_backward; /* RFLAGS.DF */
    bool is_rep;
    unsigned source_seg; /* of [rSI]: DS or the override */
    unsigned addr_bytes;
};

struct string_op string_op_of(const struct soft_vcpu *sv, const struct insn *in);
/* Iterations still to do. */
uint64_t string_count(const struct soft_vcpu *sv, const struct string_op *op);
/* Commits `n` iterations: moves rSI and rDI as told, counts rCX down under REP. */
void string_advance(struct soft_vcpu *sv, const struct string_op *op, uint64_t n, bool has_source, bool has_dest);
/*
 * Plain RAM for the element at seg:reg and those after it, below it if the run goes backward: a host pointer to that element, and *n reduced to what lies in
 * the page, the segment and the address size; NULL if there is no room for one, then go element by element.
 */
uint8_t *string_host(struct soft_vcpu *sv, const struct string_op *op, unsigned seg, unsigned reg, bool is_write, uint64_t *n);

#endif
