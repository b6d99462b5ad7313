/* SPDX-License-Identifier: MIT */
/*
 * Vector instructions whose memory accesses cannot be named by one address and size: MASKMOVQ, MASKMOVDQU, VMASKMOV, VPMASKMOV, gathers and scatters
 * (SDM vol. 2, and vol. 1, "Intel AVX-512 Gather and Scatter"), on the saved vector state. All other vector code is native. Called by exec.c through the
 * helper table on the vCPU's own thread; no lock.
 */
#include "engine/soft/help_fpu.h"

#define VEC_BYTES_MAX 64u

/* ---- registers in cpu.xsave ---- */

/* A slice of a vector register: which component holds it, where, and which bytes of the register it is. */
struct vec_slice {
    unsigned component, offset, first, bytes;
};

static unsigned vec_slices(unsigned reg, struct vec_slice out[3])
{
    if (reg >= 16) {
        out[0] = (struct vec_slice){ FPU_COMP_HI16_ZMM, fpu_component(FPU_COMP_HI16_ZMM)->offset + (reg - 16) * 64, 0, 64 };
        return 1;
    }
    out[0] = (struct vec_slice){ FPU_COMP_SSE, FPU_XMM + reg * 16, 0, 16 };
    out[1] = (struct vec_slice){ FPU_COMP_AVX, fpu_component(FPU_COMP_AVX)->offset + reg * 16, 16, 16 };
    out[2] = (struct vec_slice){ FPU_COMP_ZMM_HI256, fpu_component(FPU_COMP_ZMM_HI256)->offset + reg * 32, 32, 32 };
    return 3;
}

static void vec_read(const struct soft_vcpu *sv, unsigned reg, uint8_t value[VEC_BYTES_MAX])
{
    struct vec_slice slice[3];
    unsigned n = vec_slices(reg, slice);
    light_fill(value, 0, VEC_BYTES_MAX);
    for (unsigned i = 0; i < n; i++)
        if (fpu_component(slice[i].component)->bytes && fpu_in_use(sv, slice[i].component))
            light_copy(value + slice[i].first, &sv->v.cpu.xsave[slice[i].offset], slice[i].bytes);
}

/* Replaces the whole register, as VEX and EVEX do. A component in the initial state stays there when it would only get zeros. */
static void vec_write(struct soft_vcpu *sv, unsigned reg, const uint8_t value[VEC_BYTES_MAX])
{
    struct vec_slice slice[3];
    unsigned n = vec_slices(reg, slice);
    for (unsigned i = 0; i < n; i++) {
        uint8_t any = 0;
        for (unsigned b = 0; b < slice[i].bytes; b++)
            any |= value[slice[i].first + b];
        if (!fpu_component(slice[i].component)->bytes || (!any && !fpu_in_use(sv, slice[i].component)))
            continue;
        fpu_materialise(sv, slice[i].component);
        light_copy(&sv->v.cpu.xsave[slice[i].offset], value + slice[i].first, slice[i].bytes);
    }
}

static uint64_t vec_mask_read(const struct soft_vcpu *sv, unsigned k)
{
    return fpu_in_use(sv, FPU_COMP_OPMASK) ? fpu_get(sv, fpu_component(FPU_COMP_OPMASK)->offset + k * 8, 8) : 0;
}

static void vec_mask_write(struct soft_vcpu *sv, unsigned k, uint64_t value)
{
    fpu_materialise(sv, FPU_COMP_OPMASK);
    fpu_set(sv, fpu_component(FPU_COMP_OPMASK)->offset + k * 8, 8, value);
}

/* ---- checks ---- */

static enum step vec_check_sse(struct soft_vcpu *sv)
{
    if ((sv->v.cpu.cr0 & CR0_EM) || !(sv->v.cpu.cr4 & CR4_OSFXSR))
        return step_fault(sv, VEC_UD);
    return sv->v.cpu.cr0 & CR0_TS ? step_fault(sv, VEC_NM) : STEP_NEXT;
}

static enum step vec_check_avx(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t needed = XCR0_SSE | XCR0_AVX | (in->enc == ENC_EVEX ? XCR0_AVX512 : 0);
    if (!(sv->v.cpu.cr0 & CR0_PE) || (sv->v.cpu.rflags & RFLAGS_VM))
        return step_fault(sv, VEC_UD);
    if (!(sv->v.cpu.cr4 & CR4_OSXSAVE) || (sv->v.cpu.xcr0 & needed) != needed)
        return step_fault(sv, VEC_UD);
    return sv->v.cpu.cr0 & CR0_TS ? step_fault(sv, VEC_NM) : STEP_NEXT;
}

/* ---- masked runs of consecutive elements ---- */

