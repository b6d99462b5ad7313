/* SPDX-License-Identifier: MIT */
/*
 * `vitrine mem read|write|search|dump|map` and `vitrine translate`. Addresses are guest-physical, or linear of a vCPU with --virtual.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/inspect.h"
#include "lib/source.h"

#define READ_DEFAULT 128u
#define BYTES_MAX (1ull << 32)
#define SEARCH_PIECE (1u << 20)
#define PATTERN_MAX 256u
#define SLOTS_MAX 2048

static const char mem_usage[] = "usage: vitrine mem read [--virtual] [--vcpu N] [--raw|--json] VM ADDRESS [BYTES]\n"
                                "       vitrine mem write [--virtual] [--vcpu N] [--hex BYTES] [--json] VM ADDRESS      (without --hex: standard input)\n"
                                "       vitrine mem search [--hex] [--count N] [--json] VM PATTERN\n"
                                "       vitrine mem dump [--format raw|elf|lime] [--live] [--json] VM FILE      (FILE may be - for standard output)\n"
                                "       vitrine mem map [--json] VM\n\n"
                                "ADDRESS is guest-physical, with --virtual translated by the page tables of vCPU N (0). BYTES takes K, M, G.\n"
                                "search looks for a text, or for bytes in hexadecimal, through all memory; it prints physical addresses.\n"
                                "dump stops the guest meanwhile, unless --live; pages of zeroes become holes of the file. map shows which addresses are\n"
                                "RAM, ROM or nothing, and what readers can map.\n";

struct options {
    bool is_virtual, is_raw, is_json, is_hex, is_live;
    uint32_t vcpu;
    uint64_t count;
    const char *hex, *format;
};

/* ---- bytes ---- */

static void print_bytes(uint64_t address, const uint8_t *bytes, size_t n)
{
    for (size_t at = 0; at < n; at += 16) {
        printf("%016" PRIx64 " ", address + at);
        for (size_t i = at; i < at + 16; i++)
            i < n ? printf(" %02x", bytes[i]) : printf("   ");
        printf("  ");
        for (size_t i = at; i < at + 16 && i < n; i++)
            putchar(isprint(bytes[i]) ? bytes[i] : '.');
        putchar('\n');
    }
}

/* ---- virtual addresses ---- */

static const char *walk_reason(const struct vitrine_translation *t, char text[128])
{
    switch (t->result) {
    case VITRINE_WALK_NOT_CANONICAL:
        snprintf(text, 128, "the address is not canonical");
        break;
    case VITRINE_WALK_NOT_PRESENT:
        snprintf(text, 128, "not present: entry 0x%" PRIx64 " at level %" PRIu32, t->entry, t->level);
        break;
    case VITRINE_WALK_RESERVED:
        snprintf(text, 128, "reserved bits are set: entry 0x%" PRIx64 " at level %" PRIu32, t->entry, t->level);
        break;
    default:
        snprintf(text, 128, "the table of level %" PRIu32 " is not in guest memory", t->level);
    }
    return text;
}

/* Bytes done, fewer where memory or the mapping ends; -1 after a message: nothing was. */
static ssize_t access_memory(struct vitrine_vm *vm, const struct options *o, uint64_t address, uint8_t *bytes, size_t n, bool is_write)
{
    struct vitrine_translation why = { .result = VITRINE_WALK_OK };
    const char *what = is_write ? "write" : "read";
    char reason[128];
    ssize_t done;
    if (o->is_virtual)
        done = is_write ? vitrine_vcpu_mem_write(vm, o->vcpu, address, bytes, n, &why) : vitrine_vcpu_mem_read(vm, o->vcpu, address, bytes, n, &why);
    else
        done = is_write ? vitrine_mem_write(vm, address, bytes, n) : vitrine_mem_read(vm, address, bytes, n);
    if (done < 0 && errno == EFAULT && why.result != VITRINE_WALK_OK)
        cli_error(CLI_FAILED, "mem", "cannot %s: %s", what, walk_reason(&why, reason));
    else if (done < 0)
        inspect_failed("mem", what);
    return done;
}

/* ---- read, write ---- */

