/* SPDX-License-Identifier: MIT */
/*
 * FXSAVE, FXRSTOR, FNSAVE, FRSTOR, FNSTENV, FLDENV on the saved x87/SSE state, and what the XSAVE and vector helpers share (SDM vol. 1, "Programming with
 * the x87 FPU", "Operating with the FXSAVE/FXRSTOR"). x87 arithmetic, loads and stores run natively. Called by exec.c through the helper table on the
 * vCPU's own thread; no lock.
 */
#include <cpuid.h>

#include "engine/soft/help_fpu.h"

static struct fpu_component component_table[FPU_COMPONENTS];
static _Atomic bool component_is_known;

/* CPUID is slow under a hypervisor, so it is asked once. Two threads may do it at the same time: they write the same values. */
static void fpu_components_init(void)
{
    component_table[FPU_COMP_X87] = (struct fpu_component){ .offset = 0, .bytes = FPU_XMM };
    component_table[FPU_COMP_SSE] = (struct fpu_component){ .offset = FPU_XMM, .bytes = 256 };
    for (unsigned i = 2; i < FPU_COMPONENTS; i++) {
        unsigned bytes, offset, c, d;
        __cpuid_count(0xd, i, bytes, offset, c, d);
        if (bytes && !(c & 1) && offset + bytes <= XSAVE_AREA_BYTES)
            component_table[i] = (struct fpu_component){ .offset = (uint16_t)offset, .bytes = (uint16_t)bytes, .is_aligned = c & 2 };
    }
    atomic_store_explicit(&component_is_known, true, memory_order_release);
}

const struct fpu_component *fpu_component(unsigned component)
{
    if (!atomic_load_explicit(&component_is_known, memory_order_acquire))
        fpu_components_init();
    return &component_table[component];
}

static void fpu_write_initial(struct soft_vcpu *sv, unsigned component)
{
    const struct fpu_component *c = fpu_component(component);
    if (component == FPU_COMP_X87) {
        light_fill(&sv->v.cpu.xsave[0], 0, FPU_MXCSR);
        light_fill(&sv->v.cpu.xsave[FPU_ST], 0, FPU_XMM - FPU_ST);
        fpu_set(sv, FPU_FCW, 2, FPU_FCW_INIT);
    } else {
        light_fill(&sv->v.cpu.xsave[c->offset], 0, c->bytes);
    }
}

void fpu_materialise(struct soft_vcpu *sv, unsigned component)
{
    if (fpu_in_use(sv, component))
        return;
    fpu_write_initial(sv, component);
    fpu_set(sv, FPU_XSTATE_BV, 8, fpu_get(sv, FPU_XSTATE_BV, 8) | 1ull << component);
}

void fpu_make_initial(struct soft_vcpu *sv, unsigned component)
{
    fpu_write_initial(sv, component);
    fpu_set(sv, FPU_XSTATE_BV, 8, fpu_get(sv, FPU_XSTATE_BV, 8) & ~(1ull << component));
}

uint32_t fpu_mxcsr_mask(const struct soft_vcpu *sv)
{
    uint32_t mask = (uint32_t)fpu_get(sv, FPU_MXCSR_MASK, 4);
    return mask ? mask : 0xffbf;
}

bool fpu_is_mf_pending(const struct soft_vcpu *sv)
{
    if (!fpu_in_use(sv, FPU_COMP_X87) || !(sv->v.cpu.cr0 & CR0_NE))
        return false;
    return fpu_get(sv, FPU_FSW, 2) & ~fpu_get(sv, FPU_FCW, 2) & 0x3f;
}

void fpu_settle_control(struct soft_vcpu *sv)
{
    fpu_set(sv, FPU_FCW, 2, (fpu_get(sv, FPU_FCW, 2) & 0x1f3f) | 0x40);
    uint64_t fsw = fpu_get(sv, FPU_FSW, 2) & 0x7f7f;
    if (fsw & ~fpu_get(sv, FPU_FCW, 2) & 0x3f)
        fsw |= 0x8080;
    fpu_set(sv, FPU_FSW, 2, fsw);
}