struct vec_run {
    unsigned seg, elem_bytes, n;
    uint64_t ea;
    uint64_t mask; /* one bit per element */
    unsigned addr_bytes;
};

/* The next run of selected elements from *i on: its first element in *i and length, or 0. A run ends where the offset wraps. */
static unsigned vec_run_next(const struct vec_run *r, unsigned *i)
{
    while (*i < r->n && !(r->mask >> *i & 1))
        (*i)++;
    unsigned len = 0;
    while (*i + len < r->n && (r->mask >> (*i + len) & 1)) {
        if (len && misc_truncate(r->ea + (*i + len) * r->elem_bytes, r->addr_bytes) < r->elem_bytes)
            break;
        len++;
    }
    return len;
}

static enum step vec_run_linear(struct soft_vcpu *sv, const struct vec_run *r, unsigned i, unsigned len, bool is_write, gva_t *gva)
{
    return seg_linear(sv, r->seg, misc_truncate(r->ea + i * r->elem_bytes, r->addr_bytes), len * r->elem_bytes, is_write, gva);
}

/* Bytes outside the mask are not touched and cannot fault; every run is probed before the first is written. */
static enum step vec_store_masked(struct soft_vcpu *sv, const struct vec_run *r, const uint8_t *data)
{
    for (int is_commit = 0; is_commit < 2; is_commit++) {
        for (unsigned i = 0, len; (len = vec_run_next(r, &i)) != 0; i += len) {
            gva_t gva;
            unsigned bytes = len * r->elem_bytes;
            enum step s = vec_run_linear(sv, r, i, len, true, &gva);
            if (s == STEP_NEXT)
                s = is_commit ? linear_write(sv, gva, data + i * r->elem_bytes, bytes, ACCESS_WRITE) : linear_probe_write(sv, gva, bytes, ACCESS_WRITE);
            if (s != STEP_NEXT)
                return s;
        }
    }
    return STEP_NEXT;
}

static enum step vec_load_masked(struct soft_vcpu *sv, const struct vec_run *r, uint8_t *data)
{
    for (unsigned i = 0, len; (len = vec_run_next(r, &i)) != 0; i += len) {
        gva_t gva;
        enum step s = vec_run_linear(sv, r, i, len, false, &gva);
        if (s == STEP_NEXT)
            s = linear_read(sv, gva, data + i * r->elem_bytes, len * r->elem_bytes, ACCESS_READ);
        if (s != STEP_NEXT)
            return s;
    }
    return STEP_NEXT;
}

/* The sign bits of `n` elements. */
static uint64_t vec_sign_mask(const uint8_t *v, unsigned elem_bytes, unsigned n)
{
    uint64_t mask = 0;
    for (unsigned i = 0; i < n; i++)
        mask |= (uint64_t)(v[(i + 1) * elem_bytes - 1] >> 7) << i;
    return mask;
}

/* ---- MASKMOVQ, MASKMOVDQU: bytes to seg:rDI ---- */

static enum step vec_maskmov_store(struct soft_vcpu *sv, const struct insn *in, const uint8_t *data, const uint8_t *mask, unsigned bytes)
{
    struct vec_run r = { .seg = misc_data_seg(in), .elem_bytes = 1, .n = bytes, .addr_bytes = in->addr_bytes };
    r.ea = misc_truncate(sv->v.cpu.gpr[GPR_RDI], in->addr_bytes);
    r.mask = vec_sign_mask(mask, 1, bytes);
    gva_t gva; /* what the mask leaves out must be there too (measured; SDM vol. 2 leaves it to the processor) */
    enum step s = seg_linear(sv, r.seg, r.ea, bytes, true, &gva);
    if (s == STEP_NEXT)
        s = linear_probe_write(sv, gva, bytes, ACCESS_UNTOLD);
    return s == STEP_NEXT ? vec_store_masked(sv, &r, data) : s;
}

/* MMX instructions address physical registers, the image is in stack order; they also set TOP to 0 and mark every register valid. */
static void vec_enter_mmx(struct soft_vcpu *sv)
{
    fpu_turn_registers(sv, fpu_get(sv, FPU_FSW, 2) >> 11 & 7, 0);
    fpu_set(sv, FPU_FSW, 2, fpu_get(sv, FPU_FSW, 2) & ~0x3800ull);
    fpu_set(sv, FPU_FTW, 1, 0xff);
}

