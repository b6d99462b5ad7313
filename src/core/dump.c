/* SPDX-License-Identifier: MIT */
/*
 * A vCPU as text: what a bug report needs. Called by the CLI and before an abort; reads without a lock and never fails.
 */
#include "core/dump.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/vcpu.h"

struct text {
    char *buf;
    size_t bytes, used;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t left = t->used < t->bytes ? t->bytes - t->used : 0;
    int n = vsnprintf(left ? t->buf + t->used : NULL, left, format, args);
    va_end(args);
    t->used += n > 0 ? (size_t)n : 0;
}

static unsigned long long ull(uint64_t value)
{
    return value;
}

static void put_gpr(struct text *t, const struct cpu_state *c)
{
    static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15" };
    for (int i = 0; i < GPR_COUNT; i++)
        put(t, "%s %016llx%c", names[i], ull(c->gpr[i]), i % 4 == 3 ? '\n' : ' ');
    put(t, "rip %016llx rflags %08llx\n", ull(c->rip), ull(c->rflags));
}

static void put_segment(struct text *t, const char *name, const struct segment *s)
{
    put(t, "%-4s %04x base %016llx limit %08x type %x s %u dpl %u p %u db %u l %u g %u%s\n", name, s->selector, ull(s->base), s->limit, s->type, s->s, s->dpl,
        s->present, s->db, s->l, s->g, s->unusable ? " unusable" : "");
}

static void put_segments(struct text *t, const struct cpu_state *c)
{
    static const char *const names[] = { "es", "cs", "ss", "ds", "fs", "gs" };
    for (int i = 0; i < SEG_COUNT; i++)
        put_segment(t, names[i], &c->seg[i]);
    put_segment(t, "ldtr", &c->ldtr);
    put_segment(t, "tr", &c->tr);
    put(t, "gdtr base %016llx limit %04x  idtr base %016llx limit %04x\n", ull(c->gdtr.base), c->gdtr.limit, ull(c->idtr.base), c->idtr.limit);
}

static void put_control(struct text *t, const struct cpu_state *c)
{
    put(t, "cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx cr8 %llx\n", ull(c->cr0), ull(c->cr2), ull(c->cr3), ull(c->cr4), ull(c->cr8));
    put(t, "efer %llx xcr0 %llx apic_base %llx pat %016llx\n", ull(c->efer), ull(c->xcr0), ull(c->apic_base), ull(c->pat));
    put(t, "star %016llx lstar %016llx sfmask %llx kernel_gs %016llx\n", ull(c->star), ull(c->lstar), ull(c->sfmask), ull(c->kernel_gs_base));
    put(t, "dr0-3 %llx %llx %llx %llx dr6 %llx dr7 %llx\n", ull(c->dr[0]), ull(c->dr[1]), ull(c->dr[2]), ull(c->dr[3]), ull(c->dr6), ull(c->dr7));
}

static void put_events(struct text *t, const struct vcpu *v)
{
    put(t, "mp_state %u requests %x exit_req %u shadow %u nmi %u masked %u smm %u\n", v->mp_state, v->requests, v->exit_req, v->cpu.interrupt_shadow,
        v->ev.nmi_pending, v->cpu.nmi_masked, v->cpu.in_smm);
    if (v->ev.exception.pending)
        put(t, "exception %u code %x\n", v->ev.exception.vector, v->ev.exception.code);
    if (v->ev.interrupt.injected)
        put(t, "interrupt %u\n", v->ev.interrupt.vector);
    put(t, "last exit %u, instructions one by one %llu\n", v->exit.kind, ull(v->stat[STAT_SINGLE_INSNS]));
    if (v->exit.kind == EXIT_INTERNAL_ERROR) {
        put(t, "internal error %u: %s, bytes", v->exit.internal.suberror, v->exit.internal.text ? v->exit.internal.text : "");
        for (unsigned i = 0; i < v->exit.internal.n_bytes && i < sizeof v->exit.internal.insn_bytes; i++)
            put(t, " %02x", v->exit.internal.insn_bytes[i]);
        put(t, "\n");
    }
}

size_t vcpu_dump(const struct vcpu *v, char *buf, size_t bytes)
{
    struct text t = { buf, bytes, 0 };
    put(&t, "vcpu %u\n", v->id);
    put_gpr(&t, &v->cpu);
    put_segments(&t, &v->cpu);
    put_control(&t, &v->cpu);
    put_events(&t, v);
    return t.used;
}
