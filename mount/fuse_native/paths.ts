/**
 * Turns fuse-native's paths into the nodeids of the handlers.
 *
 * Every path is walked anew, name by name, through handlers.lookup(): another client may have renamed any part of it,
 * and the filesystem answers from its own caches if its locks allow. Only references are kept: a nodeid that was looked
 * up is valid until it is forgotten. So forget() is called for the least recently used ones.
 *
 * Invariants: nlookup here is the number of references that lookups and creates have given and forget() has not
 * returned. A nodeid with pins (an operation under way, an open file) is not forgotten.
 */

import { FsError } from '../../src/base/errno.js';
import { NAME_MAX } from '../../src/base/ids.js';
import { FUSE_ROOT_ID } from '../../src/fuse/constants.js';
import type { EntryOut, FuseHandlers, RequestContext } from '../../src/fuse/handlers.js';

interface Reference {
  nlookup: number;
  pins: number;
}

/** Bytes that are not UTF-8 become this character in a JavaScript string. */
const REPLACEMENT = '\ufffd';

export class NodeReferences {
  readonly #handlers: FuseHandlers;
  readonly #limit: number;
  /** In the order of last lookup. */
  readonly #byNodeid = new Map<number, Reference>();

  constructor(handlers: FuseHandlers, limit: number) {
    this.#handlers = handlers;
    this.#limit = limit;
  }

  get count(): number {
    return this.#byNodeid.size;
  }

  /** Counts one lookup of an entry, and keeps the node from being forgotten until unpin(). */
  addPinned(entry: EntryOut): number {
    const nodeid = entry.attr.fid;
    const reference = this.#byNodeid.get(nodeid) ?? { nlookup: 0, pins: 0 };
    reference.nlookup++;
    reference.pins++;
    this.#byNodeid.delete(nodeid);
    this.#byNodeid.set(nodeid, reference);
    return nodeid;
  }

  pin(nodeid: number): void {
    const reference = this.#byNodeid.get(nodeid);
    if (reference !== undefined) reference.pins++;
  }

  unpin(nodeid: number): void {
    const reference = this.#byNodeid.get(nodeid);
    if (reference === undefined) return; // the root, which is never forgotten
    reference.pins--;
    if (this.#byNodeid.size > this.#limit) this.#shrink();
  }

  #shrink(): void {
    for (const [nodeid, { pins, nlookup }] of this.#byNodeid) {
      if (this.#byNodeid.size <= this.#limit) return;
      if (pins > 0) continue;
      this.#byNodeid.delete(nodeid);
      this.#handlers.forget(nodeid, nlookup);
    }
  }

  forgetAll(): void {
    for (const [nodeid, { nlookup }] of this.#byNodeid) this.#handlers.forget(nodeid, nlookup);
    this.#byNodeid.clear();
  }
}

/**
 * The names of a path, as bytes in latin1.
 * @throws FsError EINVAL for a name that was not UTF-8, because its bytes are lost; ENAMETOOLONG.
 */
export function pathNames(path: string): string[] {
  if (path.includes(REPLACEMENT)) throw new FsError('EINVAL', 'fuse-native passes only names that are UTF-8');
  const names: string[] = [];
  for (const part of path.split('/')) {
    if (part === '') continue;
    const name = Buffer.from(part, 'utf8').toString('latin1');
    if (name.length > NAME_MAX) throw new FsError('ENAMETOOLONG', `name of ${name.length} bytes`);
    names.push(name);
  }
  return names;
}

/** Turns bytes in latin1 into the text that fuse-native turns back into the same bytes, if they are UTF-8. */
export function textOfName(name: string): string {
  return Buffer.from(name, 'latin1').toString('utf8');
}

/**
 * Walks to a node and pins it; the caller unpins it.
 * @throws FsError ENOENT, and any error of lookup().
 */
export async function walk(
  handlers: FuseHandlers,
  references: NodeReferences,
  request: RequestContext,
  names: readonly string[],
): Promise<number> {
  let nodeid = FUSE_ROOT_ID;
  for (const name of names) {
    let entry: Awaited<ReturnType<FuseHandlers['lookup']>>;
    try {
      entry = await handlers.lookup(request, nodeid, name);
    } finally {
      references.unpin(nodeid);
    }
    if (entry.attr === null) throw new FsError('ENOENT');
    nodeid = references.addPinned(entry);
  }
  return nodeid;
}
