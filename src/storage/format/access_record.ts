/**
 * An entry of the access table as a value of the meta device's database, and what is an entry at all. Golden bytes:
 * test/unit/storage/format/access_record.test.ts. Table: docs/ONDISK.md.
 *
 * 0 u8 version, 1 u8 kind (1 key, 2 certificate), 2 u8 flags (1 read only, 2 squash root, 4 admin), 3 u8 keys, 4 u64
 * milliseconds since 1970 when it was made, 12 for each key 56 bytes: 8 bytes id, 32 bytes secret, u64 made, u64 not valid
 * from then on (0: without limit); then u16 networks, for each u8 length and ASCII text; then u16 limits, for each u8 number
 * and u64 value, in order of number.
 *
 * A limit of an unknown number, and what stands behind the limits, is of a later release: it comes back as it was when this
 * one writes the entry anew. So an older server of a failover pair takes away nothing that a newer one has set. An unknown
 * kind or flag is damage: a release that adds one adds a feature bit too, because this one would let somebody in.
 *
 * No error names a secret.
 */

import { FsError } from '../../base/errno.js';
import {
  ACCESS_KEYS_MAX,
  ACCESS_NAME,
  ACCESS_NETWORKS_MAX,
  type AccessKey,
  type AccessLimits,
  type AccessRecord,
} from '../api.js';
import { damaged, getU64, putU64 } from './records.js';

const VERSION = 1;
const KINDS = ['key', 'certificate'] as const;
const READ_ONLY = 1;
const SQUASH_ROOT = 2;
const ADMIN = 4;
const HEADER_BYTES = 12;
const KEY_BYTES = 56;
const KEY_ID = /^[0-9a-f]{16}$/;
const SECRET_BYTES = 32;
const NETWORK = /^[0-9A-Fa-f.:]{2,45}\/[0-9]{1,3}$/;
const LIMIT_BYTES = 9;
/** An entry fits a page of the database. */
const ACCESS_BYTES_MAX = 4000;

/** Number of each limit in a record. A number never gets another meaning. */
const LIMITS = { clients: 1, locks: 2, opens: 3, requestsPerSecond: 4, waitingBytes: 5 } as const;
type KnownLimit = keyof typeof LIMITS;
const KNOWN_LIMITS = Object.keys(LIMITS) as KnownLimit[];

