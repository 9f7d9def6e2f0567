/**
 * Keys of the meta device's database: one type byte, then big-endian fields, so that range scans run in number order
 * and all records of a kind lie together (a batch of creates touches few leaf pages). Table: docs/ONDISK.md.
 */

import type { ClientUuid, Fid, Name } from '../../base/ids.js';

/** Type bytes. A byte never gets another meaning. */
export const KEY = {
  superblock: 0x01,
  counters: 0x02,
  redoLog: 0x03,
  ticketSecret: 0x04,
  inode: 0x10,
  direntByName: 0x11,
  direntByCookie: 0x12,
  xattr: 0x13,
  symlink: 0x14,
  inlineData: 0x15,
  blockMap: 0x16,
  spaceGroup: 0x17,
  orphan: 0x18,
  client: 0x19,
  doomed: 0x1a,
  reply: 0x1b,
  eviction: 0x1c,
  access: 0x1d,
} as const;
export type KeyType = (typeof KEY)[keyof typeof KEY];

const SPAN_32 = 2 ** 32;

function writeU64(target: Buffer, value: number, at: number): void {
  target.writeUInt32BE(Math.floor(value / SPAN_32), at);
  target.writeUInt32BE(value % SPAN_32, at + 4);
}

export function readU64(source: Uint8Array, at: number): number {
  const view = source as Buffer;
  return view.readUInt32BE(at) * SPAN_32 + view.readUInt32BE(at + 4);
}

/** Every transaction writes such records: their number says nothing about how much it changes. */
export function isOfEveryTransaction(key: Uint8Array): boolean {
  return key[0] === KEY.counters || key[0] === KEY.redoLog;
}

/** A key that is only the type byte. */
export function bareKey(type: KeyType): Buffer {
  const key = Buffer.allocUnsafe(1);
  key[0] = type;
  return key;
}

/** Type and one FID: inode, symlink, inline data, orphan, doomed; and the prefix of the kinds below. */
export function fidKey(type: KeyType, fid: Fid): Buffer {
  const key = Buffer.allocUnsafe(9);
  key[0] = type;
  writeU64(key, fid, 1);
  return key;
}

/** Type, FID and a number: dirent by cookie, block map. */
export function fidNumberKey(type: KeyType, fid: Fid, number: number): Buffer {
  const key = Buffer.allocUnsafe(17);
  key[0] = type;
  writeU64(key, fid, 1);
  writeU64(key, number, 9);
  return key;
}

/** Type, FID and a latin1 name: dirent by name, xattr. */
export function fidNameKey(type: KeyType, fid: Fid, name: Name | string): Buffer {
  const key = Buffer.allocUnsafe(9 + name.length);
  key[0] = type;
  writeU64(key, fid, 1);
  key.write(name, 9, 'latin1');
  return key;
}

export function spaceGroupKey(group: number): Buffer {
  const key = Buffer.allocUnsafe(5);
  key[0] = KEY.spaceGroup;
  key.writeUInt32BE(group, 1);
  return key;
}

export function clientKey(uuid: ClientUuid): Buffer {
  return uuidKey(KEY.client, uuid);
}

/** Type and a client's UUID: the prefix of its replies. */
export function uuidKey(type: KeyType, uuid: ClientUuid): Buffer {
  return Buffer.concat([bareKey(type), Buffer.from(uuid.replaceAll('-', ''), 'hex')]);
}

const REPLY_KEY_BYTES = 19;

/** @param prefix uuidKey(KEY.reply, uuid). */
export function replyKey(prefix: Buffer, slot: number): Buffer {
  const key = Buffer.allocUnsafe(REPLY_KEY_BYTES);
  key.set(prefix, 0);
  key.writeUInt16BE(slot, REPLY_KEY_BYTES - 2);
  return key;
}

export function slotOf(key: Buffer): number {
  return key.readUInt16BE(REPLY_KEY_BYTES - 2);
}

/** @param slot 0 to EVICTIONS_KEPT - 1. */
export function evictionKey(slot: number): Buffer {
  return Buffer.from([KEY.eviction, slot]);
}

/** @param name matches ACCESS_NAME. */
export function accessKey(name: string): Buffer {
  return Buffer.concat([bareKey(KEY.access), Buffer.from(name, 'latin1')]);
}

export function accessNameOf(key: Buffer): string {
  return key.toString('latin1', 1, key.length);
}

/** The least key above all keys that begin with `prefix` (whose last byte is below 0xff or which is a FID's). */
export function afterPrefix(prefix: Buffer): Buffer {
  const end = Buffer.from(prefix);
  for (let at = end.length - 1; at >= 0; at--) {
    const byte = end[at] ?? 0;
    if (byte < 0xff) {
      end[at] = byte + 1;
      return end.subarray(0, at + 1);
    }
  }
  return end;
}
