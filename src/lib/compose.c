/* SPDX-License-Identifier: MIT */
/*
 * The composition root: the one place that knows which engine and which chips there are. Runs when the library or program is loaded, before any VM.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "chip/pc.h"
#include "core/parts.h"
#include "engine/soft/soft.h"
#include "vitrine/vitrine.h"

__attribute__((constructor)) static void compose(void)
{
    const char *engine = getenv("VITRINE_ENGINE");
    log_init_from_env();
    vm_parts_set(&soft_engine_ops, &pc_chip_ops);
    if (engine && vitrine_set_engine(engine))
        log_write(LOG_ERROR, "VITRINE_ENGINE: there is no engine '%s'", engine);
}

int vitrine_set_engine(const char *engine)
{
    bool is_stepping = strcmp(engine, "soft,step") == 0;
    if (!is_stepping && strcmp(engine, "soft") != 0) {
        errno = EINVAL;
        return -1;
    }
    soft_set_stepping(is_stepping);
    return 0;
}

void vitrine_set_name(const char *name)
{
    log_set_machine_name(name);
}

const char *vitrine_version(void)
{
    return VITRINE_VERSION;
}
