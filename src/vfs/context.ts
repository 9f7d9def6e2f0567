/** What the operations share. */

import { assert } from '../base/assert.js';
import { FsError } from '../base/errno.js';
import { NAME_MAX, type Name } from '../base/ids.js';
import type { FsClient } from '../client/api.js';
import type { RequestContext } from '../fuse/handlers.js';
import { LockOwners } from './handles.js';
import { Invalidation } from './invalidation.js';
import { NodeTable } from './nodes.js';
import { OLDEST_KERNEL, type OpenPolicy } from './open_flags.js';

export class VfsContext {
  readonly nodes = new NodeTable();
  readonly kernel = new Invalidation(this.nodes);
  readonly lockOwners = new LockOwners();
  openPolicy: OpenPolicy = OLDEST_KERNEL;
  readonly keepsSetId: (caller: RequestContext) => boolean;
  /** Each write returns when it is durable. */
  readonly syncWrites: boolean;
  #client: FsClient | undefined;

  constructor(keepsSetId: (caller: RequestContext) => boolean, syncWrites: boolean) {
    this.keepsSetId = keepsSetId;
    this.syncWrites = syncWrites;
  }

  attach(client: FsClient): void {
    assert(this.#client === undefined, 'a client is attached once');
    this.#client = client;
  }

  get client(): FsClient {
    assert(this.#client !== undefined, 'a request came before the client was attached');
    return this.#client;
  }
}

/** The kernel passes on names up to PATH_MAX. @throws FsError ENAMETOOLONG */
export function checkName(name: string): Name {
  if (name.length > NAME_MAX) throw new FsError('ENAMETOOLONG');
  return name as Name;
}