enum step help_maskmovq(struct soft_vcpu *sv, const struct insn *in)
{
    if (sv->v.cpu.cr0 & CR0_EM)
        return step_fault(sv, VEC_UD);
    if (sv->v.cpu.cr0 & CR0_TS)
        return step_fault(sv, VEC_NM);
    fp_put(sv);
    if (fpu_is_mf_pending(sv))
        return step_fault(sv, VEC_MF);
    fpu_materialise(sv, FPU_COMP_X87);
    unsigned top = fpu_get(sv, FPU_FSW, 2) >> 11 & 7;
    const uint8_t *st = &sv->v.cpu.xsave[FPU_ST];
    enum step s = vec_maskmov_store(sv, in, st + (((in->reg5 & 7u) - top) & 7) * 16, st + (((in->rm5 & 7u) - top) & 7) * 16, 8);
    if (s == STEP_NEXT)
        vec_enter_mmx(sv);
    return s;
}

/* MASKMOVDQU and VMASKMOVDQU. */
enum step help_maskmovdqu(struct soft_vcpu *sv, const struct insn *in)
{
    uint8_t data[VEC_BYTES_MAX], mask[VEC_BYTES_MAX];
    enum step s = in->enc == ENC_LEGACY ? vec_check_sse(sv) : vec_check_avx(sv, in);
    if (s != STEP_NEXT)
        return s;
    fp_put(sv);
    vec_read(sv, in->reg5, data);
    vec_read(sv, in->rm5, mask);
    return vec_maskmov_store(sv, in, data, mask, 16);
}

/* ---- VMASKMOVPS/PD (0F38 2C-2F) and VPMASKMOVD/Q (8C, 8E): the mask is the sign of each element of vvvv ---- */

enum step help_vmaskmov(struct soft_vcpu *sv, const struct insn *in)
{
    uint8_t data[VEC_BYTES_MAX], mask[VEC_BYTES_MAX];
    enum step s = vec_check_avx(sv, in);
    if (s != STEP_NEXT)
        return s;
    fp_put(sv);
    bool is_store = in->opcode == 0x2e || in->opcode == 0x2f || in->opcode == 0x8e;
    bool is_qword = in->opcode < 0x30 ? in->opcode & 1 : in->rex_w;
    struct vec_run r = { .seg = in->mem.seg, .elem_bytes = is_qword ? 8 : 4, .addr_bytes = in->addr_bytes, .ea = insn_ea(sv, in) };
    r.n = (in->vex_l ? 32 : 16) / r.elem_bytes;
    vec_read(sv, in->vvvv5, mask);
    r.mask = vec_sign_mask(mask, r.elem_bytes, r.n);
    if (is_store) {
        vec_read(sv, in->reg5, data);
        return vec_store_masked(sv, &r, data);
    }
    light_fill(data, 0, sizeof(data));
    s = vec_load_masked(sv, &r, data);
    if (s == STEP_NEXT)
        vec_write(sv, in->reg5, data);
    return s;
}

/* ---- gathers and scatters ---- */

struct vec_sparse {
    unsigned elem_bytes, index_bytes, n;
    uint64_t mask; /* elements still to do */
    uint8_t index[VEC_BYTES_MAX], data[VEC_BYTES_MAX];
};

/* 90/A0 and 92/A2 have dword indices, 91/A1 and 93/A3 qword; W is the element's size. */
static void vec_sparse_init(struct soft_vcpu *sv, const struct insn *in, struct vec_sparse *p)
{
    unsigned vector_bytes = in->enc == ENC_EVEX ? 16u << in->vex_l : in->vex_l ? 32 : 16;
    p->elem_bytes = in->rex_w ? 8 : 4;
    p->index_bytes = in->opcode & 1 ? 8 : 4;
    p->n = vector_bytes / (p->elem_bytes > p->index_bytes ? p->elem_bytes : p->index_bytes);
    vec_read(sv, in->mem.index, p->index);
    vec_read(sv, in->reg5, p->data);
}

static uint64_t vec_sparse_offset(const struct soft_vcpu *sv, const struct insn *in, const struct vec_sparse *p, unsigned i)
{
    uint64_t ea = (uint64_t)in->mem.disp, index = 0;
    if (in->mem.base == GPR_RIP)
        ea += sv->v.cpu.rip + in->len;
    else if (in->mem.base != GPR_NONE)
        ea += sv->v.cpu.gpr[in->mem.base];
    light_copy(&index, p->index + i * p->index_bytes, p->index_bytes);
    if (p->index_bytes == 4)
        index = (uint64_t)(int64_t)(int32_t)index;
    return misc_truncate(ea + index * in->mem.scale, in->addr_bytes);
}

/*
 * Elements are done from the lowest up and leave the mask as they are done, so that after a fault the instruction goes on where it stopped.
 * Returns STEP_NEXT when the mask is empty.
 */
