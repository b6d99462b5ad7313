/* SPDX-License-Identifier: MIT */
/*
 * MOVS STOS LODS CMPS SCAS, with and without REP (SDM vol. 2, "REP/REPE/REPZ/REPNE/REPNZ"). Called by exec_insn on the vCPU's thread, no lock.
 *
 * Each iteration commits before the next begins, so a fault or an exit in the middle leaves rCX, rSI and rDI at the iteration to be restarted.
 * Runs in plain RAM go by chunks within a page, moves and fills in both directions; all else, MMIO included, element by element. After a bounded
 * amount the helper returns STEP_REPEAT so that interrupts get in.
 */
#include "engine/soft/help_string.h"
#include "engine/soft/light.h"

#define STRING_BUDGET_BYTES 65536u

typedef uint16_t __attribute__((may_alias, aligned(1))) any16;
typedef uint32_t __attribute__((may_alias, aligned(1))) any32;
typedef uint64_t __attribute__((may_alias, aligned(1))) any64;

/* What one iteration, or a chunk of them, does. */
struct string_kind {
    bool has_source, has_dest;
    bool is_compare; /* ends on ZF; its chunks go forward only */
    enum step (*element)(struct soft_vcpu *sv, const struct string_op *op);
    /* Does at most n elements, n >= 2; how many it did: 0 sends the run loop to element(). */
    uint64_t (*chunk)(struct soft_vcpu *sv, const struct string_op *op, uint64_t n, bool ends_on_zf);
};

struct string_op string_op_of(const struct soft_vcpu *sv, const struct insn *in)
{
    return (struct string_op){
        .bytes = in->opcode & 1 ? in->op_bytes : 1,
        .mask = in->addr_bytes == 8 ? ~0ull : (1ull << (8 * in->addr_bytes)) - 1,
        .is_backward = sv->v.cpu.rflags & RFLAGS_DF,
        .is_rep = in->has_f2 || in->has_f3,
        .source_seg = in->mem.seg,
        .addr_bytes = in->addr_bytes,
    };
}

uint64_t string_count(const struct soft_vcpu *sv, const struct string_op *op)
{
    return op->is_rep ? sv->v.cpu.gpr[GPR_RCX] & op->mask : 1;
}

void string_advance(struct soft_vcpu *sv, const struct string_op *op, uint64_t n, bool has_source, bool has_dest)
{
    uint64_t *gpr = sv->v.cpu.gpr, by = n * op->bytes;
    if (op->is_backward)
        by = -by;
    if (has_source)
        gpr_write(sv, GPR_RSI, op->addr_bytes, gpr[GPR_RSI] + by);
    if (has_dest)
        gpr_write(sv, GPR_RDI, op->addr_bytes, gpr[GPR_RDI] + by);
    if (op->is_rep)
        gpr_write(sv, GPR_RCX, op->addr_bytes, gpr[GPR_RCX] - n);
}

/* How many elements lie in the page of the first one and below or above it in the address size. */
static uint64_t elements_in_page(const struct string_op *op, uint64_t offset, gva_t gva)
{
    uint64_t in_page = gva & PAGE_OFFSET_MASK, room;
    if (op->is_backward) {
        if (in_page + op->bytes > PAGE_BYTES)
            return 0;
        room = in_page / op->bytes + 1;
        return room < offset / op->bytes + 1 ? room : offset / op->bytes + 1;
    }
    room = (PAGE_BYTES - in_page) / op->bytes;
    if (op->mask != ~0ull && room > (op->mask - offset + 1) / op->bytes)
        room = (op->mask - offset + 1) / op->bytes;
    return room;
}

uint8_t *string_host(struct soft_vcpu *sv, const struct string_op *op, unsigned seg, unsigned reg, bool is_write, uint64_t *n)
{
    uint64_t offset = sv->v.cpu.gpr[reg] & op->mask;
    gva_t gva;
    if (seg_linear(sv, seg, offset, op->bytes, is_write, &gva) != STEP_NEXT)
        return NULL;
    uint64_t room = elements_in_page(op, offset, gva);
    if (room > *n)
        room = *n;
    if (room == 0)
        return NULL;
    uint64_t below = op->is_backward ? (room - 1) * op->bytes : 0;
    /* The whole run: the segment may end before. */
    if (seg_linear(sv, seg, offset - below, (unsigned)room * op->bytes, is_write, &gva) != STEP_NEXT)
        return NULL;
    uint8_t *host = linear_host(sv, gva, (unsigned)room * op->bytes, is_write);
    if (!host)
        return NULL;
    *n = room;
    return host + below;
}

static uint64_t load(const uint8_t *p, unsigned bytes)
{
    switch (bytes) {
    case 1:
        return *(const volatile uint8_t *)p;
    case 2:
        return *(const volatile any16 *)p;
    case 4:
        return *(const volatile any32 *)p;
    default:
        return *(const volatile any64 *)p;
    }
}

