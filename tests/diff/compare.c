/* SPDX-License-Identifier: MIT */
/*
 * Are two end states the same? Says the first difference in words. Not compared: x87's last instruction and operand addresses, which are the host's own; what a
 * fault leaves undefined.
 */
#include "compare.h"

#include <stdio.h>
#include <string.h>

#include "base/host.h"

static const char *const gpr_names[GPR_COUNT] = {
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"
};

const char *compare_gpr_name(unsigned n)
{
    return gpr_names[n];
}

static bool differs(char *text, const char *what, uint64_t native, uint64_t guest)
{
    if (native == guest)
        return false;
    snprintf(text, COMPARE_TEXT_BYTES, "%s: bare CPU %#llx, engine %#llx", what, (unsigned long long)native, (unsigned long long)guest);
    return true;
}

static bool bytes_differ(char *text, const char *what, unsigned number, const uint8_t *a, const uint8_t *b, unsigned n)
{
    char name[32], left[3 * 64 + 1], right[3 * 64 + 1];
    if (!memcmp(a, b, n))
        return false;
    snprintf(name, sizeof name, "%s%u", what, number);
    for (unsigned i = 0; i < n && i < 64; i++) {
        sprintf(left + 2 * i, "%02x", a[i]);
        sprintf(right + 2 * i, "%02x", b[i]);
    }
    snprintf(text, COMPARE_TEXT_BYTES, "%s: bare CPU %s, engine %s", name, left, right);
    return true;
}

/* Big operands are accessed in an order of the processor's own: any byte, and either page if both are missing, may be the one that faults. */
static bool has_loose_fault(const struct insn *in)
{
    bool is_big = in->has_mem && (in->mem.bytes == 0 || in->mem.bytes == 10 || in->mem.bytes == 14 || in->mem.bytes == 28 || in->mem.bytes > 64);
    return is_big || in->evex_aaa || form_is_masked_store(in);
}

static bool fault_differs(char *text, const struct machine_state *n, const struct machine_state *g, const struct insn *in)
{
    if (n->vector != g->vector) {
        snprintf(text, COMPARE_TEXT_BYTES, "fault: bare CPU %d at %#llx (error %#x cr2 %#llx), engine %d at %#llx (error %#x cr2 %#llx) %s", n->vector,
                 (unsigned long long)n->rip, n->error, (unsigned long long)n->cr2, g->vector, (unsigned long long)g->rip, g->error, (unsigned long long)g->cr2,
                 g->broken ? g->broken : "");
        return true;
    }
    if (n->vector == VECTOR_NONE)
        return false;
    if (differs(text, "rip of the fault", n->rip, g->rip))
        return true;
    if (n->vector != VEC_PF)
        return n->vector != VEC_AC && differs(text, "error code", n->error, g->error);
    if (has_loose_fault(in))
        return false;
    if (n->cr2 >> 63) /* the host kernel hides what is mapped in its half */
        return differs(text, "error code but P", n->error & ~PF_P, g->error & ~PF_P);
    return differs(text, "error code", n->error, g->error) || differs(text, "cr2", n->cr2, g->cr2);
}

static bool vectors_differ(char *text, const uint8_t *a, const uint8_t *b)
{
    const struct host_facts *h = host_facts();
    static const struct {
        const char *name;
        unsigned component, bytes, first;
    } parts[] = { { "ymm-high", 2, 16, 0 }, { "k", 5, 8, 0 }, { "zmm-high", 6, 32, 0 }, { "zmm", 7, 64, 16 } };
    for (unsigned i = 0; i < 16; i++)
        if (bytes_differ(text, "xmm", i, a + 160 + 16 * i, b + 160 + 16 * i, 16))
            return true;
    for (unsigned p = 0; p < 4; p++) {
        unsigned at = h->xsave_offset[parts[p].component];
        if (!(h->xcr0 >> parts[p].component & 1))
            continue;
        for (unsigned i = 0; i < h->xsave_size[parts[p].component] / parts[p].bytes; i++)
            if (bytes_differ(text, parts[p].name, i + parts[p].first, a + at + i * parts[p].bytes, b + at + i * parts[p].bytes, parts[p].bytes))
                return true;
    }
    return false;
}

