/** Writes a sealed layer of changes as records: one put or remove for each key that changed. */

import type { ClientUuid, Fid, Name } from '../../base/ids.js';
import type { AccessRecord, ClientRecord, Dirent, Inode, NumberedEviction, ReplyRecord } from '../api.js';
import { encodeAccess } from '../format/access_record.js';
import { type BlockMap, encodeBlockMap } from '../format/block_map.js';
import {
  accessKey,
  bareKey,
  clientKey,
  evictionKey,
  fidKey,
  fidNameKey,
  fidNumberKey,
  KEY,
  replyKey,
  spaceGroupKey,
  uuidKey,
} from '../format/keys.js';
import {
  COUNTERS_BYTES,
  type Counters,
  DIRENT_BY_COOKIE_HEADER,
  DIRENT_BY_NAME_BYTES,
  encodeBytes,
  encodeClient,
  encodeCounters,
  encodeDirentByCookie,
  encodeDirentByName,
  encodeEviction,
  encodeInline,
  encodeInode,
  encodeReply,
  encodeTicketSecret,
  INLINE_HEADER,
  inodeBytes,
  MARK_RECORD,
  REPLY_BYTES,
} from '../format/records.js';
import type { Writer } from '../meta_medium.js';
import type { FidTable, GroupTable, Table } from './tables.js';

export interface BatchTables {
  readonly inodes: Table<Fid, Inode>;
  readonly names: FidTable<Name, Dirent>;
  readonly cookies: FidTable<number, Dirent>;
  readonly xattrs: FidTable<string, Buffer>;
  readonly symlinks: Table<Fid, Buffer>;
  readonly inline: Table<Fid, Buffer>;
  readonly blockMaps: FidTable<number, BlockMap>;
  readonly orphans: Table<Fid, true>;
  readonly doomed: Table<Fid, true>;
  readonly clients: Table<ClientUuid, ClientRecord>;
  readonly replies: GroupTable<ClientUuid, number, ReplyRecord>;
  readonly evictions: Table<number, NumberedEviction>;
  readonly access: Table<string, AccessRecord>;
  readonly ticketSecret: Table<'secret', Buffer>;
}

/**
 * Memory for the values of batches. The database refers to them until they are in the tree, so the arena uses no memory
 * twice. Batches share a slab: one of its own for each would keep V8's garbage collector at work.
 */
export class Arena {
  #slab = Buffer.alloc(0);
  #at = 0;
  take(bytes: number): Buffer {
    if (this.#at + bytes > this.#slab.length) {
      this.#slab = Buffer.allocUnsafeSlow(Math.max(1 << 16, bytes));
      this.#at = 0;
    }
    const start = this.#at;
    this.#at = start + bytes;
    return this.#slab.subarray(start, start + bytes);
  }
  filled(bytes: number, fill: (target: Buffer) => void): Buffer {
    const target = this.take(bytes);
    fill(target);
    return target;
  }
}

export function writeBatch(
  writer: Writer,
  tables: BatchTables,
  groups: readonly { readonly group: number; readonly record: Buffer | undefined }[],
  counters: Counters,
  crc: (bytes: Uint8Array) => number,
  arena: Arena,
): void {
  const set = (key: Buffer, value: Buffer | undefined): void => {
    if (value === undefined) writer.remove(key);
    else writer.put(key, value);
  };
  const encoded = (value: Buffer | null): Buffer | undefined =>
    value === null ? undefined : arena.filled(1 + value.length, (target) => encodeBytes(value, target));

  set(
    bareKey(KEY.counters),
    arena.filled(COUNTERS_BYTES, (target) => encodeCounters(counters, target)),
  );
  for (const [fid, inode] of tables.inodes.sealed) {
    const value =
      inode === null ? undefined : arena.filled(inodeBytes(inode), (target) => encodeInode(inode, target));
    set(fidKey(KEY.inode, fid), value);
  }
  for (const [parent, entries] of tables.names.sealed) {
    for (const [name, dirent] of entries) {
      const value =
        dirent === null
          ? undefined
          : arena.filled(DIRENT_BY_NAME_BYTES, (target) => encodeDirentByName(dirent, target));
      set(fidNameKey(KEY.direntByName, parent as Fid, name), value);
    }
  }
  for (const [parent, entries] of tables.cookies.sealed) {
    for (const [cookie, dirent] of entries) {
      const value =
        dirent === null
          ? undefined
          : arena.filled(DIRENT_BY_COOKIE_HEADER + dirent.name.length, (target) =>
              encodeDirentByCookie(dirent, target),
            );
      set(fidNumberKey(KEY.direntByCookie, parent as Fid, cookie), value);
    }
  }
  for (const [fid, xattrs] of tables.xattrs.sealed) {
    for (const [name, value] of xattrs) set(fidNameKey(KEY.xattr, fid as Fid, name), encoded(value));
  }
  for (const [fid, target] of tables.symlinks.sealed) set(fidKey(KEY.symlink, fid), encoded(target));
  for (const [fid, bytes] of tables.inline.sealed) {
    const value =
      bytes === null
        ? undefined
        : arena.filled(INLINE_HEADER + bytes.length, (target) => encodeInline(bytes, crc(bytes), target));
    set(fidKey(KEY.inlineData, fid), value);
  }
  for (const [fid, blockMaps] of tables.blockMaps.sealed) {
    for (const [index, blockMap] of blockMaps) {
      set(
        fidNumberKey(KEY.blockMap, fid as Fid, index),
        blockMap === null ? undefined : encodeBlockMap(blockMap),
      );
    }
  }
  for (const [fid, there] of tables.orphans.sealed) {
    set(fidKey(KEY.orphan, fid), there === null ? undefined : MARK_RECORD);
  }
  for (const [fid, there] of tables.doomed.sealed) {
    set(fidKey(KEY.doomed, fid), there === null ? undefined : MARK_RECORD);
  }
  for (const [uuid, record] of tables.clients.sealed) {
    set(clientKey(uuid), record === null ? undefined : encodeClient(record));
  }
  for (const [uuid, slots] of tables.replies.sealed) {
    const prefix = uuidKey(KEY.reply, uuid);
    for (const [slot, reply] of slots) {
      const value =
        reply === null ? undefined : arena.filled(REPLY_BYTES, (target) => encodeReply(reply, target));
      set(replyKey(prefix, slot), value);
    }
  }
  for (const [slot, record] of tables.evictions.sealed) {
    set(evictionKey(slot), record === null ? undefined : encodeEviction(record));
  }
  for (const [name, record] of tables.access.sealed) {
    set(accessKey(name), record === null ? undefined : encodeAccess(record));
  }
  for (const secret of tables.ticketSecret.sealed.values()) {
    set(bareKey(KEY.ticketSecret), secret === null ? undefined : encodeTicketSecret(secret));
  }
  for (const { group, record } of groups) set(spaceGroupKey(group), record);
}
