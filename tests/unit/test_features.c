/* SPDX-License-Identifier: MIT */
/*
 * features.c: which instructions a CPUID allows. Needs nothing but the decoder.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "x86/features.h"

struct leaf {
    uint32_t function, index, reg[4];
};

struct leaves {
    unsigned n;
    struct leaf leaf[4];
};

static uint32_t lookup(const void *context, uint32_t function, uint32_t index, unsigned reg)
{
    const struct leaves *l = context;
    for (unsigned i = 0; i < l->n; i++)
        if (l->leaf[i].function == function && l->leaf[i].index == index)
            return l->leaf[i].reg[reg];
    return 0;
}

static bool allows(const struct features *f, const uint8_t *bytes, unsigned n)
{
    struct insn in;
    uint8_t padded[INSN_MAX_BYTES] = { 0 };
    for (unsigned i = 0; i < n; i++)
        padded[i] = bytes[i];
    assert_int_equal(insn_decode(&in, padded, sizeof(padded), 64), 0);
    return features_allow_insn(f, &in);
}

#define ALLOWS(f, ...) allows(f, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void base_sets_are_always_allowed(void **state)
{
    (void)state;
    struct leaves none = { 0 };
    struct features f;
    features_from_cpuid(&f, lookup, &none);
    assert_true(ALLOWS(&f, 0x90));                          /* NOP */
    assert_true(ALLOWS(&f, 0x48, 0x89, 0xc8));              /* MOV */
    assert_true(ALLOWS(&f, 0x0f, 0x05));                    /* SYSCALL */
    assert_true(ALLOWS(&f, 0x0f, 0xa2));                    /* CPUID */
    assert_true(ALLOWS(&f, 0xf3, 0x0f, 0x1e, 0xfa));        /* ENDBR64 */
    assert_true(ALLOWS(&f, 0x0f, 0x18, 0x0b));              /* PREFETCHT0 */
    assert_true(ALLOWS(&f, 0xf3, 0x0f, 0xbc, 0xc1));        /* REP BSF */
    assert_true(ALLOWS(&f, 0x0f, 0x01, 0xc1));              /* VMCALL */
    assert_false(ALLOWS(&f, 0x0f, 0x78, 0xc1));             /* VMREAD */
    assert_false(ALLOWS(&f, 0xc4, 0xe2, 0x78, 0xf3, 0xc9)); /* BLSR */
    assert_false(ALLOWS(&f, 0x0f, 0x58, 0xc1));             /* ADDPS */
    assert_false(ALLOWS(&f, 0xd9, 0xe8));                   /* FLD1 */
}

static void a_set_needs_all_its_bits(void **state)
{
    (void)state;
    const uint32_t avx512f = 1u << 16, avx512vl = 1u << 31;
    struct leaves l = { 1, { { 7, 0, { 0, avx512f, 0, 0 } } } };
    struct features f;
    features_from_cpuid(&f, lookup, &l);
    assert_true(ALLOWS(&f, 0x62, 0xf1, 0x7c, 0x48, 0x28, 0xc0));  /* VMOVAPS zmm */
    assert_false(ALLOWS(&f, 0x62, 0xf1, 0x7c, 0x28, 0x28, 0xc0)); /* VMOVAPS ymm, EVEX */
    l.leaf[0].reg[1] |= avx512vl;
    features_from_cpuid(&f, lookup, &l);
    assert_true(ALLOWS(&f, 0x62, 0xf1, 0x7c, 0x28, 0x28, 0xc0));
    assert_false(ALLOWS(&f, 0xc5, 0xf8, 0x28, 0xc0)); /* VMOVAPS, VEX */
}

static void all_leaves_out_what_is_never_offered(void **state)
{
    (void)state;
    struct features f;
    features_set_all(&f);
    assert_true(ALLOWS(&f, 0xc5, 0xf8, 0x28, 0xc0));
    assert_true(ALLOWS(&f, 0x0f, 0xae, 0x23));  /* XSAVE */
    assert_false(ALLOWS(&f, 0x0f, 0x01, 0xd5)); /* XEND */
    assert_false(ALLOWS(&f, 0x0f, 0x01, 0xee)); /* RDPKRU */
    assert_false(ALLOWS(&f, 0x0f, 0x01, 0xd8)); /* VMRUN */
    assert_false(features_allow(&f, 0xffff));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(base_sets_are_always_allowed),
        cmocka_unit_test(a_set_needs_all_its_bits),
        cmocka_unit_test(all_leaves_out_what_is_never_offered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