/* The status flags of a - b. */
static void flags_of_sub(struct soft_vcpu *sv, uint64_t a, uint64_t b, unsigned bytes)
{
    unsigned top = 8 * bytes - 1;
    uint64_t mask = ~0ull >> (63 - top), r = (a - b) & mask;
    uint64_t f = 0;
    a &= mask;
    b &= mask;
    if (a < b)
        f |= RFLAGS_CF;
    if (!__builtin_parity((unsigned)(r & 0xff)))
        f |= RFLAGS_PF;
    if ((a ^ b ^ r) & 0x10)
        f |= RFLAGS_AF;
    if (r == 0)
        f |= RFLAGS_ZF;
    if (r >> top & 1)
        f |= RFLAGS_SF;
    if (((a ^ b) & (a ^ r)) >> top & 1)
        f |= RFLAGS_OF;
    sv->v.cpu.rflags = (sv->v.cpu.rflags & ~(uint64_t)RFLAGS_STATUS) | f;
}

static enum step source_read(struct soft_vcpu *sv, const struct string_op *op, uint64_t *value)
{
    *value = 0;
    return seg_read(sv, op->source_seg, sv->v.cpu.gpr[GPR_RSI] & op->mask, value, op->bytes);
}

static enum step dest_read(struct soft_vcpu *sv, const struct string_op *op, uint64_t *value)
{
    *value = 0;
    return seg_read(sv, SEG_ES, sv->v.cpu.gpr[GPR_RDI] & op->mask, value, op->bytes);
}

static enum step dest_write(struct soft_vcpu *sv, const struct string_op *op, uint64_t value)
{
    return seg_write(sv, SEG_ES, sv->v.cpu.gpr[GPR_RDI] & op->mask, &value, op->bytes);
}

static enum step movs_element(struct soft_vcpu *sv, const struct string_op *op)
{
    uint64_t value;
    enum step st = source_read(sv, op, &value);
    return st == STEP_NEXT ? dest_write(sv, op, value) : st;
}

static uint64_t movs_chunk(struct soft_vcpu *sv, const struct string_op *op, uint64_t n, bool ends_on_zf)
{
    (void)ends_on_zf;
    const uint8_t *from = string_host(sv, op, op->source_seg, GPR_RSI, false, &n);
    if (!from)
        return 0;
    uint8_t *to = string_host(sv, op, SEG_ES, GPR_RDI, true, &n);
    uint64_t up = (uint64_t)to - (uint64_t)from, ahead = op->is_backward ? -up : up, bytes = n * op->bytes;
    /* Byte by byte is the same as element by element unless an element overlaps its own copy ahead of it. */
    if (!to || (ahead && ahead < op->bytes))
        return 0;
    if (!op->is_backward) {
        light_copy(to, from, bytes);
        return n;
    }
    from -= bytes - op->bytes;
    to -= bytes - op->bytes;
    if (up >= bytes && -up >= bytes) {
        light_copy(to, from, bytes); /* they do not overlap: the order is nobody's business */
        return n;
    }
    while (bytes-- > 0)
        ((volatile uint8_t *)to)[bytes] = from[bytes];
    return n;
}

static enum step stos_element(struct soft_vcpu *sv, const struct string_op *op)
{
    return dest_write(sv, op, sv->v.cpu.gpr[GPR_RAX]);
}

static uint64_t stos_chunk(struct soft_vcpu *sv, const struct string_op *op, uint64_t n, bool ends_on_zf)
{
    (void)ends_on_zf;
    void *to = string_host(sv, op, SEG_ES, GPR_RDI, true, &n);
    if (!to)
        return 0;
    if (op->is_backward)
        to = (uint8_t *)to - (n - 1) * op->bytes;
    uint64_t left = n, value = sv->v.cpu.gpr[GPR_RAX];
    switch (op->bytes) {
    case 1:
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(left) : "a"(value) : "memory");
        break;
    case 2:
        __asm__ volatile("rep stosw" : "+D"(to), "+c"(left) : "a"(value) : "memory");
        break;
    case 4:
        __asm__ volatile("rep stosl" : "+D"(to), "+c"(left) : "a"(value) : "memory");
        break;
    default:
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(left) : "a"(value) : "memory");
    }
    return n;
}

static enum step lods_element(struct soft_vcpu *sv, const struct string_op *op)
{
    uint64_t value;
    enum step st = source_read(sv, op, &value);
    if (st == STEP_NEXT)
        gpr_write(sv, GPR_RAX, op->bytes, value);
    return st;
}

/* The second operand is the one that faults if both would (measured). */
static enum step cmps_element(struct soft_vcpu *sv, const struct string_op *op)
{
    uint64_t a, b;
    enum step st = dest_read(sv, op, &b);
    if (st == STEP_NEXT)
        st = source_read(sv, op, &a);
    if (st == STEP_NEXT)
        flags_of_sub(sv, a, b, op->bytes);
    return st;
}

