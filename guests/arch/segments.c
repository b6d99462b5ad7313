/* SPDX-License-Identifier: MIT */
/*
 * Segmentation in protected mode: limits, types, gates and privilege, hardware tasks (SDM vol. 3A, "Protection", "Task Management"; AMD APM vol. 2 likewise).
 */
#include "arch32.h"

#define ES_TRY(insn, ...) TRY("mov %w0, %%es; " insn "; push $0x10; pop %%es", "r"(SEL_TEST), ##__VA_ARGS__)

extern char gate_entry[], gate_entry_plain[], conforming_entry[], task_fault_entry[], task_jump_entry[];
extern volatile u32 task_runs, task_eax, task_eflags, task_tr, task_error;
static u8 buffer[8192] __attribute__((aligned(4096)));

void test_segments(void)
{
    group("segment");
    gdt[8] = segment((u32)buffer, 0xff, 0x93, 4);
    buffer[5] = 0x55;
    u32 value = 0;
    __asm__ volatile("mov %w1, %%es; movzbl %%es:5, %0; push $0x10; pop %%es" : "=&r"(value) : "r"(SEL_TEST));
    check("base", value, 0x55);
    ES_TRY("movb %%es:0xff, %%al");
    check("last byte", trap_vector, NO_TRAP);
    ES_TRY("movb %%es:0x100, %%al");
    check("GP beyond the limit", trap_vector << 8 | trap_error, 13 << 8);
    ES_TRY("movl %%es:0xfd, %%eax");
    check("GP of the last byte beyond", trap_vector << 8 | trap_error, 13 << 8);
    ES_TRY("movl %%eax, %%es:0xfffffffe");
    check("GP of a wrap", trap_vector, 13);
    gdt[8] = segment((u32)buffer, 0xff, 0x97, 4); /* expand down: valid above 0xff */
    ES_TRY("movb %%es:0x100, %%al; movl %%es:0x200, %%eax");
    check("expand-down: above", trap_vector, NO_TRAP);
    ES_TRY("movb %%es:0xff, %%al");
    check("expand-down: GP below", trap_vector, 13);
    gdt[8] = segment((u32)buffer, 0xff, 0x97, 0);
    ES_TRY("movb %%es:0x10000, %%al");
    check("expand-down, B clear: GP above 64 KiB", trap_vector, 13);
    gdt[8] = segment((u32)buffer, 0xff, 0x91, 4);
    ES_TRY("movb %%es:0, %%al");
    check("read-only: read", trap_vector, NO_TRAP);
    ES_TRY("movb %%al, %%es:0");
    check("read-only: GP of a write", trap_vector << 8 | trap_error, 13 << 8);
    ES_TRY("lock addl $1, %%es:0");
    check("read-only: GP of a read-modify-write", trap_vector, 13);
    gdt[8] = segment((u32)buffer, 0xff, 0x99, 4);
    TRY("mov %w0, %%es", "r"(SEL_TEST));
    check_trap("execute-only: GP of loading it", 13, SEL_TEST);
    gdt[8] = segment((u32)buffer, 0xff, 0x9b, 4);
    ES_TRY("movb %%es:0, %%al");
    check("readable code: read", trap_vector, NO_TRAP);
    ES_TRY("movb %%al, %%es:0");
    check("readable code: GP of a write", trap_vector, 13);
    TRY("push $0; pop %%es; movb %%es:0, %%al");
    check("GP of a null segment", trap_vector << 8 | trap_error, 13 << 8);
    gdt[8] = segment((u32)buffer, 0xff, 0x93, 4);
    TRY("mov %w0, %%fs; mov $0x1000, %%ecx; movb %%fs:(%%ecx), %%al", "r"(SEL_TEST));
    check("FS: GP beyond the limit", trap_vector, 13);
    /* Stack segments. */
    gdt[8] = segment((u32)buffer, 0xff, 0x93, 4);
    gdt[8] = segment((u32)buffer, 0xfff, 0xf3, 4);
    TRY_USER("mov %w0, %%ss; mov $0x1002, %%esp; push %%eax", "r"(SEL_TEST | 3));
    check("SS of PUSH beyond the limit at CPL 3", trap_vector << 8 | trap_error, 12 << 8);
    TRY_USER("mov %w0, %%ss; mov $0x2000, %%ebp; mov (%%ebp), %%eax", "r"(SEL_TEST | 3));
    check("SS of EBP", trap_vector << 8 | trap_error, 12 << 8);
    TRY_USER("mov %w0, %%ss; mov $0x1000, %%esp; push %%eax; pop %%eax; mov %%esp, %%eax", "r"(SEL_TEST | 3));
    check("PUSH within it", trap_vector << 16 | trap_eax, 0x80 << 16 | 0x1000);
    gdt[8] = segment((u32)buffer, 0xffff, 0xf3, 0); /* 16-bit stack */
    TRY_USER("mov %w0, %%ss; mov $0x12341000, %%esp; push %%eax; mov %%esp, %%eax", "r"(SEL_TEST | 3));
    check("PUSH on a 16-bit stack", trap_eax, 0x12340ffc);
    /* Code segments. */
    gdt[9] = segment(0, 0xfffff, 0x9b, 4); /* 1 MiB: ends where the image begins */
    TRY("ljmp $0x48, $0x100000");
    check("GP of a far JMP beyond the limit", trap_vector << 8 | trap_error, 13 << 8);
    gdt[9] = segment(0, 0xfffff, 0x1b, 0xc);
    TRY("ljmp $0x48, $9f");
    check_trap("NP of a far JMP", 11, 0x48);
    TRY("ljmp $0x10, $9f");
    check_trap("GP of a far JMP to data", 13, 0x10);
    TRY("ljmp $0, $9f");
    check_trap("GP of a far JMP to null", 13, 0);
    gdt[9] = segment(0, 0xfffff, 0x9f, 0xc); /* conforming, DPL 0 */
    TRY_USER("lcall $0x48, $conforming_entry");
    check("conforming code keeps CPL 3", trap_vector << 16 | trap_eax, 0x80 << 16 | 0x4b);
    TRY_USER("lcall $0x08, $conforming_entry");
    check_trap("GP of a far CALL to DPL 0", 13, 8);
    gdt[9] = segment(0x10, 0xffff, 0x9b, 4);
    *(volatile u8 *)(0x8010) = 0xcb; /* RETF at offset 0x8000 of base 0x10 */
    TRY("lcall $0x48, $0x8000");
    check("a code segment with a base", trap_vector, NO_TRAP);
    gdt[9] = segment(0, 0xffff, 0x9b, 0); /* 16-bit code: mov $0x1234, %ax; lretl */
    static const u8 code16[] = { 0xb8, 0x34, 0x12, 0x66, 0xcb };
    for (unsigned i = 0; i < sizeof code16; i++)
        ((volatile u8 *)0x8000)[i] = code16[i];
    __asm__ volatile("mov $0xffff0000, %%eax; lcall $0x48, $0x8000" : "=a"(value)::"memory");
    check("16-bit code", value, 0xffff1234);

    group("instruction");
    TRY_USER("mov $0x7fffffff, %%eax; add $1, %%eax; into");
    check("INTO", trap_vector, 4);
    TRY("xor %%eax, %%eax; into");
    check("INTO without OF", trap_vector, NO_TRAP);
    static const u32 range[2] = { 5, 10 };
    TRY("bound %0, %1", "r"(11), "m"(range));
    check_trap("BOUND above", 5, 0);
    TRY("bound %0, %1", "r"(10), "m"(range));
    check("BOUND within", trap_vector, NO_TRAP);
    __asm__ volatile("mov $0x30, %%ecx; mov $0x13, %%eax; arpl %%ax, %%cx; setz %%al; shl $16, %%eax; mov %%cx, %%ax" : "=a"(value)::"ecx", "cc");
    check("ARPL", value & 0xff0000 ? value & 0xffff : 0, 0x33);
    __asm__ volatile("mov $0x15, %%al; sub $0x27, %%al; das; movzbl %%al, %%eax" : "=a"(value)::"cc");
    check("DAS", value, 0x88);
    __asm__ volatile("mov $0x0508, %%eax; aad; movzwl %%ax, %%eax" : "=a"(value)::"cc");
    check("AAD", value, 58);
    __asm__ volatile("mov %%esp, %%ecx; pusha; sub 12(%%esp), %%ecx; mov %%ecx, 28(%%esp); popa" : "=a"(value)::"ecx", "edi", "memory", "cc");
    check("PUSHA stores the ESP before it", value, 0);
    static struct {
        u32 offset;
        u16 sel;
    } __attribute__((packed)) far = { 0x89abcdef, 0x10 };
    __asm__ volatile("les %1, %0" : "=r"(value) : "m"(far));
    check("LES", value, 0x89abcdef);
    __asm__ volatile("mov %%esp, %%ecx; push %%ebp; enter $16, $2; mov %%esp, %%eax; leave; pop %%ebp; sub %%eax, %%ecx" : "=c"(value)::"eax", "memory");
    check("ENTER 16, 2", value, 4 + 4 + 8 + 16);
    __asm__ volatile("mov $0, %%eax; stc; .byte 0xd6" : "=a"(value)::"cc");
    check("SALC", value & 0xff, 0xff);
}