void fpu_turn_registers(struct soft_vcpu *sv, unsigned old_top, unsigned new_top)
{
    uint8_t old[128];
    light_copy(old, &sv->v.cpu.xsave[FPU_ST], sizeof(old));
    for (unsigned st = 0; st < 8; st++)
        light_copy(&sv->v.cpu.xsave[FPU_ST + st * 16], &old[((st + new_top - old_top) & 7) * 16], 16);
}

/* ---- operands of many parts ---- */

enum step fpu_area_begin(struct soft_vcpu *sv, const struct insn *in, unsigned align, struct fpu_area *a)
{
    gva_t gva;
    *a = (struct fpu_area){ .in = in, .ea = insn_ea(sv, in) };
    enum step s = seg_linear(sv, in->mem.seg, a->ea, 1, false, &gva);
    return s == STEP_NEXT && (gva & (align - 1)) ? step_fault_code(sv, VEC_GP, 0) : s;
}

/* The linear address of a part, and how many bytes of it there are before its offset wraps around. */
static enum step area_locate(struct soft_vcpu *sv, const struct fpu_area *a, unsigned offset, unsigned bytes, bool is_write, gva_t *gva, unsigned *n)
{
    uint64_t last = a->in->addr_bytes == 8 ? ~0ull : a->in->addr_bytes == 4 ? 0xffffffff : 0xffff, at = (a->ea + offset) & last;
    *n = bytes - 1 <= last - at ? bytes : (unsigned)(last - at) + 1;
    return seg_linear(sv, a->in->mem.seg, at, *n, is_write, gva);
}

enum step fpu_area_read(struct soft_vcpu *sv, const struct fpu_area *a, unsigned offset, void *to, unsigned bytes)
{
    uint8_t *p = to;
    for (unsigned n; bytes; offset += n, p += n, bytes -= n) {
        gva_t gva;
        enum step s = area_locate(sv, a, offset, bytes, false, &gva, &n);
        if (s == STEP_NEXT)
            s = linear_read(sv, gva, p, n, a->is_check ? ACCESS_UNTOLD : 0);
        if (s != STEP_NEXT)
            return s;
    }
    return STEP_NEXT;
}

enum step fpu_area_write(struct soft_vcpu *sv, const struct fpu_area *a, unsigned offset, const void *from, unsigned bytes)
{
    const uint8_t *p = from;
    for (unsigned n; bytes; offset += n, bytes -= n) {
        gva_t gva;
        enum step s = area_locate(sv, a, offset, bytes, true, &gva, &n);
        if (s == STEP_NEXT)
            s = p && !a->is_question ? linear_write(sv, gva, p, n, 0) : linear_probe_write(sv, gva, n, a->is_check ? ACCESS_UNTOLD : 0);
        if (s != STEP_NEXT)
            return s;
        p = p ? p + n : NULL;
    }
    return STEP_NEXT;
}

enum step fpu_area_check(struct soft_vcpu *sv, struct fpu_area *a, unsigned offset, unsigned bytes)
{
    a->is_check = true;
    enum step s = fpu_area_write(sv, a, offset, NULL, bytes);
    a->is_check = false;
    return s;
}

/* A store of one piece: nothing is written if any of it cannot be. */
static enum step area_store(struct soft_vcpu *sv, const struct fpu_area *a, const void *from, unsigned bytes)
{
    enum step s = fpu_area_write(sv, a, 0, NULL, bytes);
    return s == STEP_NEXT ? fpu_area_write(sv, a, 0, from, bytes) : s;
}

/* ---- FXSAVE, FXRSTOR ---- */

#define FXSAVE_USED_BYTES 416u /* the rest is never written */
#define FXSAVE_XMM8 288u

