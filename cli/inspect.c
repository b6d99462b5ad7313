/* SPDX-License-Identifier: MIT */
/* See inspect.h. */
#include "cli/inspect.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static const char *reason_of(int error)
{
    switch (error) {
    case ESRCH:
        return "the virtual machine has gone";
    case ENOENT:
        return "there is no such vCPU";
    case EFAULT:
        return "there is no guest memory at this address";
    case EPROTO:
        return "its process uses another version of vitrine";
    case ETIMEDOUT:
        return "its process does not answer";
    default:
        return strerror(error);
    }
}

int inspect_failed(const char *command, const char *what)
{
    return cli_error(CLI_FAILED, command, "cannot %s: %s", what, reason_of(errno));
}

#define VMS_MAX 256

/* Says what it could have meant, by the rule of vitrine_vm_open: beginnings of names count if nothing has the name or pid in full. */
static void explain_ambiguity(const char *command, const char *which)
{
    static struct vitrine_vm_info vm[VMS_MAX];
    char pid[16];
    int n = vitrine_vm_list(vm, VMS_MAX), exact = 0;
    cli_error(CLI_FAILED, command, "'%s' means more than one virtual machine:", which);
    for (int i = 0; i < n && i < VMS_MAX; i++) {
        snprintf(pid, sizeof pid, "%" PRIu32, vm[i].pid);
        exact += !strcmp(which, pid) || !strcmp(which, vm[i].name);
    }
    for (int i = 0; i < n && i < VMS_MAX; i++) {
        snprintf(pid, sizeof pid, "%" PRIu32, vm[i].pid);
        if (!strcmp(which, pid) || (exact ? !strcmp(which, vm[i].name) : !strncmp(which, vm[i].name, strlen(which))))
            fprintf(stderr, "  %" PRIu32 ".%" PRIu32 "  %s\n", vm[i].pid, vm[i].number, vm[i].name);
    }
    fprintf(stderr, "Each is meant by the number before its name.\n");
}

struct vitrine_vm *inspect_open(const char *command, const char *which)
{
    struct vitrine_vm *vm = vitrine_vm_open(which);
    if (vm)
        return vm;
    switch (errno) {
    case ESRCH:
        cli_error(CLI_FAILED, command, "no virtual machine is called '%s' or has this pid; 'vitrine list' shows those that you may look into", which);
        break;
    case ENOTUNIQ:
        explain_ambiguity(command, which);
        break;
    case EACCES:
        cli_error(CLI_FAILED, command, "'%s' is not found; virtual machines of other users are closed to you", which);
        break;
    default:
        inspect_failed(command, "reach the virtual machine");
    }
    return NULL;
}

bool inspect_number(const char *text, bool has_units, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    unsigned shift = 0;
    if (errno || end == text || strchr(text, '-'))
        return false;
    if (has_units && *end) {
        const char *unit = strchr("KMGT", *end);
        if (!unit)
            return false;
        shift = 10 * (unsigned)(unit - "KMGT" + 1);
        end++;
    }
    if (*end || (shift && value >> (64 - shift)))
        return false;
    *out = value << shift;
    return true;
}

int inspect_bad_option(const char *command, int c, const char *text)
{
    return cli_error(CLI_USAGE, command, c == ':' ? "option '%s' needs a value" : "unknown option '%s'", text);
}

int inspect_vcpu(const char *command, const char *text, uint32_t *out)
{
    uint64_t number;
    if (!inspect_number(text, false, &number) || number > UINT32_MAX)
        return cli_error(CLI_USAGE, command, "'%s' is not the number of a vCPU", text);
    *out = (uint32_t)number;
    return CLI_DONE;
}

int inspect_bytes(const char *text, uint8_t *out, unsigned max)
{
    unsigned n = 0;
    while (*text) {
        char two[3] = { text[0], text[0] ? text[1] : 0, 0 };
        if (isspace((unsigned char)*text)) {
            text++;
            continue;
        }
        if (n == max || !isxdigit((unsigned char)two[0]) || !isxdigit((unsigned char)two[1]))
            return -1;
        out[n++] = (uint8_t)strtoul(two, NULL, 16);
        text += 2;
    }
    return (int)n;
}

const char *inspect_size(uint64_t bytes, char text[32])
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    unsigned i = 0;
    while (i < 4 && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        i++;
    }
    snprintf(text, 32, "%" PRIu64 " %s", bytes, units[i]);
    return text;
}

json_t *inspect_hex(uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "0x%" PRIx64, value);
    return json_string(text);
}

int inspect_print_json(const char *command, json_t *value)
{
    int failed = !value || json_dumpf(value, stdout, JSON_COMPACT | JSON_ENSURE_ASCII) || putchar('\n') == EOF || fflush(stdout);
    json_decref(value);
    return failed ? cli_error(CLI_FAILED, command, "cannot write the output") : CLI_DONE;
}
