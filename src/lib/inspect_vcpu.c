/* SPDX-License-Identifier: MIT */
/* The part of <vitrine/inspect.h> about single vCPUs beyond their registers; see inspect.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/inspect_priv.h"

/* ---- standing still ---- */

static int call_vcpu(struct vitrine_vm *vm, enum control_call call, uint32_t vcpu)
{
    struct control_vcpu in = { .number = vm->number, .vcpu = vcpu };
    return inspect_call_exact(vm, call, &in, sizeof in, NULL, 0);
}

int vitrine_vcpu_pause(struct vitrine_vm *vm, uint32_t vcpu)
{
    return call_vcpu(vm, CONTROL_CPU_PAUSE, vcpu);
}

int vitrine_vcpu_resume(struct vitrine_vm *vm, uint32_t vcpu)
{
    return call_vcpu(vm, CONTROL_CPU_RESUME, vcpu);
}

int vitrine_vcpu_hold(struct vitrine_vm *vm, uint32_t vcpu)
{
    return call_vcpu(vm, CONTROL_CPU_HOLD, vcpu);
}

int vitrine_vcpu_release(struct vitrine_vm *vm, uint32_t vcpu)
{
    return call_vcpu(vm, CONTROL_CPU_RELEASE, vcpu);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

/* The other side answers within a fraction of a second, done or not, so that it notices soon if we die. */
int vitrine_vcpu_step(struct vitrine_vm *vm, uint32_t vcpu, unsigned n, int timeout_ms)
{
    int64_t end = now_ms() + timeout_ms, left;
    unsigned done = 0;
    do {
        left = timeout_ms < 0 ? UINT32_MAX : end - now_ms();
        struct control_step in = { .number = vm->number, .vcpu = vcpu, .count = n - done, .timeout_ms = left > 0 ? (uint32_t)left : 0 };
        struct control_stepped out;
        if (inspect_call_exact(vm, CONTROL_STEP, &in, sizeof in, &out, sizeof out))
            return done ? (int)done : -1;
        done += out.count;
    } while (done < n && left > 0);
    return (int)done;
}

/* ---- MSRs, XSAVE ---- */

#define MSRS_AT_ONCE 1024u

static int call_msrs(struct vitrine_vm *vm, enum control_call call, uint32_t vcpu, struct vitrine_msr *msr, unsigned n)
{
    struct control_vcpu in = { .number = vm->number, .vcpu = vcpu };
    for (unsigned at = 0; at < n || !at; at += MSRS_AT_ONCE) {
        uint32_t piece = n - at < MSRS_AT_ONCE ? n - at : MSRS_AT_ONCE, bytes = piece * (uint32_t)sizeof *msr;
        ssize_t got = inspect_call(vm, call, &in, sizeof in, msr + at, bytes, msr + at, bytes);
        if (got >= 0 && got != bytes)
            errno = EPROTO;
        if (got != bytes)
            return -1;
    }
    return 0;
}

int vitrine_vcpu_get_msrs(struct vitrine_vm *vm, uint32_t vcpu, struct vitrine_msr *msr, unsigned n)
{
    return call_msrs(vm, CONTROL_GET_MSRS, vcpu, msr, n);
}

int vitrine_vcpu_set_msrs(struct vitrine_vm *vm, uint32_t vcpu, struct vitrine_msr *msr, unsigned n)
{
    return call_msrs(vm, CONTROL_SET_MSRS, vcpu, msr, n);
}

int vitrine_vcpu_get_xsave(struct vitrine_vm *vm, uint32_t vcpu, struct vitrine_xsave *out)
{
    struct control_vcpu in = { .number = vm->number, .vcpu = vcpu };
    struct vitrine_xsave area;
    if (inspect_call_exact(vm, CONTROL_GET_XSAVE, &in, sizeof in, &area, sizeof area))
        return -1;
    *out = area;
    return 0;
}

int vitrine_vcpu_set_xsave(struct vitrine_vm *vm, uint32_t vcpu, const struct vitrine_xsave *in)
{
    struct control_vcpu head = { .number = vm->number, .vcpu = vcpu };
    return inspect_call(vm, CONTROL_SET_XSAVE, &head, sizeof head, in, sizeof *in, NULL, 0) < 0 ? -1 : 0;
}

/* ---- memory by linear addresses ---- */

/* How many bytes from gva on are in one page, up to max, and where; 0: it is not mapped; -1. */
static ssize_t page_find(struct vitrine_vm *vm, uint32_t vcpu, uint64_t gva, size_t max, uint64_t *gpa, struct vitrine_translation *why)
{
    struct vitrine_translation t;
    if (vitrine_vcpu_translate(vm, vcpu, gva, &t))
        return -1;
    if (why)
        *why = t;
    if (t.result != VITRINE_WALK_OK)
        return 0;
    uint64_t left = t.page_bytes ? t.page_bytes - (t.gpa & (t.page_bytes - 1)) : 4096 - (t.gpa & 4095);
    *gpa = t.gpa;
    return left < max ? (ssize_t)left : (ssize_t)max;
}

typedef ssize_t (*memory_call)(struct vitrine_vm *vm, uint64_t gpa, void *bytes, size_t n);

static ssize_t write_call(struct vitrine_vm *vm, uint64_t gpa, void *bytes, size_t n)
{
    return vitrine_mem_write(vm, gpa, bytes, n);
}

static ssize_t page_by_page(struct vitrine_vm *vm, uint32_t vcpu, uint64_t gva, void *memory, size_t bytes, struct vitrine_translation *why, memory_call call)
{
    size_t done = 0;
    while (done < bytes) {
        uint64_t gpa = 0;
        ssize_t piece = page_find(vm, vcpu, gva + done, bytes - done, &gpa, why), n = 0;
        if (piece > 0)
            n = call(vm, gpa, (char *)memory + done, (size_t)piece);
        else if (!piece)
            errno = EFAULT;
        if (piece < 0 || (n <= 0 && !(errno == EFAULT && done)))
            return -1;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

ssize_t vitrine_vcpu_mem_read(struct vitrine_vm *vm, uint32_t vcpu, uint64_t gva, void *to, size_t bytes, struct vitrine_translation *why)
{
    return page_by_page(vm, vcpu, gva, to, bytes, why, vitrine_mem_read);
}

ssize_t vitrine_vcpu_mem_write(struct vitrine_vm *vm, uint32_t vcpu, uint64_t gva, const void *from, size_t bytes, struct vitrine_translation *why)
{
    return page_by_page(vm, vcpu, gva, (void *)(uintptr_t)from, bytes, why, write_call);
}