/* How much of the area is XMM state in this mode: outside 64-bit mode XMM8-15 are left alone. With EFER.FFXSR (AMD) the kernel's form omits all of it. */
static unsigned fxsave_bytes(const struct soft_vcpu *sv, const struct insn *in)
{
    if (in->mode_bits != 64)
        return FXSAVE_XMM8;
    return (sv->v.cpu.efer & EFER_FFXSR) && vcpu_cpl(&sv->v) == 0 ? FPU_XMM : FXSAVE_USED_BYTES;
}

enum step help_fxsave(struct soft_vcpu *sv, const struct insn *in)
{
    struct fpu_area a;
    enum step s = fpu_check_nm(sv);
    if (s == STEP_NEXT)
        s = fpu_area_begin(sv, in, 16, &a);
    if (s == STEP_NEXT)
        s = fpu_area_check(sv, &a, 0, FPU_LEGACY_BYTES);
    if (s != STEP_NEXT)
        return s;
    fp_put(sv);
    fpu_materialise(sv, FPU_COMP_X87);
    fpu_materialise(sv, FPU_COMP_SSE);
    uint8_t area[FXSAVE_USED_BYTES];
    light_copy(area, sv->v.cpu.xsave, sizeof(area));
    if (!in->rex_w) {
        light_fill(&area[FPU_FIP + 4], 0, 4);
        light_fill(&area[FPU_FDP + 4], 0, 4);
    }
    return area_store(sv, &a, area, fxsave_bytes(sv, in));
}

enum step help_fxrstor(struct soft_vcpu *sv, const struct insn *in)
{
    struct fpu_area a;
    uint8_t area[FPU_LEGACY_BYTES];
    enum step s = fpu_check_nm(sv);
    if (s == STEP_NEXT)
        s = fpu_area_begin(sv, in, 16, &a);
    if (s == STEP_NEXT)
        s = fpu_area_read(sv, &a, 0, area, sizeof(area));
    if (s != STEP_NEXT)
        return s;
    fp_put(sv);
    uint32_t mxcsr, mask = fpu_mxcsr_mask(sv);
    light_copy(&mxcsr, &area[FPU_MXCSR], 4);
    if (mxcsr & ~mask)
        return step_fault_code(sv, VEC_GP, 0);
    if (!in->rex_w) {
        light_fill(&area[FPU_FIP + 4], 0, 4);
        light_fill(&area[FPU_FDP + 4], 0, 4);
    }
    fpu_materialise(sv, FPU_COMP_X87);
    fpu_materialise(sv, FPU_COMP_SSE);
    light_copy(sv->v.cpu.xsave, area, fxsave_bytes(sv, in));
    fpu_settle_control(sv);
    fpu_set(sv, FPU_MXCSR, 4, mxcsr);
    fpu_set(sv, FPU_MXCSR_MASK, 4, mask);
    return STEP_NEXT;
}

/* ---- the 14- and 28-byte environments ---- */

static unsigned env_bytes(const struct insn *in)
{
    bool is_32 = in->mode_bits == 16 ? in->has_66 : !in->has_66 || in->rex_w;
    return is_32 ? 28 : 14;
}

static bool env_is_real_format(const struct soft_vcpu *sv)
{
    return !(sv->v.cpu.cr0 & CR0_PE) || (sv->v.cpu.rflags & RFLAGS_VM);
}

/* Two bits per physical register (0 valid, 1 zero, 2 special, 3 empty) from the one bit that FXSAVE keeps and the register's value. */
static uint16_t env_tags(const struct soft_vcpu *sv)
{
    unsigned top = fpu_get(sv, FPU_FSW, 2) >> 11 & 7, used = (unsigned)fpu_get(sv, FPU_FTW, 1), tags = 0;
    for (unsigned phys = 0; phys < 8; phys++) {
        unsigned st = FPU_ST + ((phys - top) & 7) * 16, tag = 0;
        uint64_t mantissa = fpu_get(sv, st, 8);
        unsigned exponent = fpu_get(sv, st + 8, 2) & 0x7fff;
        if (!(used >> phys & 1))
            tag = 3;
        else if (exponent == 0 && mantissa == 0)
            tag = 1;
        else if (exponent == 0 || exponent == 0x7fff || !(mantissa >> 63))
            tag = 2;
        tags |= tag << (phys * 2);
    }
    return (uint16_t)tags;
}