void test_gates(void)
{
    group("gate");
    gdt[8] = gate32(SEL_KCODE, (u32)gate_entry, 0xec, 2);
    u32 value;
    TRY_USER("push $30; push $12; lcall $0x43, $0; mov %%esp, %%ecx; sub user_esp, %%ecx; shl $16, %%ecx; add %%ecx, %%eax");
    check("CALL from CPL 3 copies parameters, RETF n drops them", trap_vector << 24 | trap_eax, 0x80u << 24 | 42);
    check("CS inside", last_frame.edx, SEL_KCODE);
    check("back at CPL 3", trap_cs, SEL_UCODE);
    gdt[8] = gate32(SEL_KCODE, (u32)gate_entry_plain, 0xec, 0);
    TRY_USER("lcall $0x43, $0; shl $16, %%edx; or %%edx, %%eax");
    check("CS and SS inside", trap_eax, SEL_KDATA << 16 | SEL_KCODE);
    __asm__ volatile("lcall $0x40, $0" : "=a"(value)::"edx", "memory");
    check("CALL at CPL 0 through it", value, SEL_KCODE);
    TRY_USER("ljmp $0x43, $0");
    check("GP of JMP to inner code", trap_vector << 8 | trap_error, 13 << 8 | SEL_KCODE);
    gdt[8] = gate32(SEL_KCODE, (u32)gate_entry_plain, 0x8c, 0);
    TRY_USER("lcall $0x43, $0");
    check_trap("GP of a gate of DPL 0", 13, 0x40);
    gdt[8] = gate32(SEL_KCODE, (u32)gate_entry_plain, 0x6c, 0);
    TRY_USER("lcall $0x43, $0");
    check_trap("NP of a gate", 11, 0x40);
    gdt[8] = gate32(SEL_KDATA, (u32)gate_entry_plain, 0xec, 0);
    TRY_USER("lcall $0x43, $0");
    check_trap("GP of a gate to data", 13, SEL_KDATA);
    gdt[8] = gate32(SEL_KCODE, (u32)gate_entry_plain, 0xec, 0);
    /* An interrupt gate clears IF, a trap gate keeps it. */
    idt[0x21] = gate32(SEL_KCODE, (u32)trap_stubs32 + 16 * 0x21, 0xef, 0);
    TRY_USER_FLAGS(2, "int $0x21");
    check("trap gate from CPL 3", trap_vector, 0x21);
    check("SS and ESP are pushed", trap_ss, SEL_UDATA);
    TRY_USER("int $0x22");
    check_trap("GP of a DPL 0 gate", 13, 0x22 * 8 + 2);
    /* 16-bit interrupt gate: pushes words. */
    static const u8 handler[] = { 0x66, 0x89, 0xe0, 0xcf }; /* mov %esp, %eax; iret */
    static const u8 caller[] = { 0xcd, 0x23, 0x66, 0xcb };  /* int $0x23; lretl */
    for (unsigned i = 0; i < 4; i++) {
        ((volatile u8 *)0x9000)[i] = handler[i];
        ((volatile u8 *)0x9100)[i] = caller[i];
    }
    idt[0x23] = gate32(SEL_CODE16, 0x9000, 0x86, 0);
    __asm__ volatile("mov %%esp, %%ecx; lcall $0x60, $0x9100; sub %%eax, %%ecx" : "=c"(value)::"eax", "memory");
    check("a 16-bit interrupt gate pushes three words", value, 8 + 6);
}