static enum step vec_gather_elements(struct soft_vcpu *sv, const struct insn *in, struct vec_sparse *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        if (!(p->mask >> i & 1))
            continue;
        enum step s = seg_read(sv, in->mem.seg, vec_sparse_offset(sv, in, p, i), p->data + i * p->elem_bytes, p->elem_bytes);
        if (s != STEP_NEXT)
            return s;
        p->mask &= ~(1ull << i);
    }
    return STEP_NEXT;
}

/* The VEX mask register after the elements outside p->mask are done: their lanes are zero, the others all ones. */
static void vec_gather_mask_write(struct soft_vcpu *sv, const struct insn *in, const struct vec_sparse *p)
{
    uint8_t mask[VEC_BYTES_MAX];
    for (unsigned i = 0; i < VEC_BYTES_MAX / p->elem_bytes; i++)
        light_fill(mask + i * p->elem_bytes, p->mask >> i & 1 ? 0xff : 0, p->elem_bytes);
    vec_write(sv, in->vvvv5, mask);
}

/* A fault commits the elements before it, as the hardware does; an exit and a question to a tool commit nothing: it starts again with what was replayed and
 * granted. */
enum step help_gather(struct soft_vcpu *sv, const struct insn *in)
{
    struct vec_sparse p;
    bool is_evex = in->enc == ENC_EVEX;
    enum step s = vec_check_avx(sv, in);
    if (s != STEP_NEXT)
        return s;
    if (in->reg5 == in->mem.index || (is_evex ? in->evex_aaa == 0 : in->vvvv5 == in->mem.index || in->vvvv5 == in->reg5))
        return step_fault(sv, VEC_UD);
    fp_put(sv);
    vec_sparse_init(sv, in, &p);
    if (is_evex) {
        p.mask = vec_mask_read(sv, in->evex_aaa) & ((1ull << p.n) - 1);
    } else {
        uint8_t mask[VEC_BYTES_MAX];
        vec_read(sv, in->vvvv5, mask);
        p.mask = vec_sign_mask(mask, p.elem_bytes, p.n);
    }
    uint64_t wanted = p.mask;
    s = vec_gather_elements(sv, in, &p);
    if (s == STEP_EXIT || (s == STEP_FAULT && fault_leaves(&sv->fault)) || (s == STEP_FAULT && p.mask == wanted))
        return s;
    /* Everything above the elements is zero when done; SDM leaves it open on a fault, where zero is what the restart writes anyway. */
    light_fill(p.data + p.n * p.elem_bytes, 0, VEC_BYTES_MAX - p.n * p.elem_bytes);
    vec_write(sv, in->reg5, p.data);
    if (is_evex)
        vec_mask_write(sv, in->evex_aaa, p.mask);
    else
        vec_gather_mask_write(sv, in, &p);
    return s;
}

/* Tools let all of it happen, or nothing does. Faults are found again when it happens. */
static enum step vec_scatter_ask(struct soft_vcpu *sv, const struct insn *in, const struct vec_sparse *p)
{
    for (uint64_t left = p->mask; left; left &= left - 1) {
        gva_t gva;
        enum step s = seg_linear(sv, in->mem.seg, vec_sparse_offset(sv, in, p, (unsigned)__builtin_ctzll(left)), p->elem_bytes, true, &gva);
        if (s == STEP_NEXT)
            s = linear_probe_write(sv, gva, p->elem_bytes, 0);
        if (s != STEP_NEXT)
            return s == STEP_FAULT && fault_leaves(&sv->fault) ? s : STEP_NEXT;
    }
    return STEP_NEXT;
}

enum step help_scatter(struct soft_vcpu *sv, const struct insn *in)
{
    struct vec_sparse p;
    enum step s = vec_check_avx(sv, in);
    if (s != STEP_NEXT)
        return s;
    if (in->evex_aaa == 0)
        return step_fault(sv, VEC_UD);
    fp_put(sv);
    vec_sparse_init(sv, in, &p);
    p.mask = vec_mask_read(sv, in->evex_aaa) & ((1ull << p.n) - 1);
    if (watch_has_pages(sv) && (s = vec_scatter_ask(sv, in, &p)) != STEP_NEXT)
        return s;
    uint64_t wanted = p.mask;
    for (unsigned i = 0; i < p.n; i++) {
        if (!(p.mask >> i & 1))
            continue;
        s = seg_write(sv, in->mem.seg, vec_sparse_offset(sv, in, &p, i), p.data + i * p.elem_bytes, p.elem_bytes);
        if (s != STEP_NEXT)
            break;
        p.mask &= ~(1ull << i);
    }
    if (s == STEP_NEXT || p.mask != wanted)
        vec_mask_write(sv, in->evex_aaa, p.mask);
    return s;
}