static void env_put(uint8_t *env, unsigned word_bytes, unsigned index, uint32_t value)
{
    light_copy(env + index * word_bytes, &value, word_bytes);
}

/*
 * Formats: SDM vol. 1, "Protected Mode x87 FPU State Image" and the real-mode ones. The selectors are not kept by the host (they read as zero on CPUs
 * that deprecate FCS and FDS), so the pointers are offsets in protected mode and taken as linear in the real-mode formats.
 */
static void env_encode(const struct soft_vcpu *sv, uint8_t *env, unsigned bytes)
{
    unsigned w = bytes / 7;
    uint32_t high = w == 4 ? 0xffff0000u : 0, fip = (uint32_t)fpu_get(sv, FPU_FIP, 4), fdp = (uint32_t)fpu_get(sv, FPU_FDP, 4);
    uint32_t fop = fpu_get(sv, FPU_FOP, 2) & 0x7ff;
    env_put(env, w, 0, (uint32_t)fpu_get(sv, FPU_FCW, 2) | high);
    env_put(env, w, 1, (uint32_t)fpu_get(sv, FPU_FSW, 2) | high);
    env_put(env, w, 2, env_tags(sv) | high);
    if (!env_is_real_format(sv)) {
        env_put(env, w, 3, fip);
        env_put(env, w, 4, w == 4 ? fop << 16 : 0);
        env_put(env, w, 5, fdp);
        env_put(env, w, 6, high);
    } else if (w == 2) {
        env_put(env, w, 3, fip);
        env_put(env, w, 4, (fip >> 16 & 15) << 12 | fop);
        env_put(env, w, 5, fdp);
        env_put(env, w, 6, (fdp >> 16 & 15) << 12);
    } else {
        env_put(env, w, 3, (fip & 0xffff) | high);
        env_put(env, w, 4, fip >> 16 << 12 | fop);
        env_put(env, w, 5, (fdp & 0xffff) | high);
        env_put(env, w, 6, fdp >> 16 << 12);
    }
}

static uint32_t env_get(const uint8_t *env, unsigned word_bytes, unsigned index)
{
    uint32_t value = 0;
    light_copy(&value, env + index * word_bytes, word_bytes);
    return value;
}

static void env_decode(struct soft_vcpu *sv, const uint8_t *env, unsigned bytes)
{
    unsigned w = bytes / 7, used = 0;
    uint32_t tags = env_get(env, w, 2), fip = env_get(env, w, 3), fdp = env_get(env, w, 5), fop = 0;
    for (unsigned phys = 0; phys < 8; phys++)
        used |= (tags >> (phys * 2) & 3) != 3 ? 1u << phys : 0;
    if (env_is_real_format(sv)) {
        fop = env_get(env, w, 4);
        fip = (fip & 0xffff) | (fop >> 12 & 0xffff) << 16;
        fdp = (fdp & 0xffff) | (env_get(env, w, 6) >> 12 & 0xffff) << 16;
    } else if (w == 4) {
        fop = env_get(env, w, 4) >> 16;
    }
    fpu_set(sv, FPU_FCW, 2, env_get(env, w, 0));
    fpu_set(sv, FPU_FSW, 2, env_get(env, w, 1));
    fpu_set(sv, FPU_FTW, 2, used);
    fpu_set(sv, FPU_FOP, 2, fop & 0x7ff);
    fpu_set(sv, FPU_FIP, 8, fip);
    fpu_set(sv, FPU_FDP, 8, fdp);
    fpu_settle_control(sv);
}

