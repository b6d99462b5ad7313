/* SPDX-License-Identifier: MIT */
/*
 * Inputs for the forms that a process cannot run: pointers that lead to the tail of the code, frames to return by, selectors and tables. One thread.
 */
#include "diff.h"

#include <Zydis/Zydis.h>
#include <string.h>

static uint64_t pick_stack(struct rng *r)
{
    return rng_percent(r, 85) ? (DATA_AT + 512 + rng_below(r, (unsigned)DATA_BYTES - 1024)) & ~1ull : HOLE_AT - rng_below(r, 24);
}

static void put(uint64_t at, const void *value, unsigned bytes, uint8_t *data)
{
    if (at >= DATA_AT && at + bytes <= DATA_AT + DATA_BYTES)
        memcpy(data + (at - DATA_AT), value, bytes);
}

/* Where a transfer ends: at the tail, where the next is measured, or nowhere. */
static uint64_t pick_end(struct rng *r, const struct instance *i)
{
    return rng_percent(r, 85) ? i->at + i->len : HOLE_AT;
}

static uint16_t pick_selector(struct rng *r, bool is_code)
{
    if (is_code && rng_percent(r, 70))
        return guest_code_selector();
    return rng_percent(r, 90) ? guest_selectors[rng_below(r, GUEST_SELECTORS)] : (uint16_t)(rng_next(r) & 0xff);
}

static void put_far(struct rng *r, const struct instance *i, uint64_t at, unsigned bytes, uint8_t *data)
{
    uint64_t end = pick_end(r, i), selector = pick_selector(r, true);
    put(at, &end, bytes, data);
    put(at + bytes, &selector, 2, data);
}

/* Offset, selector, flags, stack pointer, stack selector. */
static void put_frame(struct rng *r, const struct instance *i, uint64_t at, unsigned bytes, uint8_t *data)
{
    const uint64_t frame[] = { pick_end(r, i), pick_selector(r, true), RFLAGS_RES1 | (rng_next(r) & RFLAGS_STATUS), pick_stack(r), pick_selector(r, false) };
    for (unsigned n = 0; n < 5; n++)
        put(at + n * bytes, &frame[n], bytes, data);
}

static void put_table(struct rng *r, bool is_idt, uint64_t at, uint8_t *data)
{
    uint8_t image[10];
    guest_table_image(is_idt, image);
    if (rng_percent(r, 80))
        put(at, image, sizeof image, data);
}

void system_aim(struct rng *r, struct instance *i, struct machine_state *st, uint8_t *data)
{
    const struct insn *in = &i->insn[0];
    unsigned bytes = in->op_bytes;
    uint64_t end = pick_end(r, i), sp = pick_stack(r);
    uint16_t selector = pick_selector(r, false);
    if (!in->has_mem || in->mem.base != GPR_RSP) /* else it points to the operand */
        st->gpr[GPR_RSP] = sp;
    guest_set_cpl(diff_mode_bits == 64 && rng_percent(r, 50) ? 0 : 3);
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
        if (in->modrm & 8) /* /3 and /5 */
            put_far(r, i, i->target, bytes, data);
        else
            put(i->target, &end, diff_mode_bits / 8, data);
        break;
    case ZYDIS_MNEMONIC_RET:
        if (in->opcode == 0xca || in->opcode == 0xcb)
            put_frame(r, i, sp, bytes, data), put_far(r, i, sp, bytes, data);
        else
            put(sp, &end, diff_mode_bits / 8, data);
        break;
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        put_frame(r, i, sp, bytes, data);
        break;
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
        put(i->target + bytes, &selector, 2, data);
        break;
    case ZYDIS_MNEMONIC_LGDT:
    case ZYDIS_MNEMONIC_LIDT:
        put_table(r, in->mnemonic == ZYDIS_MNEMONIC_LIDT, i->target, data);
        break;
    case ZYDIS_MNEMONIC_POP:
        put(sp, &selector, 2, data);
        break;
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
        if (rng_percent(r, 70))
            st->gpr[GPR_RAX] = st->gpr[GPR_RDX] = ~0ull;
        break;
    default:
        put(i->target, &selector, 2, data);
    }
}