static int print_read(const struct options *o, uint64_t address, const uint8_t *bytes, size_t n)
{
    if (o->is_raw)
        return fwrite(bytes, 1, n, stdout) == n && !fflush(stdout) ? CLI_DONE : cli_error(CLI_FAILED, "mem", "cannot write the output: %s", strerror(errno));
    if (!o->is_json) {
        print_bytes(address, bytes, n);
        return CLI_DONE;
    }
    char *hex = malloc(2 * n + 1);
    if (!hex)
        return cli_error(CLI_FAILED, "mem", "not enough memory");
    for (size_t i = 0; i < n; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    hex[2 * n] = '\0';
    json_t *all = json_pack("{s:o, s:s}", "address", inspect_hex(address), "hex", hex);
    free(hex);
    return inspect_print_json("mem", all);
}

static int mem_read(struct vitrine_vm *vm, const struct options *o, char **argv, int argc)
{
    uint64_t address, bytes = READ_DEFAULT;
    if (!inspect_number(argv[1], false, &address))
        return cli_error(CLI_USAGE, "mem", "'%s' is not an address", argv[1]);
    if (argc > 2 && (!inspect_number(argv[2], true, &bytes) || bytes > BYTES_MAX))
        return cli_error(CLI_USAGE, "mem", "'%s' is not a number of bytes up to 4G", argv[2]);
    uint8_t *to = malloc(bytes ? bytes : 1);
    if (!to)
        return cli_error(CLI_FAILED, "mem", "not enough memory");
    ssize_t n = access_memory(vm, o, address, to, bytes, false);
    int status = n < 0 ? CLI_FAILED : print_read(o, address, to, (size_t)n);
    free(to);
    if (!status && (uint64_t)n < bytes)
        status = cli_error(CLI_FAILED, "mem", "memory ends after %zd of %" PRIu64 " bytes", n, bytes);
    return status;
}

static int print_written(const struct options *o, uint64_t address, uint64_t bytes)
{
    if (!o->is_json)
        return CLI_DONE;
    return inspect_print_json("mem", json_pack("{s:o, s:I}", "address", inspect_hex(address), "bytes", (json_int_t)bytes));
}

static int write_input(struct vitrine_vm *vm, const struct options *o, uint64_t address)
{
    uint8_t piece[65536];
    uint64_t at = address;
    for (size_t n; (n = fread(piece, 1, sizeof piece, stdin)) > 0; at += n) {
        ssize_t done = access_memory(vm, o, at, piece, n, true);
        if (done < 0)
            return CLI_FAILED;
        if ((size_t)done < n)
            return cli_error(CLI_FAILED, "mem", "memory ends at 0x%" PRIx64 "; what comes before is written", at + (uint64_t)done);
    }
    return ferror(stdin) ? cli_error(CLI_FAILED, "mem", "cannot read standard input: %s", strerror(errno)) : print_written(o, address, at - address);
}

static int mem_write(struct vitrine_vm *vm, const struct options *o, char **argv, int argc)
{
    uint8_t bytes[4096];
    uint64_t address;
    (void)argc;
    if (!inspect_number(argv[1], false, &address))
        return cli_error(CLI_USAGE, "mem", "'%s' is not an address", argv[1]);
    if (!o->hex)
        return write_input(vm, o, address);
    int n = inspect_bytes(o->hex, bytes, sizeof bytes);
    if (n < 0)
        return cli_error(CLI_USAGE, "mem", "'%s' is not a row of at most %zu bytes in hexadecimal", o->hex, sizeof bytes);
    ssize_t done = access_memory(vm, o, address, bytes, (size_t)n, true);
    if (done >= 0 && done < n)
        return cli_error(CLI_FAILED, "mem", "memory ends after %zd bytes; these are written", done);
    return done < 0 ? CLI_FAILED : print_written(o, address, (uint64_t)n);
}

/* ---- search ---- */

/* A bar on the terminal; *arg is the percentage that it shows. */
static bool show_progress(uint64_t done, uint64_t all, void *arg)
{
    unsigned percent = (unsigned)(100 * done / all), *last = arg;
    if (percent != *last)
        fprintf(stderr, "\r[%-50.*s] %3u %%%s", (int)percent / 2, "##################################################", percent, done == all ? "\n" : "");
    *last = percent;
    return true;
}

struct search {
    const struct options *o;
    uint8_t pattern[PATTERN_MAX];
    unsigned n;
    uint64_t n_found, done_bytes, all_bytes;
    bool has_bar, may_skip; /* memory that nobody touched, for a pattern that is not zeroes */
    unsigned percent;
    struct source *source;
    json_t *found;
};

static bool search_found(struct search *s, uint64_t gpa)
{
    if (s->o->is_json)
        json_array_append_new(s->found, inspect_hex(gpa));
    else
        printf("0x%" PRIx64 "\n", gpa);
    return ++s->n_found < s->o->count;
}

static void search_went_on(struct search *s, uint64_t bytes)
{
    s->done_bytes += bytes;
    if (s->has_bar)
        show_progress(s->done_bytes, s->all_bytes, &s->percent);
}

#define MARGIN 4096u /* more than a pattern */

/* How much to read at once; over a long hole only its beginning, and *skip is how much may be left out behind that. */
static size_t search_piece(const struct search *s, const struct vitrine_slot *slot, uint64_t at, uint64_t *skip)
{
    uint64_t left = slot->bytes - at, hole = s->may_skip ? source_next(s->source, slot->gpa + at, slot->gpa + slot->bytes) - slot->gpa - at : 0;
    *skip = hole > SEARCH_PIECE ? hole - 2 * MARGIN : 0;
    return *skip ? MARGIN : left < SEARCH_PIECE ? (size_t)left : SEARCH_PIECE;
}

/* False: enough was found. The end of a piece is kept, since a match may lie across. */
static bool search_slot(struct search *s, const struct vitrine_slot *slot, uint8_t *buffer)
{
    size_t kept = 0;
    for (uint64_t at = 0, skip; at < slot->bytes;) {
        size_t piece = search_piece(s, slot, at, &skip);
        ssize_t n = source_read(s->source, slot->gpa + at, buffer + kept, piece);
        if (n <= 0)
            return true; /* taken away meanwhile */
        uint64_t base = slot->gpa + at - kept;
        size_t bytes = kept + (size_t)n;
        for (uint8_t *p = buffer; (p = memmem(p, bytes - (size_t)(p - buffer), s->pattern, s->n)); p++)
            if (!search_found(s, base + (uint64_t)(p - buffer)))
                return false;
        kept = skip ? 0 : bytes < s->n - 1 ? bytes : s->n - 1;
        memmove(buffer, buffer + bytes - kept, kept);
        at += (uint64_t)n + skip;
        search_went_on(s, (uint64_t)n + skip);
    }
    return true;
}

static int mem_search(struct vitrine_vm *vm, const struct options *o, char **argv, int argc)
{
    /* What is found appears where the bar is, unless it goes elsewhere. */
    bool has_bar = isatty(STDERR_FILENO) && (o->is_json || !isatty(STDOUT_FILENO));
    struct search s = { .o = o, .found = json_array(), .has_bar = has_bar, .percent = 101 };
    struct vitrine_slot slot[SLOTS_MAX];
    (void)argc;
    int n = o->is_hex ? inspect_bytes(argv[1], s.pattern, PATTERN_MAX) : (int)strlen(argv[1]);
    if (n < 1 || n > (int)PATTERN_MAX)
        return cli_error(CLI_USAGE, "mem", "'%s' is not a pattern of 1 to %u bytes", argv[1], PATTERN_MAX);
    if (!o->is_hex)
        memcpy(s.pattern, argv[1], (size_t)n);
    s.n = (unsigned)n;
    s.may_skip = s.pattern[0] || memcmp(s.pattern, s.pattern + 1, s.n - 1);
    int n_slots = vitrine_vm_slots(vm, slot, SLOTS_MAX);
    uint8_t *buffer = malloc(SEARCH_PIECE + PATTERN_MAX);
    s.source = n_slots < 0 || !buffer ? NULL : source_open(vm);
    if (!s.source) {
        free(buffer);
        json_decref(s.found);
        return inspect_failed("mem", "search");
    }
    for (int i = 0; i < n_slots && i < SLOTS_MAX; i++)
        s.all_bytes += slot[i].id >> 16 ? 0 : slot[i].bytes;
    for (int i = 0; i < n_slots && i < SLOTS_MAX; i++)
        if (!(slot[i].id >> 16) && !search_slot(&s, &slot[i], buffer))
            break;
    source_close(s.source);
    free(buffer);
    if (has_bar && s.done_bytes < s.all_bytes)
        fputc('\n', stderr);
    if (o->is_json)
        return inspect_print_json("mem", s.found);
    json_decref(s.found);
    return s.n_found ? CLI_DONE : cli_error(CLI_FAILED, "mem", "not found");
}

/* ---- dump ---- */

static int mem_dump(struct vitrine_vm *vm, const struct options *o, char **argv, int argc)
{
    static const char *const formats[] = { "raw", "elf", "lime" };
    unsigned format = 0, last = 101;
    (void)argc;
    while (format < 3 && strcmp(formats[format], o->format ? o->format : "elf"))
        format++;
    if (format == 3)
        return cli_error(CLI_USAGE, "mem", "'%s' is not a format: raw, elf, lime", o->format);
    bool is_stdout = !strcmp(argv[1], "-");
    int fd = is_stdout ? STDOUT_FILENO : open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return cli_error(CLI_FAILED, "mem", "cannot write to '%s': %s", argv[1], strerror(errno));
    int r = vitrine_vm_dump(vm, fd, (enum vitrine_dump_format)format, o->is_live, isatty(STDERR_FILENO) ? show_progress : NULL, &last);
    if (!r && !is_stdout && close(fd))
        r = -1;
    if (!r)
        return o->is_json && !is_stdout ? inspect_print_json("mem", json_pack("{s:s, s:s}", "file", argv[1], "format", formats[format])) : CLI_DONE;
    int error = errno;
    struct stat file;
    if (!is_stdout && stat(argv[1], &file) == 0 && S_ISREG(file.st_mode))
        unlink(argv[1]); /* half a dump is none */
    errno = error;
    return error == ENOTSUP ? cli_error(CLI_FAILED, "mem", "a raw dump needs a file; a pipe can take elf or lime") : inspect_failed("mem", "dump");
}

static int mem_map(struct vitrine_vm *vm, const struct options *o, char **argv, int argc)
{
    (void)argv, (void)argc;
    return inspect_memory_map(vm, o->is_json);
}

/* ---- the commands ---- */

static const struct {
    const char *name;
    int least, most; /* arguments, VM included */
    int (*run)(struct vitrine_vm *vm, const struct options *o, char **argv, int argc);
} actions[] = {
    { "read", 2, 3, mem_read }, { "write", 2, 2, mem_write }, { "search", 2, 2, mem_search }, { "dump", 2, 2, mem_dump }, { "map", 1, 1, mem_map }
};
#define N_ACTIONS (sizeof actions / sizeof *actions)

/* -1: go on at optind. `hex` takes a value only where it is what to write. */
static int parse_options(int argc, char **argv, const char *usage, bool hex_has_value, struct options *o)
{
    const struct option options[] = {
        { "virtual", no_argument, NULL, 'V' },      { "vcpu", required_argument, NULL, 'v' },
        { "raw", no_argument, NULL, 'r' },          { "json", no_argument, NULL, 'j' },
        { "live", no_argument, NULL, 'l' },         { "count", required_argument, NULL, 'n' },
        { "format", required_argument, NULL, 'f' }, { "hex", hex_has_value ? required_argument : no_argument, NULL, 'x' },
        { "help", no_argument, NULL, 'h' },         { 0 },
    };
    optind = 1;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        if (c == 'v' && inspect_vcpu(argv[0], optarg, &o->vcpu))
            return CLI_USAGE;
        if (c == 'n' && !inspect_number(optarg, false, &o->count))
            return cli_error(CLI_USAGE, argv[0], "'%s' is not a number", optarg);
        switch (c) {
        case 'V':
            o->is_virtual = true;
            break;
        case 'r':
            o->is_raw = true;
            break;
        case 'j':
            o->is_json = true;
            break;
        case 'l':
            o->is_live = true;
            break;
        case 'f':
            o->format = optarg;
            break;
        case 'x':
            o->is_hex = true;
            o->hex = optarg;
            break;
        case 'v':
        case 'n':
            break;
        case 'h':
            fputs(usage, stdout);
            return CLI_DONE;
        default:
            return inspect_bad_option(argv[0], c, argv[optind - 1]);
        }
    }
    return -1;
}