/* #NM, then for the waiting forms #MF; leaves the x87 state in cpu.xsave. */
static enum step env_begin(struct soft_vcpu *sv, const struct insn *in, bool is_waiting, struct fpu_area *a)
{
    enum step s = fpu_check_nm(sv);
    if (s != STEP_NEXT)
        return s;
    fp_put(sv);
    if (is_waiting && fpu_is_mf_pending(sv))
        return step_fault(sv, VEC_MF);
    fpu_materialise(sv, FPU_COMP_X87);
    return fpu_area_begin(sv, in, 1, a);
}

/* Masks every exception after storing. */
enum step help_fnstenv(struct soft_vcpu *sv, const struct insn *in)
{
    struct fpu_area a;
    uint8_t env[28];
    unsigned bytes = env_bytes(in);
    enum step s = env_begin(sv, in, false, &a);
    if (s != STEP_NEXT)
        return s;
    env_encode(sv, env, bytes);
    s = area_store(sv, &a, env, bytes);
    if (s != STEP_NEXT)
        return s;
    fpu_set(sv, FPU_FCW, 2, fpu_get(sv, FPU_FCW, 2) | 0x3f);
    fpu_settle_control(sv);
    return STEP_NEXT;
}

enum step help_fldenv(struct soft_vcpu *sv, const struct insn *in)
{
    struct fpu_area a;
    uint8_t env[28];
    unsigned bytes = env_bytes(in), old_top, new_top;
    enum step s = env_begin(sv, in, true, &a);
    if (s == STEP_NEXT)
        s = fpu_area_read(sv, &a, 0, env, bytes);
    if (s != STEP_NEXT)
        return s;
    old_top = fpu_get(sv, FPU_FSW, 2) >> 11 & 7;
    env_decode(sv, env, bytes);
    new_top = fpu_get(sv, FPU_FSW, 2) >> 11 & 7;
    fpu_turn_registers(sv, old_top, new_top);
    return STEP_NEXT;
}

/* Stores environment and registers in stack order, then initialises as FNINIT. */
enum step help_fnsave(struct soft_vcpu *sv, const struct insn *in)
{
    struct fpu_area a;
    uint8_t image[108];
    unsigned bytes = env_bytes(in);
    enum step s = env_begin(sv, in, false, &a);
    if (s != STEP_NEXT)
        return s;
    env_encode(sv, image, bytes);
    for (unsigned st = 0; st < 8; st++)
        light_copy(&image[bytes + st * 10], &sv->v.cpu.xsave[FPU_ST + st * 16], 10);
    s = area_store(sv, &a, image, bytes + 80);
    if (s != STEP_NEXT)
        return s;
    fpu_turn_registers(sv, fpu_get(sv, FPU_FSW, 2) >> 11 & 7, 0);
    light_fill(&sv->v.cpu.xsave[0], 0, FPU_MXCSR);
    fpu_set(sv, FPU_FCW, 2, FPU_FCW_INIT);
    return STEP_NEXT;
}

enum step help_frstor(struct soft_vcpu *sv, const struct insn *in)
{
    struct fpu_area a;
    uint8_t image[108];
    unsigned bytes = env_bytes(in);
    enum step s = env_begin(sv, in, true, &a);
    if (s == STEP_NEXT)
        s = fpu_area_read(sv, &a, 0, image, bytes + 80);
    if (s != STEP_NEXT)
        return s;
    env_decode(sv, image, bytes);
    for (unsigned st = 0; st < 8; st++) {
        light_copy(&sv->v.cpu.xsave[FPU_ST + st * 16], &image[bytes + st * 10], 10);
        light_fill(&sv->v.cpu.xsave[FPU_ST + st * 16 + 10], 0, 6);
    }
    return STEP_NEXT;
}