static bool x87_differs(char *text, const uint8_t *a, const uint8_t *b)
{
    if (bytes_differ(text, "fcw fsw ftw ", 0, a, b, 5) || bytes_differ(text, "mxcsr", 0, a + 24, b + 24, 4))
        return true;
    for (unsigned i = 0; i < 8; i++)
        if (bytes_differ(text, "st", i, a + 32 + 16 * i, b + 32 + 16 * i, 10))
            return true;
    return false;
}

/* Components that are not in use hold whatever they like in the area: their value is the initial one. */
static void settle_unused(uint8_t *area)
{
    const struct host_facts *h = host_facts();
    uint64_t in_use;
    memcpy(&in_use, area + 512, 8);
    if (!(in_use & XCR0_X87)) {
        memset(area, 0, 24);
        memset(area + 32, 0, 128);
        area[0] = 0x7f;
        area[1] = 3;
    }
    if (!(in_use & XCR0_SSE))
        memset(area + 160, 0, 256);
    for (unsigned n = 2; n < HOST_XSAVE_COMPONENTS; n++)
        if ((h->xcr0 >> n & 1) && !(in_use >> n & 1))
            memset(area + h->xsave_offset[n], 0, h->xsave_size[n]);
}

/*
 * Which bytes of an operand may be missing when a mask or the request leaves them out, and whether XRSTOR's image is found missing or wrong first, the manuals
 * leave to the processor. The engine does as Intel's do; on AMD's these cases judge nothing.
 */
bool compare_is_excused(const struct machine_state *n, const struct machine_state *g, const struct insn *in)
{
    if (!host_facts()->is_amd)
        return false;
    if (form_is_masked_store(in) && n->vector != g->vector)
        return true;
    return form_is_state_load(in) && n->vector != g->vector;
}

/* After a fault: gathers have done some elements, an MMX instruction may have entered MMX mode, a conversion may have raised its flags, POPA has
 * loaded some registers. */
static bool is_half_done(const struct machine_state *n, const struct insn *in)
{
    return n->vector >= 0 && (in->mem.is_vsib || in->fp_class == FP_MMX || form_is_state_load(in) || form_is_popa(in) ||
                              ((in->mem.access & OPND_WRITE) && in->fp_class >= FP_AVX));
}

/* After a fault across a page: the first part of a big store is written or not. */
bool compare_wants_memory(const struct machine_state *n, const struct insn *in)
{
    return n->vector < 0 || !(in->mem.is_vsib || in->fp_class == FP_X87 || in->mem.bytes == 0 || in->mem.bytes > 64);
}

bool compare_states(struct machine_state *n, struct machine_state *g, uint64_t dead_flags, const struct insn *in, char *text)
{
    uint64_t ignored_flags = n->vector >= 0 ? RFLAGS_RF | dead_flags : 0;
    if (fault_differs(text, n, g, in))
        return true;
    if (n->vector >= 0 && form_is_popa(in))
        return false;
    /* A string instruction that faults keeps the flags it began with, until it is repeated, and may have truncated its registers already. */
    bool is_string = n->vector >= 0 && form_is_string(in);
    uint64_t gpr_mask = diff_mode_bits == 32 || (is_string && in->addr_bytes == 4) ? UINT32_MAX : ~0ull;
    if (is_string)
        ignored_flags |= RFLAGS_STATUS;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if (differs(text, gpr_names[i], n->gpr[i] & gpr_mask, g->gpr[i] & gpr_mask))
            return true;
    if (differs(text, "rflags", n->rflags & ~ignored_flags, g->rflags & ~ignored_flags))
        return true;
    if (differs(text, "fs base", n->fs_base, g->fs_base) || differs(text, "gs base", n->gs_base, g->gs_base))
        return true;
    if (is_half_done(n, in))
        return false;
    settle_unused(n->xsave);
    settle_unused(g->xsave);
    return x87_differs(text, n->xsave, g->xsave) || vectors_differ(text, n->xsave, g->xsave);
}

bool compare_memory(const uint8_t *native, const uint8_t *guest, char *text)
{
    if (!memcmp(native, guest, DATA_BYTES))
        return false;
    unsigned i = 0;
    while (native[i] == guest[i])
        i++;
    snprintf(text, COMPARE_TEXT_BYTES, "memory at data + %#x: bare CPU %02x, engine %02x", i, native[i], guest[i]);
    return true;
}