static void task_set(void *entry)
{
    task = (struct tss32){ 0 };
    task.eip = (u32)entry;
    task.esp = task.esp0 = (u32)task_stack_top;
    task.cs = SEL_KCODE;
    task.ss = task.ss0 = task.ds = task.es = task.fs = task.gs = SEL_KDATA;
    task.eflags = 2;
    task.eax = 0xabcd;
    task.cr3 = READ_CR(3);
    task.io_map = sizeof task;
    gdt[6] = segment((u32)&task, sizeof task - 1, 0x89, 0);
}

void test_tasks(void)
{
    u32 value;
    group("task");
    task_set(task_entry);
    __asm__ volatile("clts; mov $0x77, %%edi; lcall $0x30, $0; mov %%edi, %0" : "=r"(value)::"edi", "memory", "cc");
    check("CALL and IRET", task_runs, 1);
    check("registers come from the TSS", task_eax, 0xabcd);
    check("and are saved in it", value, 0x77);
    check("NT inside", task_eflags >> 14 & 1, 1);
    check("TR inside", task_tr & 0xffff, SEL_TASK);
    check("link", task.link, SEL_TSS);
    check("busy bit is cleared by IRET", gdt[6] >> 41 & 1, 0);
    check("the first task stays busy", gdt[5] >> 41 & 1, 1);
    check("CR0.TS", READ_CR(0) >> 3 & 1, 1);
    __asm__ volatile("clts; pushf; pop %0" : "=r"(value));
    check("NT is clear again", value >> 14 & 1, 0);
    __asm__ volatile("lcall $0x30, $0" ::: "memory", "cc");
    check("the second CALL goes on behind the IRET", task_runs, 2);
    gdt[8] = gate32(SEL_TASK, 0, 0xe5, 0);
    TRY_USER("lcall $0x43, $0");
    check("through a task gate from CPL 3", trap_vector << 8 | task_runs, 0x80 << 8 | 3);
    idt[0x60] = gate32(SEL_TASK, 0, 0x85, 0);
    __asm__ volatile("int $0x60" ::: "memory", "cc");
    check("INT through a task gate", task_runs, 4);
    TRY_USER("ljmp $0x30, $0");
    check_trap("GP of a TSS of DPL 0", 13, SEL_TASK);
    gdt[6] |= 1ull << 41;
    TRY("lcall $0x30, $0");
    check_trap("GP of a busy TSS", 13, SEL_TASK);
    gdt[6] = segment((u32)&task, 0x66, 0x89, 0);
    TRY("lcall $0x30, $0");
    check_trap("TS of a TSS that is too small", 10, SEL_TASK);
    gdt[6] = segment((u32)&task, sizeof task - 1, 0x09, 0);
    TRY("lcall $0x30, $0");
    check_trap("NP of a TSS", 11, SEL_TASK);
    task_set(task_jump_entry);
    __asm__ volatile("ljmp $0x30, $0" ::: "memory", "cc");
    check("JMP there and back", task_runs, 5);
    check("no NT by JMP", task_eflags >> 14 & 1, 0);
    check("no link by JMP", task.link, 0);
    /* A fault through a task gate. */
    task_set(task_fault_entry);
    idt[13] = gate32(SEL_TASK, 0, 0x85, 0);
    __asm__ volatile("mov $0x7f8, %%ecx; mov %%cx, %%es" ::: "ecx", "memory", "cc");
    check("GP through a task gate: error code", task_error, 0x7f8);
    idt[13] = gate32(SEL_KCODE, (u32)trap_stubs32 + 16 * 13, 0x8e, 0);
    /* A bad segment in the new TSS: #TS in the new task. */
    task_set(task_jump_entry);
    task.fs = 0x7f8;
    TRY("ljmp $0x30, $0");
    check("TS of a bad FS in the new TSS", trap_vector << 16 | trap_error, 10 << 16 | 0x7f8);
    __asm__ volatile("str %0" : "=r"(value));
    check("in the new task", value & 0xffff, SEL_TASK);
    gdt[5] = segment((u32)&tss, sizeof tss - 1, 0x89, 0);
    gdt[6] = segment((u32)&task, sizeof task - 1, 0x89, 0);
    __asm__ volatile("ltr %w0; clts" ::"r"(SEL_TSS));
    /* T bit: #DB after the switch. */
    task_set(task_jump_entry);
    task.trap = 1;
    TRY("ljmp $0x30, $0");
    u32 dr6;
    __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
    check("the T bit", trap_vector << 16 | (dr6 & 0x8000), 1 << 16 | 0x8000);
    check("before the first instruction", trap_eip, (u32)task_jump_entry);
    gdt[5] = segment((u32)&tss, sizeof tss - 1, 0x89, 0);
    gdt[6] = segment((u32)&task, sizeof task - 1, 0x89, 0);
    __asm__ volatile("ltr %w0; clts; mov %1, %%dr6" ::"r"(SEL_TSS), "r"(0));
    __asm__ volatile("mov %w0, %%fs; mov %w0, %%gs" ::"r"(SEL_KDATA));
}
