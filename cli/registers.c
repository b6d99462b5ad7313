/* SPDX-License-Identifier: MIT */
/* See registers.h. MSRs: SDM vol. 4; those of KVM's paravirtualization: <asm/kvm_para.h>. */
#include "cli/registers.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/inspect.h"

const char *const registers_gpr[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
const char *const registers_segment[VITRINE_SEGMENTS] = { "es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr" };

#define WORD(name, field, msr)                                                                        \
    {                                                                                                 \
        name, offsetof(struct vitrine_regs, field), sizeof(((struct vitrine_regs *)NULL)->field), msr \
    }

/* clang-format off */
const struct register_word registers_word[] = {
    WORD("rip", rip, 0), WORD("rflags", rflags, 0), WORD("cr0", cr0, 0), WORD("cr2", cr2, 0), WORD("cr3", cr3, 0), WORD("cr4", cr4, 0), WORD("cr8", cr8, 0),
    WORD("xcr0", xcr0, 0), WORD("efer", efer, 0), WORD("dr6", dr6, 0), WORD("dr7", dr7, 0), WORD("star", star, 0), WORD("lstar", lstar, 0),
    WORD("cstar", cstar, 0), WORD("sfmask", sfmask, 0), WORD("kernel_gs_base", kernel_gs_base, 0), WORD("sysenter_cs", sysenter_cs, 0),
    WORD("sysenter_esp", sysenter_esp, 0), WORD("sysenter_eip", sysenter_eip, 0), WORD("pat", pat, 0), WORD("tsc_aux", tsc_aux, 0),
    WORD("apic_base", apic_base, 0x1b), WORD("tsc", tsc, 0x10), WORD("gdtr_base", gdtr_base, 0), WORD("idtr_base", idtr_base, 0), WORD("dr0", dr[0], 0),
    WORD("dr1", dr[1], 0), WORD("dr2", dr[2], 0), WORD("dr3", dr[3], 0), WORD("gdtr_limit", gdtr_limit, 0), WORD("idtr_limit", idtr_limit, 0),
};
const unsigned registers_n_words = sizeof registers_word / sizeof *registers_word;

const struct register_msr registers_msr[] = {
    { "feature_control", 0x3a }, { "tsc_adjust", 0x3b }, { "spec_ctrl", 0x48 }, { "bios_sign_id", 0x8b }, { "platform_info", 0xce }, { "mtrrcap", 0xfe },
    { "arch_capabilities", 0x10a }, { "mcg_cap", 0x179 }, { "mcg_status", 0x17a }, { "misc_enable", 0x1a0 }, { "debugctl", 0x1d9 },
    { "mtrr_physbase0", 0x200 }, { "mtrr_physmask0", 0x201 }, { "mtrr_physbase1", 0x202 }, { "mtrr_physmask1", 0x203 }, { "mtrr_physbase2", 0x204 },
    { "mtrr_physmask2", 0x205 }, { "mtrr_physbase3", 0x206 }, { "mtrr_physmask3", 0x207 }, { "mtrr_physbase4", 0x208 }, { "mtrr_physmask4", 0x209 },
    { "mtrr_physbase5", 0x20a }, { "mtrr_physmask5", 0x20b }, { "mtrr_physbase6", 0x20c }, { "mtrr_physmask6", 0x20d }, { "mtrr_physbase7", 0x20e },
    { "mtrr_physmask7", 0x20f }, { "mtrr_fix64k_00000", 0x250 }, { "mtrr_fix16k_80000", 0x258 }, { "mtrr_fix16k_a0000", 0x259 },
    { "mtrr_fix4k_c0000", 0x268 }, { "mtrr_fix4k_c8000", 0x269 }, { "mtrr_fix4k_d0000", 0x26a }, { "mtrr_fix4k_d8000", 0x26b },
    { "mtrr_fix4k_e0000", 0x26c }, { "mtrr_fix4k_e8000", 0x26d }, { "mtrr_fix4k_f0000", 0x26e }, { "mtrr_fix4k_f8000", 0x26f }, { "mtrr_def_type", 0x2ff },
    { "tsc_deadline", 0x6e0 }, { "fs_base", 0xc0000100 }, { "gs_base", 0xc0000101 }, { "kvm_wall_clock", 0x4b564d00 }, { "kvm_system_time", 0x4b564d01 },
    { "kvm_async_pf_en", 0x4b564d02 }, { "kvm_steal_time", 0x4b564d03 }, { "kvm_pv_eoi_en", 0x4b564d04 }, { "kvm_poll_control", 0x4b564d05 },
    { "kvm_async_pf_int", 0x4b564d06 }, { "kvm_async_pf_ack", 0x4b564d07 },
};
const unsigned registers_n_msrs = sizeof registers_msr / sizeof *registers_msr;
/* clang-format on */

uint64_t registers_word_get(const struct vitrine_regs *r, unsigned i)
{
    uint64_t value = 0;
    memcpy(&value, (const char *)r + registers_word[i].at, registers_word[i].bytes);
    return value;
}

bool registers_msr_parse(const char *text, uint32_t *index)
{
    uint64_t number;
    for (unsigned i = 0; i < registers_n_msrs; i++)
        if (!strcmp(registers_msr[i].name, text)) {
            *index = registers_msr[i].index;
            return true;
        }
    for (unsigned i = 0; i < registers_n_words; i++)
        if (registers_word[i].msr && !strcmp(registers_word[i].name, text)) {
            *index = registers_word[i].msr;
            return true;
        }
    if (!inspect_number(text, false, &number) || number > UINT32_MAX)
        return false;
    *index = (uint32_t)number;
    return true;
}

const char *registers_msr_name(uint32_t index)
{
    for (unsigned i = 0; i < registers_n_msrs; i++)
        if (registers_msr[i].index == index)
            return registers_msr[i].name;
    return NULL;
}

/* ---- where a name is set ---- */

static bool find_segment(const char *name, struct register_place *out)
{
    static const struct {
        const char *name;
        uint16_t at;
        uint8_t bytes;
    } fields[] = { { ".selector", offsetof(struct vitrine_segment, selector), 2 },
                   { ".base", offsetof(struct vitrine_segment, base), 8 },
                   { ".limit", offsetof(struct vitrine_segment, limit), 4 },
                   { ".attributes", offsetof(struct vitrine_segment, attributes), 2 } };
    const char *dot = strchr(name, '.');
    for (unsigned i = 0; dot && i < VITRINE_SEGMENTS; i++)
        for (unsigned f = 0; f < 4; f++)
            if (strlen(registers_segment[i]) == (size_t)(dot - name) && !strncmp(registers_segment[i], name, (size_t)(dot - name)) &&
                !strcmp(fields[f].name, dot)) {
                size_t at = offsetof(struct vitrine_regs, segment) + i * sizeof(struct vitrine_segment) + fields[f].at;
                *out = (struct register_place){ .home = REGISTER_REGS, .at = (uint16_t)at, .bytes = fields[f].bytes };
                return true;
            }
    return false;
}

/* "xmm0" to "xmm15", and the control words (SDM vol. 1, "Legacy Region of an XSAVE Area"). */
static bool find_xsave(const char *name, struct register_place *out)
{
    uint64_t n;
    if (!strcmp(name, "fcw"))
        *out = (struct register_place){ .home = REGISTER_XSAVE, .at = 0, .bytes = 2, .index = 0 };
    else if (!strcmp(name, "mxcsr"))
        *out = (struct register_place){ .home = REGISTER_XSAVE, .at = 24, .bytes = 4, .index = 1 };
    else if (!strncmp(name, "xmm", 3) && inspect_number(name + 3, false, &n) && n < 16)
        *out = (struct register_place){ .home = REGISTER_XSAVE, .at = (uint16_t)(160 + 16 * n), .bytes = 16, .index = 1 };
    else
        return false;
    return true;
}

struct register_place registers_find(const char *name)
{
    struct register_place place = { .home = REGISTER_NONE };
    for (unsigned i = 0; i < 16; i++)
        if (!strcmp(registers_gpr[i], name))
            return (struct register_place){ .home = REGISTER_REGS, .at = (uint16_t)(offsetof(struct vitrine_regs, gpr) + 8 * i), .bytes = 8 };
    for (unsigned i = 0; i < registers_n_words; i++) {
        const struct register_word *w = &registers_word[i];
        if (!strcmp(w->name, name))
            return (struct register_place){ .home = w->msr ? REGISTER_MSR : REGISTER_REGS, .at = w->at, .bytes = w->bytes, .index = w->msr };
    }
    if (find_segment(name, &place) || find_xsave(name, &place))
        return place;
    if (registers_msr_parse(strncmp(name, "msr:", 4) ? name : name + 4, &place.index)) {
        place.home = REGISTER_MSR;
        place.bytes = 8;
    }
    return place;
}