int mem_main(int argc, char **argv)
{
    struct options o = { .count = ~0ull };
    unsigned i = 0;
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        fputs(mem_usage, argc < 2 ? stderr : stdout);
        return argc < 2 ? CLI_USAGE : CLI_DONE;
    }
    while (i < N_ACTIONS && strcmp(actions[i].name, argv[1]))
        i++;
    if (i == N_ACTIONS)
        return cli_error(CLI_USAGE, "mem", "'%s' is not one of read, write, search, dump, map", argv[1]);
    argv[1] = argv[0];
    int status = parse_options(argc - 1, argv + 1, mem_usage, actions[i].run == mem_write, &o);
    if (status >= 0)
        return status;
    int n = argc - 1 - optind;
    char **rest = argv + 1 + optind;
    if (n < actions[i].least || n > actions[i].most)
        return cli_error(CLI_USAGE, "mem", n < actions[i].least ? "%s needs more arguments" : "%s has too many arguments", actions[i].name);
    struct vitrine_vm *vm = inspect_open("mem", rest[0]);
    if (!vm)
        return CLI_FAILED;
    status = actions[i].run(vm, &o, rest, n);
    vitrine_vm_close(vm);
    return status;
}

static int print_translation(const struct options *o, const struct vitrine_translation *t)
{
    char reason[128], size[32];
    bool is_ok = t->result == VITRINE_WALK_OK;
    if (o->is_json) {
        json_t *all = json_pack("{s:o, s:b, s:I, s:o}", "virtual", inspect_hex(t->gva), "mapped", (int)is_ok, "level", (json_int_t)t->level, "entry",
                                inspect_hex(t->entry));
        if (is_ok)
            json_object_update_new(all, json_pack("{s:o, s:I, s:b, s:b, s:b}", "physical", inspect_hex(t->gpa), "page_bytes", (json_int_t)t->page_bytes,
                                                  "writeable", (int)t->is_writeable, "user", (int)t->is_user, "executable", (int)t->is_executable));
        else
            json_object_set_new(all, "reason", json_string(walk_reason(t, reason)));
        return inspect_print_json("translate", all) || !is_ok;
    }
    if (!is_ok)
        return cli_error(CLI_FAILED, "translate", "0x%" PRIx64 " is not mapped: %s", t->gva, walk_reason(t, reason));
    printf("0x%" PRIx64 " -> 0x%" PRIx64 "  page of %s  %s%s%s  entry 0x%" PRIx64 " at level %" PRIu32 "\n", t->gva, t->gpa, inspect_size(t->page_bytes, size),
           t->is_user ? "user " : "kernel ", t->is_writeable ? "rw" : "r-", t->is_executable ? "x" : "-", t->entry, t->level);
    return CLI_DONE;
}

int translate_main(int argc, char **argv)
{
    static const char usage[] = "usage: vitrine translate [--vcpu N] [--json] VM ADDRESS\n\nWalks the page tables of vCPU N (0) for a linear address, and says "
                                "why if it is not mapped.\n";
    struct options o = { .count = 0 };
    struct vitrine_translation t;
    uint64_t address;
    int status = parse_options(argc, argv, usage, false, &o);
    if (status >= 0)
        return status;
    if (argc - optind != 2)
        return cli_error(CLI_USAGE, "translate", "it takes a virtual machine and an address");
    if (!inspect_number(argv[optind + 1], false, &address))
        return cli_error(CLI_USAGE, "translate", "'%s' is not an address", argv[optind + 1]);
    struct vitrine_vm *vm = inspect_open("translate", argv[optind]);
    if (!vm)
        return CLI_FAILED;
    status = vitrine_vcpu_translate(vm, o.vcpu, address, &t) ? inspect_failed("translate", "translate") : print_translation(&o, &t);
    vitrine_vm_close(vm);
    return status;
}
