/* SPDX-License-Identifier: MIT */
/*
 * What the cases of conform_mshv*.c share: the interface's numbers, written out here so that src/abi/mshv.h is judged too, and a machine with one VP in real
 * mode. Asserts by cmocka.
 */
#ifndef VITRINE_TESTS_CONFORM_MSHV_CLIENT_H
#define VITRINE_TESTS_CONFORM_MSHV_CLIENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define CREATE_PARTITION 0x4010b800ul
#define INITIALIZE 0x0000b800ul
#define CREATE_VP 0x4004b801ul
#define SET_MEMORY 0x4020b802ul
#define IRQFD 0x4010b803ul
#define IOEVENTFD 0x4020b804ul
#define SET_ROUTING 0x4008b805ul
#define GET_STATE 0xc010b801ul
#define SET_STATE 0xc010b802ul
#define HVCALL 0xc020b807ul
#define RUN 0x8100b800ul

#define RAM_BYTES 0x200000u
#define CODE_AT 0x1000u
#define ROM_AT 0x400000u
#define HOLE_AT 0x500000u

#define R_RAX 0x20000u
#define R_RBX 0x20003u
#define R_RCX 0x20001u
#define R_RSI 0x20006u
#define R_RDI 0x20007u
#define R_RIP 0x20010u
#define R_RFLAGS 0x20011u
#define R_CS 0x60001u
#define R_DS 0x60003u
#define R_ES 0x60000u
#define R_IDTR 0x70000u

#define PORT 0x3f8

struct hv {
    uint16_t code, reps, in_bytes, out_bytes, status;
    uint8_t reserved[6];
    uint64_t in, out;
};

struct memory {
    uint64_t bytes, pfn, hva;
    uint8_t flags, reserved[7];
};

/* The argument of IOEVENTFD. */
struct doorbell {
    uint64_t match, address;
    uint32_t bytes;
    int32_t fd;
    uint32_t flags, reserved;
};

struct machine {
    int dev, pt, vp[2];
    uint8_t *ram;
    uint8_t message[256];
};

struct value {
    uint64_t low, high;
};

/* 0 and up, or -errno. */
int call(int fd, unsigned long request, void *arg);
/* The status; *error is the ioctl's own. */
unsigned hypercall(int fd, unsigned code, unsigned reps, const void *in, unsigned in_bytes, void *out, unsigned out_bytes, int *error, unsigned *done);
unsigned regs_get(int fd, unsigned vp, const uint32_t *name, unsigned n, struct value *out, unsigned *done);
uint64_t reg_get(int fd, unsigned vp, uint32_t name);
unsigned reg_set_wide(int fd, unsigned vp, uint32_t name, struct value v);
unsigned reg_set(int fd, unsigned vp, uint32_t name, uint64_t low);
unsigned property(int fd, unsigned code, uint32_t name, uint64_t *value, int *error);
int map(const struct machine *m, uint64_t gpa, void *at, uint64_t bytes, uint8_t flags);
uint64_t field(const struct machine *m, unsigned at, unsigned bytes);
void machine_open(struct machine *m, uint64_t flags);
int vp_create(const struct machine *m, uint32_t index);
/* Real mode, flat from 0, at CODE_AT. */
void machine_create(struct machine *m, const void *code, size_t bytes);
void machine_close(struct machine *m);
int run(struct machine *m);

/* of the payload */
#define P(at, bytes) field(m, 16 + (at), bytes)
#define TYPE field(m, 0, 4)

/* conform_mshv_run.c */
extern const struct CMUnitTest mshv_run_tests[];
extern const size_t mshv_run_test_count;
/* conform_mshv_state.c */
extern const struct CMUnitTest mshv_state_tests[];
extern const size_t mshv_state_test_count;

#endif