interface Limit {
  readonly what: number;
  readonly value: number;
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

/** @returns why there can be no such entry; undefined: there can be. */
function problemOf(record: AccessRecord): string | undefined {
  const { name, kind, keys, from, createdMs } = record;
  if (!ACCESS_NAME.test(name)) return 'has a name that no entry may have';
  if (kind === 'certificate' ? keys.length > 0 : keys.length < 1 || keys.length > ACCESS_KEYS_MAX) {
    return `has ${keys.length} keys`;
  }
  if (new Set(keys.map(({ id }) => id)).size < keys.length) return 'has a key twice';
  if (!keys.every(isKey)) return 'has a key that can be none';
  if (from.length > ACCESS_NETWORKS_MAX) return `has ${from.length} networks`;
  const network = from.find((text) => !NETWORK.test(text));
  if (network !== undefined) return `has the network ${JSON.stringify(network)}`;
  if (!isCount(createdMs)) return 'was made at no time';
  return problemOfLimits(limitsOf(record.limits));
}

function isKey({ id, secret, createdMs, untilMs }: AccessKey): boolean {
  const isUntil = untilMs === undefined || (isCount(untilMs) && untilMs > 0);
  return KEY_ID.test(id) && secret.length === SECRET_BYTES && isCount(createdMs) && isUntil;
}

function problemOfLimits(limits: readonly Limit[]): string | undefined {
  let last = 0;
  for (const { what, value } of limits) {
    if (!isCount(value)) return `has the limit ${value}`;
    if (!Number.isInteger(what) || what <= last || what > 255) return `has a limit of the number ${what}`;
    last = what;
  }
  return undefined;
}

/** In order of number. */
function limitsOf(limits: AccessLimits): Limit[] {
  const found: Limit[] = [...(limits.unknown ?? [])];
  for (const name of KNOWN_LIMITS) {
    const value = limits[name];
    if (value !== undefined) found.push({ what: LIMITS[name], value });
  }
  return found.sort((one, other) => one.what - other.what);
}

/** @throws FsError EINVAL if there can be no such entry. */
export function encodeAccess(record: AccessRecord): Buffer {
  const problem = problemOf(record);
  if (problem !== undefined) throw invalid(record, problem);
  const { keys, from, later = Buffer.alloc(0) } = record;
  const limits = limitsOf(record.limits);
  const networks = from.reduce((sum, text) => sum + 1 + text.length, 0);
  const bytes = HEADER_BYTES + KEY_BYTES * keys.length + 2 + networks + 2 + LIMIT_BYTES * limits.length;
  if (bytes + later.length > ACCESS_BYTES_MAX) throw invalid(record, 'is too large');
  const value = Buffer.alloc(bytes + later.length);
  value[0] = VERSION;
  value[1] = 1 + KINDS.indexOf(record.kind);
  value[2] =
    (record.readOnly ? READ_ONLY : 0) | (record.squashRoot ? SQUASH_ROOT : 0) | (record.admin ? ADMIN : 0);
  value[3] = keys.length;
  putU64(value, record.createdMs, 4);
  let at = HEADER_BYTES;
  for (const { id, secret, createdMs, untilMs } of keys) {
    value.write(id, at, 'hex');
    value.set(secret, at + 8);
    putU64(value, createdMs, at + 40);
    putU64(value, untilMs ?? 0, at + 48);
    at += KEY_BYTES;
  }
  at = value.writeUInt16LE(from.length, at);
  for (const text of from) {
    at = value.writeUInt8(text.length, at);
    at += value.write(text, at, 'latin1');
  }
  at = value.writeUInt16LE(limits.length, at);
  for (const { what, value: limit } of limits) {
    value[at] = what;
    putU64(value, limit, at + 1);
    at += LIMIT_BYTES;
  }
  value.set(later, at);
  return value;
}

function invalid({ name }: AccessRecord, problem: string): FsError {
  return new FsError('EINVAL', `the access entry ${JSON.stringify(name)} ${problem}`);
}

/** @throws FsError EIO if the record is damaged. */
export function decodeAccess(name: string, value: Buffer): AccessRecord {
  const record = readRecord(name, value);
  if (record === undefined || problemOf(record) !== undefined) {
    throw damaged(`access entry ${JSON.stringify(name)}`);
  }
  return record;
}

/** @returns undefined if the value is too short, or of another version, kind or flags. */
function readRecord(name: string, value: Buffer): AccessRecord | undefined {
  const kind = KINDS[(value[1] ?? 0) - 1];
  const flags = value[2] ?? 0;
  if (value.length < HEADER_BYTES || value[0] !== VERSION || kind === undefined) return undefined;
  if ((flags & ~(READ_ONLY | SQUASH_ROOT | ADMIN)) !== 0) return undefined;
  let at = HEADER_BYTES;
  const take = (bytes: number): Buffer | undefined => {
    if (at + bytes > value.length) return undefined;
    at += bytes;
    return value.subarray(at - bytes, at);
  };
  const keys: AccessKey[] = [];
  for (let left = value[3] ?? 0; left > 0; left--) {
    const bytes = take(KEY_BYTES);
    if (bytes === undefined) return undefined;
    keys.push(readKey(bytes));
  }
  const networks = take(2)?.readUInt16LE(0);
  if (networks === undefined) return undefined;
  const from: string[] = [];
  while (from.length < networks) {
    const length = take(1)?.[0];
    const text = length === undefined ? undefined : take(length);
    if (text === undefined) return undefined;
    from.push(text.toString('latin1'));
  }
  const count = take(2)?.readUInt16LE(0);
  if (count === undefined) return undefined;
  const limits: Limit[] = [];
  while (limits.length < count) {
    const bytes = take(LIMIT_BYTES);
    if (bytes === undefined) return undefined;
    limits.push({ what: bytes[0] ?? 0, value: getU64(bytes, 1) });
  }
  if (problemOfLimits(limits) !== undefined) return undefined;
  return {
    name,
    kind,
    keys,
    readOnly: (flags & READ_ONLY) !== 0,
    squashRoot: (flags & SQUASH_ROOT) !== 0,
    admin: (flags & ADMIN) !== 0,
    from,
    createdMs: getU64(value, 4),
    limits: readLimits(limits),
    // The caller uses its memory again.
    ...(at < value.length ? { later: Buffer.from(value.subarray(at)) } : {}),
  };
}

function readKey(bytes: Buffer): AccessKey {
  const untilMs = getU64(bytes, 48);
  return {
    id: bytes.toString('hex', 0, 8),
    secret: Buffer.from(bytes.subarray(8, 8 + SECRET_BYTES)),
    createdMs: getU64(bytes, 40),
    untilMs: untilMs === 0 ? undefined : untilMs,
  };
}

function readLimits(limits: readonly Limit[]): AccessLimits {
  const known: { [name in KnownLimit]?: number } = {};
  const unknown: Limit[] = [];
  for (const limit of limits) {
    const name = KNOWN_LIMITS.find((each) => LIMITS[each] === limit.what);
    if (name === undefined) unknown.push(limit);
    else known[name] = limit.value;
  }
  return unknown.length === 0 ? known : { ...known, unknown };
}
