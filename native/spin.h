// Keeps the event loop awake for a moment after a lone request: if the next one comes at once, it need not wait until the kernel
// has woken a halted processor (30 to 40 us, and more in a virtual machine).
#pragma once

#include <node_api.h>

namespace holdfast {

// Each event loop has one. To be called when an event brought one small thing and nothing else: a lone FUSE request, or one small
// message.
void SpinAfterLoneEvent(napi_env env);

}  // namespace holdfast
