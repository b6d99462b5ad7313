/* SPDX-License-Identifier: MIT */
/*
 * The differential test: one machine state and a few instructions, run by the bare CPU and by the soft engine, must come to the same state, memory and fault.
 * Both sides see the same linear addresses: code at CODE_AT, data at DATA_AT, each side with its own memory behind them.
 */
#ifndef VITRINE_TESTS_DIFF_H
#define VITRINE_TESTS_DIFF_H

#include "base/types.h"
#include "x86/features.h"
#include "x86/insn.h"

/* ---- where things are ---- */
#define CODE_AT 0x40000000ull
#define CODE_PAGES 4u
#define DATA_AT 0x40100000ull
#define DATA_PAGES 2u                               /* readable and writable; the page before is not present, nor is the one after */
#define DATA_BYTES (DATA_PAGES * PAGE_BYTES)        /* compared after each case */
#define HOLE_AT (DATA_AT + DATA_PAGES * PAGE_BYTES) /* not present */
#define READONLY_AT (DATA_AT + 3 * PAGE_BYTES)      /* one page that cannot be written */
#define ARENA_END (DATA_AT + 16 * PAGE_BYTES)

/* 64, or 32: a 32-bit code segment under a 64-bit kernel. */
extern unsigned diff_mode_bits;
/* What the bare CPU cannot be compared on: the judge is the engine itself when nobody watches. */
extern bool diff_is_system;

/* ---- state ---- */
#define VECTOR_NONE (-1)
#define VECTOR_BROKEN (-2) /* the engine ended the run in a way that has no native twin */
struct machine_state {
    uint64_t gpr[GPR_COUNT];
    uint64_t rip, rflags;
    uint64_t fs_base, gs_base;
    int vector; /* of the fault that ended the run, or VECTOR_* */
    uint32_t error;
    uint64_t cr2;
    const char *broken; /* why */
    _Alignas(64) uint8_t xsave[4096];
};

/* Bytes of the XSAVE areas in use: the same on both sides. */
unsigned state_xsave_bytes(void);

/* ---- random numbers (xorshift64*) ---- */
struct rng {
    uint64_t s;
};
static inline uint64_t rng_next(struct rng *r)
{
    r->s ^= r->s >> 12;
    r->s ^= r->s << 25;
    r->s ^= r->s >> 27;
    return r->s * 0x2545f4914f6cdd1dull;
}
static inline unsigned rng_below(struct rng *r, unsigned n)
{
    return (unsigned)((rng_next(r) >> 32) * n >> 32);
}
static inline bool rng_percent(struct rng *r, unsigned percent)
{
    return rng_below(r, 100) < percent;
}
void rng_seed(struct rng *r, uint64_t seed, uint64_t index);

/* ---- values.c ---- */
void value_fill_state(struct rng *r, struct machine_state *st);
void value_fill_memory(struct rng *r, uint8_t *p, unsigned bytes);
uint64_t value_integer(struct rng *r);

/* ---- forms.c: what is tested ---- */
struct form {
    uint8_t enc, map, opcode, pp; /* pp: for legacy encodings a set of FORM_66, FORM_F2, FORM_F3 */
    uint8_t w, l, b, is_mem, has_modrm;
    uint8_t regs, rms; /* values of modrm.reg and, without memory, modrm.rm that give this instruction; bit masks */
    uint16_t mnemonic;
};
#define FORM_66 1u
#define FORM_F3 2u
#define FORM_F2 4u
/* Fills the table of all forms that the decoder knows, the features allow and that user-mode code can be compared on. Returns how many. */
unsigned forms_build(const struct features *features, const char *only);
const struct form *form_at(unsigned n);
/* True if the bare CPU and a guest are expected to agree on it. */
bool form_is_comparable(const struct insn *in);
/* True if it touches memory and only a kernel, or a machine of its own, can be compared on it. */
bool form_is_system(const struct insn *in);
bool form_is_wanted(const struct insn *in); /* of the two what this run is about */
bool form_suits_sequence(const struct insn *in);
bool form_is_string(const struct insn *in);
bool form_is_popa(const struct insn *in);
bool form_is_masked_store(const struct insn *in); /* MASKMOVQ, VMASKMOVPS and their kin */
bool form_is_state_load(const struct insn *in);   /* XRSTOR, FXRSTOR, FRSTOR, FLDENV */
const char *form_name(unsigned mnemonic);

/* ---- instance.c: bytes and operands ---- */
#define PIECES_MAX 12
struct instance {
    uint8_t bytes[PIECES_MAX * INSN_MAX_BYTES + 16];
    unsigned len, n;
    struct insn insn[PIECES_MAX];
    unsigned offset[PIECES_MAX + 1];
    uint64_t at;        /* linear address of the first byte */
    uint64_t fixed;     /* address of an absolute or rip-relative operand, 0 if none */
    uint8_t pointer[2]; /* sequences: registers that hold addresses */
    bool is_sequence;
    uint64_t target; /* where the last input aimed the (first) memory operand */
};
bool instance_make(struct rng *r, const struct form *f, uint64_t at, struct instance *out);
bool instance_make_sequence(struct rng *r, uint64_t at, struct instance *out, unsigned n_forms);

/* ---- aim.c ---- */
/* Points registers at memory for one run; may prepare memory, the same in both copies. */
void instance_aim(struct rng *r, struct instance *i, struct machine_state *st, uint8_t *native_data, uint8_t *guest_data);

/* ---- aim_system.c ---- */
/* The same for forms of the other kind; their memory is the guest's alone. */
void system_aim(struct rng *r, struct instance *i, struct machine_state *st, uint8_t *guest_data);

/* ---- native.c ---- */
int native_init(void); /* after the engine installed its signal handlers; -ENOSYS where the CPU lacks what it takes */
uint8_t *native_code(void);
uint8_t *native_data(void);
#define NATIVE_TAIL_BYTES 7
void native_tail(uint8_t *p); /* the jump back that ends a piece of code */
void native_run(const struct machine_state *in, struct machine_state *out);

/* ---- guest.c ---- */
int guest_init(struct features *features);
int guest_watch(void); /* makes the tool of both VMs (tool.h) */
uint64_t guest_code_gpa(void);
uint64_t guest_data_gpa(void); /* the pages from DATA_AT to the one that cannot be written follow each other */
uint8_t *guest_code(void);
void guest_code_changed(void); /* after writing there */
uint8_t *guest_data(void);
#define GUEST_SELECTORS 7
extern const uint16_t guest_selectors[GUEST_SELECTORS]; /* of every kind that there is */
/* The base and limit of the descriptor tables as LGDT or LIDT takes them. */
void guest_table_image(bool is_idt, uint8_t image[10]);
uint16_t guest_code_selector(void);
void guest_set_cpl(unsigned cpl); /* of the runs to come: 3, in 64-bit mode also 0 */
/* Segments, descriptor tables and CR0 at the end of a run, in words. */
#define GUEST_SYSTEM_WORDS 40
void guest_system_end(uint64_t words[GUEST_SYSTEM_WORDS]);
#define GUEST_TAIL_BYTES 2
void guest_tail(uint8_t *p);
void guest_run(const struct machine_state *in, struct machine_state *out, bool is_stepping);

#endif
