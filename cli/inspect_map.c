/* SPDX-License-Identifier: MIT */
/*
 * `vitrine mem map`: the guest-physical address space from its beginning to the end of memory, with what lies between; see vitrine_vm_slots.
 */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/inspect.h"

#define SLOTS_MAX 2048

static const struct {
    const char *word, *sentence;
} shares[] = {
    [VITRINE_SHARE_YES] = { "yes", "" },
    [VITRINE_SHARE_PRIVATE] = { "private", "not shareable: private memory" },
    [VITRINE_SHARE_NO_FILE] = { "no file", "not shareable: its file is not open any more" },
    [VITRINE_SHARE_UNMAPPED] = { "unmapped", "not shareable: unmapped" },
    [VITRINE_SHARE_BEHIND] = { "behind", "not shareable: behind the end of its file" },
    [VITRINE_SHARE_UNKNOWN] = { "unknown", "not shareable: its process cannot look into /proc" },
};

static unsigned share_of(const struct vitrine_slot *s)
{
    return s->share <= VITRINE_SHARE_UNKNOWN ? s->share : VITRINE_SHARE_UNKNOWN;
}

const char *inspect_share_word(const struct vitrine_slot *s)
{
    return shares[share_of(s)].word;
}

const char *inspect_share_sentence(const struct vitrine_slot *s)
{
    return shares[share_of(s)].sentence;
}

/* One piece of the address space; s is NULL for a hole. */
static void show_piece(json_t *all, uint64_t first, uint64_t bytes, const struct vitrine_slot *s)
{
    const char *kind = !s ? "hole" : s->flags & VITRINE_SLOT_READONLY ? "rom" : "ram";
    char size[32];
    if (!all) {
        printf("%016" PRIx64 "-%016" PRIx64 " %12s  %s%s", first, first + (bytes - 1), inspect_size(bytes, size), kind, s && s->id >> 16 ? " of SMM" : "");
        if (s)
            printf("  slot %" PRIu32 "%s%s%s", s->id & 0xffff, s->flags & VITRINE_SLOT_LOG_DIRTY ? ", logs writes" : "", share_of(s) ? "; " : "",
                   inspect_share_sentence(s));
        putchar('\n');
        return;
    }
    json_t *piece =
        json_pack("{s:o, s:o, s:I, s:s}", "first", inspect_hex(first), "last", inspect_hex(first + (bytes - 1)), "bytes", (json_int_t)bytes, "kind", kind);
    if (s)
        json_object_update_new(piece,
                               json_pack("{s:I, s:b, s:s}", "slot", (json_int_t)(s->id & 0xffff), "smm", (int)(s->id >> 16), "share", inspect_share_word(s)));
    json_array_append_new(all, piece);
}

/* Those of system management mode come last: they lie beside the others. */
int inspect_memory_map(struct vitrine_vm *vm, bool is_json)
{
    static struct vitrine_slot slot[SLOTS_MAX];
    json_t *all = is_json ? json_array() : NULL;
    uint64_t at = 0;
    int n = vitrine_vm_slots(vm, slot, SLOTS_MAX);
    if (n < 0) {
        json_decref(all);
        return inspect_failed("mem", "look at the memory");
    }
    for (int i = 0; i < n && i < SLOTS_MAX; i++) {
        if (slot[i].id >> 16)
            continue;
        if (slot[i].gpa > at)
            show_piece(all, at, slot[i].gpa - at, NULL);
        show_piece(all, slot[i].gpa, slot[i].bytes, &slot[i]);
        at = slot[i].gpa + slot[i].bytes;
    }
    for (int i = 0; i < n && i < SLOTS_MAX; i++)
        if (slot[i].id >> 16)
            show_piece(all, slot[i].gpa, slot[i].bytes, &slot[i]);
    return is_json ? inspect_print_json("mem", all) : CLI_DONE;
}