/* Compares until an element ends the run; the flags are those of the last one compared. a_step 0: SCAS, a stays. */
static uint64_t compare_run(struct soft_vcpu *sv, const uint8_t *a, unsigned a_step, const uint8_t *b, unsigned bytes, uint64_t n, bool ends_on_zf)
{
    uint64_t i = 0, x, y;
    do {
        x = load(a, bytes);
        y = load(b, bytes);
        a += a_step;
        b += bytes;
        i++;
    } while (i < n && (x == y) != ends_on_zf);
    flags_of_sub(sv, x, y, bytes);
    return i;
}

static uint64_t cmps_chunk(struct soft_vcpu *sv, const struct string_op *op, uint64_t n, bool ends_on_zf)
{
    const uint8_t *a = string_host(sv, op, op->source_seg, GPR_RSI, false, &n);
    const uint8_t *b = a ? string_host(sv, op, SEG_ES, GPR_RDI, false, &n) : NULL;
    return b ? compare_run(sv, a, op->bytes, b, op->bytes, n, ends_on_zf) : 0;
}

static enum step scas_element(struct soft_vcpu *sv, const struct string_op *op)
{
    uint64_t b;
    enum step st = dest_read(sv, op, &b);
    if (st == STEP_NEXT)
        flags_of_sub(sv, sv->v.cpu.gpr[GPR_RAX], b, op->bytes);
    return st;
}

static uint64_t scas_chunk(struct soft_vcpu *sv, const struct string_op *op, uint64_t n, bool ends_on_zf)
{
    const uint8_t *b = string_host(sv, op, SEG_ES, GPR_RDI, false, &n);
    return b ? compare_run(sv, (const uint8_t *)&sv->v.cpu.gpr[GPR_RAX], 0, b, op->bytes, n, ends_on_zf) : 0;
}

/* Each iteration may be seen from outside: a trap or a breakpoint follows it. */
static bool is_stepping(const struct soft_vcpu *sv)
{
    return (sv->v.cpu.rflags & RFLAGS_TF) || (sv->v.debug.enabled && sv->v.debug.single_step) || sv->is_checking;
}

static enum step string_run(struct soft_vcpu *sv, const struct insn *in, const struct string_kind *k)
{
    struct string_op op = string_op_of(sv, in);
    bool ends_on_zf = in->has_f2; /* REPNE */
    bool has_chunks = op.is_rep && !(op.is_backward && k->is_compare) && k->chunk && !is_stepping(sv);
    uint64_t count, spent = 0;

    if (op.is_rep && op.addr_bytes == 4 && string_count(sv, &op) == 0) {
        /* Registers are written even so: they lose their upper halves, as on Intel's processors. */
        gpr_write(sv, GPR_RCX, 4, 0);
        if (k->has_dest && !k->is_compare) {
            gpr_write(sv, GPR_RDI, 4, sv->v.cpu.gpr[GPR_RDI]);
            if (k->has_source)
                gpr_write(sv, GPR_RSI, 4, sv->v.cpu.gpr[GPR_RSI]);
        }
    }
    while ((count = string_count(sv, &op)) != 0) {
        uint64_t n = has_chunks && count > 1 ? k->chunk(sv, &op, count, ends_on_zf) : 0;
        if (n == 0) {
            enum step st = k->element(sv, &op);
            if (st != STEP_NEXT)
                return st;
            n = 1;
            sv->v.replay.n = sv->v.replay.next = 0; /* recorded reads and grants belong to one iteration */
            watch_forget(&sv->v.watch);
        }
        string_advance(sv, &op, n, k->has_source, k->has_dest);
        if (!op.is_rep || n == count)
            break;
        if (k->is_compare && !(sv->v.cpu.rflags & RFLAGS_ZF) == !ends_on_zf)
            break;
        spent += n * op.bytes;
        /* Posted writes must reach the client before the next iteration may ask it for a read. */
        if (spent >= STRING_BUDGET_BYTES || is_stepping(sv) || sv->v.posted.n || atomic_load_explicit(&sv->v.exit_req, memory_order_relaxed))
            return STEP_REPEAT;
    }
    return STEP_NEXT;
}

enum step help_movs(struct soft_vcpu *sv, const struct insn *in)
{
    static const struct string_kind k = { .has_source = true, .has_dest = true, .element = movs_element, .chunk = movs_chunk };
    return string_run(sv, in, &k);
}

enum step help_stos(struct soft_vcpu *sv, const struct insn *in)
{
    static const struct string_kind k = { .has_dest = true, .element = stos_element, .chunk = stos_chunk };
    return string_run(sv, in, &k);
}

enum step help_lods(struct soft_vcpu *sv, const struct insn *in)
{
    static const struct string_kind k = { .has_source = true, .element = lods_element };
    return string_run(sv, in, &k);
}

enum step help_cmps(struct soft_vcpu *sv, const struct insn *in)
{
    static const struct string_kind k = { .has_source = true, .has_dest = true, .is_compare = true, .element = cmps_element, .chunk = cmps_chunk };
    return string_run(sv, in, &k);
}

enum step help_scas(struct soft_vcpu *sv, const struct insn *in)
{
    static const struct string_kind k = { .has_dest = true, .is_compare = true, .element = scas_element, .chunk = scas_chunk };
    return string_run(sv, in, &k);
}
