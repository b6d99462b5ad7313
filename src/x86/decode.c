/* SPDX-License-Identifier: MIT */
/*
 * Bytes to struct insn, by Zydis. Pure: no state, no guest memory. The engine calls it once per instruction when it translates or single-steps.
 * Everything that the re-encoder needs is kept as fields of the encoding (map, opcode, register numbers), everything that a C helper needs as operands.
 */
#include "x86/insn.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { DECODER_16, DECODER_32, DECODER_64, DECODERS };
static ZydisDecoder decoder[DECODERS];
static pthread_once_t decoder_once = PTHREAD_ONCE_INIT;

static void decoder_init(void)
{
    ZydisDecoderInit(&decoder[DECODER_16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderInit(&decoder[DECODER_32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&decoder[DECODER_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (int i = 0; i < DECODERS; i++) {
        /* Features that are never offered decode as the NOPs they are on CPUs without them. */
        ZydisDecoderEnableMode(&decoder[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoder[i], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoder[i], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    }
}

static ZydisMachineMode machine_mode(unsigned mode_bits)
{
    return mode_bits == 64 ? ZYDIS_MACHINE_MODE_LONG_64 : mode_bits == 32 ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LEGACY_16;
}

/* The general register (0-15) that contains `reg`, GPR_RIP, or GPR_NONE. */
static unsigned gpr_of(ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP || reg == ZYDIS_REGISTER_IP)
        return GPR_RIP;
    ZydisRegister wide = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    if (wide >= ZYDIS_REGISTER_RAX && wide <= ZYDIS_REGISTER_R15)
        return (unsigned)(wide - ZYDIS_REGISTER_RAX);
    return GPR_NONE;
}

static uint8_t seg_of(ZydisRegister reg)
{
    if (reg >= ZYDIS_REGISTER_ES && reg <= ZYDIS_REGISTER_GS)
        return (uint8_t)(reg - ZYDIS_REGISTER_ES);
    return SEG_DS;
}

static uint8_t access_of(ZydisOperandActions a)
{
    uint8_t r = 0;
    if (a & ZYDIS_OPERAND_ACTION_MASK_READ)
        r |= OPND_READ;
    if (a & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        r |= OPND_WRITE;
    return r;
}

static uint8_t field_of(ZydisOperandEncoding e)
{
    switch (e) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        return FIELD_REG;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        return FIELD_RM;
    case ZYDIS_OPERAND_ENCODING_OPCODE:
        return FIELD_OPCODE;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        return FIELD_VVVV;
    case ZYDIS_OPERAND_ENCODING_IS4:
        return FIELD_IS4;
    case ZYDIS_OPERAND_ENCODING_MASK:
        return FIELD_MASK;
    case ZYDIS_OPERAND_ENCODING_NONE:
        return FIELD_IMPLICIT;
    default:
        return FIELD_IMM;
    }
}

static uint8_t kind_of(ZydisRegisterClass c)
{
    switch (c) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return OPND_GPR;
    case ZYDIS_REGCLASS_SEGMENT:
        return OPND_SEG;
    case ZYDIS_REGCLASS_CONTROL:
        return OPND_CR;
    case ZYDIS_REGCLASS_DEBUG:
        return OPND_DR;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
        return OPND_VEC;
    case ZYDIS_REGCLASS_MMX:
        return OPND_MMX;
    case ZYDIS_REGCLASS_X87:
        return OPND_ST;
    case ZYDIS_REGCLASS_MASK:
        return OPND_MASK;
    default:
        return OPND_OTHER;
    }
}

static void opnd_from_reg(struct opnd *o, const ZydisDecodedOperand *z)
{
    ZydisRegister reg = z->reg.value;
    o->kind = kind_of(ZydisRegisterGetClass(reg));
    if (o->kind == OPND_GPR) {
        o->reg = (uint8_t)gpr_of(reg);
        o->is_high = reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
    } else {
        o->reg = (uint8_t)ZydisRegisterGetId(reg);
    }
}

static void mem_from(struct insn *in, const ZydisDecodedInstruction *whole, const ZydisDecodedOperand *z)
{
    struct insn_mem *m = &in->mem;
    in->has_mem = true;
    m->seg = seg_of(z->mem.segment);
    m->base = z->mem.base == ZYDIS_REGISTER_NONE ? GPR_NONE : (uint8_t)gpr_of(z->mem.base);
    m->is_vsib = z->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    if (z->mem.index == ZYDIS_REGISTER_NONE)
        m->index = GPR_NONE;
    else if (m->is_vsib)
        m->index = (uint8_t)ZydisRegisterGetId(z->mem.index);
    else
        m->index = (uint8_t)gpr_of(z->mem.index);
    m->scale = z->mem.scale ? z->mem.scale : 1;
    m->access = z->mem.type == ZYDIS_MEMOP_TYPE_MEM || m->is_vsib ? access_of(z->actions) : 0;
    m->bytes = z->size / 8;
    m->disp = z->mem.disp.value;
    /* mod 0, base 5 is a displacement alone, whatever REX.B says; Zydis takes it for R13D with a 32-bit address. */
    if (in->has_modrm && whole->address_width >= 32 && whole->raw.modrm.mod == 0 && whole->raw.modrm.rm == 4 && whole->raw.sib.base == 5) {
        m->base = GPR_NONE;
        m->disp = whole->raw.disp.value;
    }
}

/* Register use for liveness and allocation. A write of 1 or 2 bytes keeps the rest, so it reads too. */
static void account_registers(struct insn *in, const ZydisDecodedOperand *z)
{
    if (z->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        unsigned r = gpr_of(z->reg.value);
        if (r >= GPR_COUNT)
            return;
        if ((z->actions & ZYDIS_OPERAND_ACTION_MASK_READ) || z->size < 32 || (z->actions & ZYDIS_OPERAND_ACTION_CONDWRITE))
            in->gpr_read |= 1u << r;
        if (z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            in->gpr_written |= 1u << r;
    } else if (z->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        unsigned b = z->mem.base ? gpr_of(z->mem.base) : GPR_NONE, x = z->mem.index ? gpr_of(z->mem.index) : GPR_NONE;
        if (b < GPR_COUNT)
            in->gpr_read |= 1u << b;
        if (x < GPR_COUNT)
            in->gpr_read |= 1u << x;
    }
}

static void opnd_from(struct insn *in, const ZydisDecodedOperand *z)
{
    struct opnd *o = &in->opnd[in->n_opnds++];
    o->field = field_of(z->encoding);
    o->access = access_of(z->actions);
    o->bytes = z->size / 8;
    switch (z->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        opnd_from_reg(o, z);
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        o->kind = OPND_MEM;
        break;
    case ZYDIS_OPERAND_TYPE_POINTER:
        o->kind = OPND_FAR;
        in->imm = z->ptr.offset;
        in->imm2 = z->ptr.segment;
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        o->kind = z->imm.is_relative ? OPND_REL : OPND_IMM;
        if (in->n_opnds > 1 && in->opnd[in->n_opnds - 2].kind == OPND_IMM)
            in->imm2 = z->imm.value.u;
        else
            in->imm = z->imm.value.u;
        break;
    default:
        o->kind = OPND_OTHER;
    }
}

static void fields_from(struct insn *in, const ZydisDecodedInstruction *z)
{
    in->opcode = z->opcode;
    in->rex_w = z->raw.rex.W;
    switch (z->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        in->enc = ENC_VEX;
        in->map = z->raw.vex.m_mmmm;
        in->rex_w = z->raw.vex.W;
        in->vex_l = z->raw.vex.L;
        in->pp = z->raw.vex.pp;
        in->vvvv5 = (uint8_t)(~z->raw.vex.vvvv & 15);
        in->reg5 = (uint8_t)((!z->raw.vex.R) << 3);
        in->rm5 = (uint8_t)((!z->raw.vex.B) << 3);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        in->enc = ENC_EVEX;
        in->map = z->raw.evex.mmm;
        in->rex_w = z->raw.evex.W;
        in->vex_l = (uint8_t)(z->raw.evex.L2 << 1 | z->raw.evex.L);
        in->pp = z->raw.evex.pp;
        in->evex_z = z->raw.evex.z;
        in->evex_b = z->raw.evex.b;
        in->evex_aaa = z->raw.evex.aaa;
        in->vvvv5 = (uint8_t)((~z->raw.evex.vvvv & 15) | (!z->raw.evex.V2) << 4);
        in->reg5 = (uint8_t)((!z->raw.evex.R) << 3 | (!z->raw.evex.R2) << 4);
        in->rm5 = (uint8_t)((!z->raw.evex.B) << 3 | (!z->raw.evex.X) << 4);
        break;
    default:
        in->enc = ENC_LEGACY;
        in->map = (uint8_t)(z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? 0
                            : z->opcode_map == ZYDIS_OPCODE_MAP_0F    ? 1
                            : z->opcode_map == ZYDIS_OPCODE_MAP_0F38  ? 2
                                                                      : 3);
        in->reg5 = (uint8_t)(z->raw.rex.R << 3);
        in->rm5 = (uint8_t)(z->raw.rex.B << 3);
    }
    if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
        in->has_modrm = 1;
        in->modrm = (uint8_t)(z->raw.modrm.mod << 6 | z->raw.modrm.reg << 3 | z->raw.modrm.rm);
        in->reg5 |= z->raw.modrm.reg;
        in->rm5 |= z->raw.modrm.rm;
    } else {
        in->rm5 |= z->opcode & 7;
    }
    for (int i = 0; i < 2; i++)
        in->imm_bytes += z->raw.imm[i].size / 8;
}

static void prefixes_from(struct insn *in, const ZydisDecodedInstruction *z)
{
    in->has_lock = z->attributes & ZYDIS_ATTRIB_HAS_LOCK;
    for (int i = 0; i < z->raw.prefix_count; i++) {
        switch (z->raw.prefixes[i].value) {
        case 0x66:
            in->has_66 = true;
            break;
        case 0x67:
            in->has_67 = true;
            break;
        case 0xf2: /* the last of F2 and F3 counts */
            in->has_f2 = true;
            in->has_f3 = false;
            break;
        case 0xf3:
            in->has_f3 = true;
            in->has_f2 = false;
            break;
        }
    }
}

/* A shift or rotate whose masked count may be zero leaves all flags alone. */
static bool may_keep_flags(const struct insn *in, const ZydisDecodedInstruction *z)
{
    if (z->meta.category != ZYDIS_CATEGORY_SHIFT && z->meta.category != ZYDIS_CATEGORY_ROTATE)
        return false;
    for (int i = 0; i < in->n_opnds; i++)
        if (in->opnd[i].kind == OPND_IMM)
            return (in->imm & (in->op_bytes == 8 ? 63 : 31)) == 0;
    return true;
}

static void flags_from(struct insn *in, const ZydisDecodedInstruction *z)
{
    const ZydisAccessedFlags *f = z->cpu_flags;
    if (!f)
        return;
    in->flags_read = f->tested;
    in->flags_must = f->modified | f->set_0 | f->set_1;
    in->flags_written = in->flags_must | f->undefined;
    if (may_keep_flags(in, z))
        in->flags_must = 0;
}

static uint8_t fp_class_of(const struct insn *in, const ZydisDecodedInstruction *z)
{
    bool has_vec = false, has_mask = false, has_mmx = false;
    for (int i = 0; i < in->n_opnds; i++) {
        has_vec |= in->opnd[i].kind == OPND_VEC;
        has_mask |= in->opnd[i].kind == OPND_MASK;
        has_mmx |= in->opnd[i].kind == OPND_MMX;
    }
    if (in->enc == ENC_EVEX || has_mask)
        return FP_AVX512;
    if (in->enc == ENC_VEX)
        return has_vec || z->meta.isa_ext == ZYDIS_ISA_EXT_AVX || z->meta.isa_ext == ZYDIS_ISA_EXT_AVX2 ? FP_AVX : FP_NONE;
    if (z->meta.isa_ext == ZYDIS_ISA_EXT_X87 || (in->map == 0 && (in->opcode & 0xf8) == 0xd8)) /* Zydis counts FISTTP to SSE3 */
        return FP_X87;
    if (has_vec || z->mnemonic == ZYDIS_MNEMONIC_LDMXCSR || z->mnemonic == ZYDIS_MNEMONIC_STMXCSR)
        return FP_SSE;
    return has_mmx || z->mnemonic == ZYDIS_MNEMONIC_EMMS ? FP_MMX : FP_NONE;
}

/* The source segment of instructions whose memory operands are implied (MOVS, LODS, XLAT, MASKMOV...). */
static void implied_segment(struct insn *in, const ZydisDecodedOperand *z)
{
    unsigned base = gpr_of(z->mem.base);
    if (base == GPR_RSP || (base == GPR_RDI && seg_of(z->mem.segment) == SEG_ES))
        return;
    in->mem.seg = seg_of(z->mem.segment);
}

static const struct {
    uint8_t elements, lanes;
} broadcast_of[] = {
    [ZYDIS_BROADCAST_MODE_1_TO_2] = { 1, 2 },   [ZYDIS_BROADCAST_MODE_1_TO_4] = { 1, 4 },   [ZYDIS_BROADCAST_MODE_1_TO_8] = { 1, 8 },
    [ZYDIS_BROADCAST_MODE_1_TO_16] = { 1, 16 }, [ZYDIS_BROADCAST_MODE_1_TO_32] = { 1, 32 }, [ZYDIS_BROADCAST_MODE_1_TO_64] = { 1, 64 },
    [ZYDIS_BROADCAST_MODE_2_TO_4] = { 2, 4 },   [ZYDIS_BROADCAST_MODE_2_TO_8] = { 2, 8 },   [ZYDIS_BROADCAST_MODE_2_TO_16] = { 2, 16 },
    [ZYDIS_BROADCAST_MODE_4_TO_8] = { 4, 8 },   [ZYDIS_BROADCAST_MODE_4_TO_16] = { 4, 16 }, [ZYDIS_BROADCAST_MODE_8_TO_16] = { 8, 16 },
};

/* Elements of the memory operand and lanes of the opmask. Without a broadcast a lane is what the opmask writes, which may be several elements (VPDPBUSD) or
 * less than there is room for (VCVTPD2PS). */
static void masked_lanes(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op, const ZydisDecodedOperand *mem, unsigned *elements, unsigned *lanes)
{
    ZydisBroadcastMode mode = z->avx.broadcast.mode;
    if (mode != ZYDIS_BROADCAST_MODE_INVALID) {
        *elements = broadcast_of[mode].elements;
        *lanes = broadcast_of[mode].lanes;
        return;
    }
    *elements = z->mnemonic == ZYDIS_MNEMONIC_VPSHUFBITQMB ? mem->size / 8 : mem->element_count; /* Zydis counts quadwords, one opmask bit is a byte */
    if (op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && kind_of(ZydisRegisterGetClass(op[0].reg.value)) == OPND_VEC && op[0].element_count < *elements)
        *elements = op[0].element_count;
    *lanes = *elements;
}

/* Whether an EVEX opmask suppresses the faults of masked-out memory elements (SDM vol. 2, "Exceptions Classifications of EVEX Instructions"). */
static void masking_from(struct insn *in, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op, const ZydisDecodedOperand *mem)
{
    unsigned elements, lanes;
    switch (z->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E1:
    case ZYDIS_EXCEPTION_CLASS_E2:
    case ZYDIS_EXCEPTION_CLASS_E3:
    case ZYDIS_EXCEPTION_CLASS_E4:
    case ZYDIS_EXCEPTION_CLASS_E5:
    case ZYDIS_EXCEPTION_CLASS_E6:
    case ZYDIS_EXCEPTION_CLASS_E10:
    case ZYDIS_EXCEPTION_CLASS_E11:
        break;
    default:
        return;
    }
    switch (z->mnemonic) { /* E4NF, though Zydis says E4: all of the operand is read */
    case ZYDIS_MNEMONIC_VDBPSADBW:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
    case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
        return;
    default:
        break;
    }
    if (in->enc != ENC_EVEX || in->evex_aaa == 0 || in->mem.is_vsib || mem->element_size < 8)
        return;
    masked_lanes(z, op, mem, &elements, &lanes);
    in->mem.masked_bytes = (uint8_t)(in->mem.bytes / elements);
    in->mem.masked_lanes = (uint8_t)lanes;
    in->mem.is_packed = z->meta.category == ZYDIS_CATEGORY_COMPRESS || z->meta.category == ZYDIS_CATEGORY_EXPAND;
}

static int error_of(ZyanStatus s, unsigned avail)
{
    if (s == ZYDIS_STATUS_NO_MORE_DATA)
        return avail >= INSN_MAX_BYTES ? -E2BIG : -EAGAIN;
    if (s == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return -E2BIG;
    return -EILSEQ;
}

int insn_decode(struct insn *out, const uint8_t *bytes, unsigned avail, unsigned mode_bits)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

    pthread_once(&decoder_once, decoder_init);
    memset(out, 0, sizeof *out);
    out->len = 1;
    out->mode_bits = (uint8_t)mode_bits;
    if (avail > INSN_MAX_BYTES)
        avail = INSN_MAX_BYTES;
    const ZydisDecoder *d = &decoder[mode_bits == 64 ? DECODER_64 : mode_bits == 32 ? DECODER_32 : DECODER_16];
    ZyanStatus s = ZydisDecoderDecodeFull(d, bytes, avail, &z, op);
    if (!ZYAN_SUCCESS(s))
        return error_of(s, avail);
    if (z.machine_mode != machine_mode(mode_bits))
        return -EILSEQ;

    memcpy(out->bytes, bytes, z.length);
    out->len = z.length;
    out->mnemonic = z.mnemonic;
    out->isa_set = z.meta.isa_set;
    out->category = z.meta.category;
    out->op_bytes = z.operand_width / 8;
    out->addr_bytes = z.address_width / 8;
    out->mem.base = out->mem.index = GPR_NONE;
    out->mem.seg = SEG_DS;
    fields_from(out, &z);
    prefixes_from(out, &z);
    for (int i = 0; i < z.operand_count; i++) {
        account_registers(out, &op[i]);
        if (op[i].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN && out->n_opnds < INSN_MAX_OPNDS)
            opnd_from(out, &op[i]);
        if (op[i].type != ZYDIS_OPERAND_TYPE_MEMORY || out->has_mem)
            continue;
        if (op[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
            mem_from(out, &z, &op[i]);
            masking_from(out, &z, op, &op[i]);
        } else {
            implied_segment(out, &op[i]);
        }
    }
    if (z.mnemonic == ZYDIS_MNEMONIC_MOVSXD && out->has_mem && out->op_bytes == 2)
        out->mem.bytes = 2; /* Zydis says 4 */
    if (z.mnemonic == ZYDIS_MNEMONIC_BSF || z.mnemonic == ZYDIS_MNEMONIC_BSR)
        out->gpr_read |= out->gpr_written; /* a zero source keeps the destination */
    flags_from(out, &z);
    out->fp_class = fp_class_of(out, &z);
    return 0;
}
