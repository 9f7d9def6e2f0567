/**
 * FUSE operations in terms of the client, and the kernel's caches, which the client must be able to empty.
 *
 * No policy of the filesystem lives here: a FID is the nodeid, an fh is the client's, locks and caches are the client's.
 * What vfs can answer at once it answers without a promise, all the way: a promise turn costs a third of a request.
 *
 * Order of start: createVfs, the client (with kernelCache), attach(client), the mount (with handlers), bind(notifier).
 * Requests come after attach. Invalidations before bind have nothing to do, because nothing was handed out by then.
 */

import type { Fid } from '../base/ids.js';
import type { FsClient, KernelCache } from '../client/api.js';
import type { FuseHandlers, KernelNotifier, RequestContext } from '../fuse/handlers.js';
import type { KernelStateMessage } from '../wire/mount_state.js';
import { VfsContext } from './context.js';
import { directoryOperations } from './directory_operations.js';
import { fileOperations } from './file_operations.js';
import { lockOperations } from './lock_operations.js';
import { namespaceOperations } from './namespace_operations.js';
import { openPolicy } from './open_flags.js';

export interface Vfs {
  readonly handlers: FuseHandlers;
  readonly kernelCache: KernelCache;
  attach(client: FsClient): void;
  bind(notifier: KernelNotifier): void;
  /** What the kernel holds, for a process that takes the mount over. */
  state(): VfsState;
  /** To be called before attach(). @throws FsError EPROTO */
  takeOver(state: VfsState): void;
}

type VfsState = Pick<KernelStateMessage, 'nodes' | 'lockOwners'>;

export interface VfsOptions {
  /** The mount is gone: unmounted, or its connection aborted. */
  readonly onDestroy?: (() => void) | undefined;
  /** Whether a caller has CAP_FSETID, where no flag of the request says it. Default: root has. */
  readonly keepsSetId?: ((caller: RequestContext) => boolean) | undefined;
  /** -o sync: each write returns when it is durable. */
  readonly syncWrites?: boolean | undefined;
}

export function createVfs(options: VfsOptions = {}): Vfs {
  const context = new VfsContext(options.keepsSetId ?? (({ uid }) => uid === 0), options.syncWrites ?? false);
  const handlers: FuseHandlers = {
    ...namespaceOperations(context),
    ...fileOperations(context),
    ...directoryOperations(context),
    ...lockOperations(context),
    awayMs: (nodeid) => context.client.awayMs(nodeid as Fid),
    init({ minor, flags }) {
      context.kernel.negotiated(minor);
      context.openPolicy = openPolicy(flags);
    },
    destroy() {
      context.kernel.unbind();
      options.onDestroy?.();
    },
  };
  return {
    handlers,
    kernelCache: context.kernel,
    attach: (client) => context.attach(client),
    bind: (notifier) => context.kernel.bind(notifier),
    state: () => ({ nodes: context.nodes.state(), lockOwners: context.lockOwners.all() }),
    takeOver: ({ nodes, lockOwners }) => {
      context.kernel.suspect(context.nodes.takeOver(nodes));
      for (const { fh, owners } of lockOwners) for (const owner of owners) context.lockOwners.took(fh, owner);
    },
  };
}
