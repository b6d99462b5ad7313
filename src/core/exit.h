/* SPDX-License-Identifier: MIT */
/*
 * Why a vCPU returned to its client, in no ABI's words. Filled by an engine or by core, encoded by a front.
 */
#ifndef VITRINE_CORE_EXIT_H
#define VITRINE_CORE_EXIT_H

#include "base/types.h"

enum exit_kind {
    EXIT_NONE,
    EXIT_IO,
    EXIT_MMIO,
    EXIT_HLT, /* only without an in-process LAPIC */
    EXIT_IRQ_WINDOW,
    EXIT_SHUTDOWN, /* triple fault */
    EXIT_DEBUG,    /* the client's own debugging */
    EXIT_INTR,     /* signal, kick, immediate_exit */
    EXIT_HYPERCALL,
    EXIT_MSR, /* user-space MSR */
    EXIT_IOAPIC_EOI,
    EXIT_SYSTEM_EVENT,
    EXIT_TPR_ACCESS,
    EXIT_INTERNAL_ERROR, /* the engine cannot go on; bytes and length say where */
    EXIT_DIRTY_RING_FULL,
    EXIT_MEMORY_FAULT, /* host memory behind a slot is gone */
    EXIT_ACCESS,       /* vm.reports_accesses: memory that the client answers for; the instruction has not begun */
    EXIT_WATCH,        /* within the engine: a question is open (core/watch.h) */
    EXIT_KIND_COUNT
};

enum system_event { SYSTEM_EVENT_NONE, SYSTEM_EVENT_RESET, SYSTEM_EVENT_CRASH };

struct vcpu_exit {
    enum exit_kind kind;
    /* vm.reports_accesses, with EXIT_IO and EXIT_ACCESS: the instruction, if it could be fetched and is what made the access; else 0 bytes. */
    uint8_t insn[15], insn_bytes;
    union {
        struct {
            bool is_in, is_string; /* of INS or OUTS */
            uint8_t bytes;         /* 1 2 4 of one item */
            uint16_t port;
            uint32_t count; /* items; more than 1 for REP INS/OUTS */
            /* OUT: count * bytes of data to hand over. IN: the client's answer goes to vcpu.replay.io_data. */
            uint8_t data[PAGE_BYTES];
        } io;
        struct {
            gpa_t gpa;
            uint8_t bytes; /* 1-8 */
            bool is_write;
            uint8_t data[8];
        } mmio;
        struct {
            uint32_t vector;
            uint64_t rip, dr6, dr7;
        } debug;
        struct {
            uint64_t nr, args[6], ret;
            bool is_long_mode;
        } hypercall;
        struct {
            bool is_write;
            uint32_t index;
            uint64_t data;
            uint32_t reason; /* MSR_REASON_* */
        } msr;
        struct {
            uint8_t vector;
        } eoi;
        struct {
            enum system_event what;
        } system_event;
        struct {
            uint64_t rip;
            bool is_write;
        } tpr;
        struct {
            gva_t gva;
            gpa_t gpa;
            enum { ACCESSED_READ, ACCESSED_WRITE, ACCESSED_EXECUTE } how;
            bool is_slot; /* there is memory, but not for that */
        } access;
        struct {
            uint32_t suberror;
            uint8_t insn_bytes[15], n_bytes;
            const char *text;
        } internal;
        struct {
            gpa_t gpa;
            uint64_t bytes;
        } memory_fault;
    };
};

#endif
