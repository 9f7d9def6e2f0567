/** Messages: round trips, growth, golden bytes, and what a hostile peer may send as a body. */

import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { Packr } from 'msgpackr';
import { FsError } from '../../../src/base/errno.js';
import type { ClientUuid, Fh, Fid, LockHandle, Name } from '../../../src/base/ids.js';
import { LOCK_OFFSET_MAX } from '../../../src/base/lock_offset.js';
import { Status } from '../../../src/wire/admin.js';
import { Read, Write } from '../../../src/wire/data.js';
import { Bast, Enqueue } from '../../../src/wire/lock.js';
import { Create, Lookup, Readlink, Setxattr } from '../../../src/wire/meta.js';
import { ErrorReply } from '../../../src/wire/operation.js';
import { FAMILIES, OPERATIONS, operationName } from '../../../src/wire/operations.js';
import {
  bool,
  decode,
  encode,
  int,
  list,
  lockOffset,
  type Message,
  message,
  opt,
  req,
  text,
  uint,
} from '../../../src/wire/schema.js';
import { Connect } from '../../../src/wire/session.js';

const messages: Message<unknown>[] = [
  ErrorReply,
  ...[...OPERATIONS.values()].flatMap((operation) => [operation.request, operation.reply]),
];

/** EPROTO, or the value. Anything else that is thrown is a bug and passes through. */
function outcome(type: Message<unknown>, body: Uint8Array): { value: unknown } | 'EPROTO' {
  try {
    return { value: decode(type, body) };
  } catch (error) {
    if (error instanceof FsError && error.code === 'EPROTO') return 'EPROTO';
    throw error;
  }
}

/** Any legal value of a message, by what its fields say of themselves. */
function valuesOf(type: Message<unknown>): fc.Arbitrary<unknown> {
  const required: Record<string, fc.Arbitrary<unknown>> = {};
  const keys: string[] = [];
  for (const field of type.fields) {
    required[field.name] = valuesOfLabel(field.label, field.inner);
    if (!field.optional) keys.push(field.name);
  }
  return fc.record(required, { requiredKeys: keys });
}

const uints = fc.oneof(fc.maxSafeNat(), fc.nat(300), fc.constant(Number.MAX_SAFE_INTEGER));
const nameText = fc
  .uint8Array({ minLength: 1, maxLength: 40 })
  .map((bytes) => Buffer.from(bytes).toString('latin1'))
  .filter((value) => !/[\0/]/.test(value) && value !== '.' && value !== '..');

function valuesOfLabel(label: string, inner: Message<unknown> | undefined): fc.Arbitrary<unknown> {
  if (label.startsWith('list of ')) {
    return fc.array(valuesOfLabel(label.slice('list of '.length), inner), { maxLength: 5 });
  }
  if (inner !== undefined) return valuesOf(inner);
  const limit = Number(label.split('<=')[1]);
  if (label.startsWith('text<='))
    return fc.string({ maxLength: Math.min(limit, 60), unit: 'grapheme' }).filter((s) => s.length <= limit);
  if (label.startsWith('bytes<='))
    return fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes));
  if (label.includes('|')) return fc.constantFrom(...label.split('|'));
  switch (label) {
    case 'u8':
      return fc.nat(0xff);
    case 'u16':
      return fc.nat(0xffff);
    case 'u32':
      return fc.oneof(fc.nat(0xffff_ffff), fc.constant(0xffff_ffff));
    case 'bool':
      return fc.boolean();
    case 'true':
      return fc.constant(true);
    case 'name':
      return nameText;
    case 'lockOffset':
      return fc.oneof(uints, fc.bigInt({ min: 2n ** 53n, max: LOCK_OFFSET_MAX }));
    case 'fid':
      return uints.map((value) => value || 1);
    case 'timespec':
      return fc.record({ sec: fc.maxSafeInteger(), nsec: fc.nat(999_999_999) });
    default:
      // Every other integer has a brand.
      assert.match(label, /^(uint|[a-z][a-zA-Z]*)$/);
      return uints;
  }
}

test('every message survives its way over the wire', () => {
  for (const type of messages) {
    fc.assert(
      fc.property(valuesOf(type), (value) => {
        const body = encode(type, value);
        // fast-check makes records without a prototype.
        assert.deepEqual(plain(decode(type, body)), plain(value), type.name);
      }),
      { numRuns: 30 },
    );
  }
});

/** Ordinary objects and byte arrays throughout; absent and undefined are the same. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return [...value];
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .map(([key, item]) => [key, plain(item)]),
  );
}

test('opcodes are unique and within their family, and field numbers have no gaps', () => {
  const opcodes = FAMILIES.flatMap((family) => family.operations.map((operation) => operation.opcode));
  assert.equal(new Set(opcodes).size, opcodes.length);
  for (const { name, first, last, operations } of FAMILIES) {
    for (const { opcode } of operations) assert.ok(opcode >= first && opcode <= last, `${name} ${opcode}`);
  }
  const check = (type: Message<unknown>): void => {
    const numbers = type.fields.map((field) => field.number);
    // Of STATUS some are kept free, and paging stands behind them.
    const dense = type.name === 'StatusReply' ? numbers.filter((number) => number < 18) : numbers;
    assert.deepEqual(
      dense,
      dense.map((_, index) => index + 1),
      type.name,
    );
    assert.equal(new Set(numbers).size, numbers.length, type.name);
    for (const field of type.fields) if (field.inner !== undefined) check(field.inner);
  };
  for (const type of messages) check(type);
  assert.deepEqual([operationName(64), operationName(9999)], ['LOOKUP', 'opcode 9999']);
});

const now = { sec: 1_790_000_000, nsec: 123_456_789 };
const attr = {
  fid: (2 ** 43 + 17) as Fid,
  mode: 0o100644,
  nlink: 1,
  uid: 1000,
  gid: 0xffff_fffe,
  rdev: 0,
  sizeBytes: 2 ** 40 + 1,
  blocks: 8,
  atime: now,
  mtime: { sec: -1, nsec: 999_999_999 },
  ctime: now,
  btime: { sec: 2 ** 33, nsec: 0 },
};

function sample<T>(type: Message<T>, value: T): { type: Message<unknown>; value: unknown } {
  return { type: type as Message<unknown>, value };
}

/** One of each kind of field and of each family. */
const samples = {
  'session/CONNECT request': sample(Connect.request, {
    uuid: '6f1c9ab6-6a2f-4c6d-9f3e-0d1c2b3a4f5e' as ClientUuid,
    name: 'büro:/mnt/hf',
    protocolMin: 1,
    protocolMax: 1,
    features: 3,
    softwareVersion: '0.1.0',
    connCount: 2,
    previousInstance: 7,
    role: 'client' as const,
    hasMoreThanOpens: false,
  }),
  'lock/ENQUEUE request, flock': sample(Enqueue.request, {
    type: 'flock' as const,
    fid: 42 as Fid,
    mode: 'EX' as const,
    flock: { kind: 'posix' as const, owner: '00000000deadbeef', pid: 99, exclusive: true, start: 0 },
    wait: true,
  }),
  'lock/BAST notice': sample(Bast.request, {
    handle: 0x1_0000_0001 as LockHandle,
    type: 'data' as const,
    fid: 42 as Fid,
  }),
  'meta/LOOKUP request': sample(Lookup.request, { parent: 1 as Fid, name: '\u00ff\u0001x' as Name, want: 3 }),
  'meta/LOOKUP reply': sample(Lookup.reply, {
    attr,
    locks: [
      {
        handle: 5 as LockHandle,
        fid: attr.fid,
        type: 'inode' as const,
        mode: 'PR' as const,
        bits: 2,
      },
    ],
  }),
  'meta/LOOKUP reply, no such name': sample(Lookup.reply, { locks: [] }),
  'meta/CREATE request, symlink': sample(Create.request, {
    parent: 1 as Fid,
    name: 'link' as Name,
    fid: 17 as Fid,
    mode: 0o120777,
    umask: 0o22,
    uid: 0,
    gid: 0,
    target: Buffer.from('../a/\x80'),
    exclusive: true,
    want: 0,
  }),
  'meta/CREATE request, open': sample(Create.request, {
    parent: 1 as Fid,
    name: 'file' as Name,
    fid: 18 as Fid,
    mode: 0o100600,
    umask: 0,
    uid: 0,
    gid: 0,
    exclusive: false,
    fh: (2 ** 52 + 1) as Fh,
    flags: 0o1002,
    want: 15,
  }),
  'meta/SETXATTR request': sample(Setxattr.request, {
    fid: 17 as Fid,
    name: 'user.a',
    value: Buffer.alloc(300, 'v'),
    flags: 1,
  }),
  'data/READ request': sample(Read.request, { fid: 17 as Fid, offset: 2 ** 45, length: 1 << 20 }),
  'data/WRITE request': sample(Write.request, { fid: 17 as Fid, offset: 4096, mtime: now, grantUsed: 65536 }),
  'admin/STATUS reply': sample(Status.reply, {
    state: 'draining' as const,
    label: 'home',
    targetUuid: '0b0e7c57-1c59-4e51-a1b8-5a3f1e2d4c5b',
    softwareVersion: '0.1.0',
    instance: 3,
    uptimeMs: 86_400_000,
    clients: [
      {
        uuid: '6f1c9ab6-6a2f-4c6d-9f3e-0d1c2b3a4f5e',
        name: 'a',
        state: 'drained' as const,
        softwareVersion: '0.1.0',
        opens: 1,
        locks: 0,
        dirtyBytes: 0,
        rpcsInFlight: 0,
        idleMs: 12,
      },
    ],
    blocks: 1000,
    blocksFree: 999,
    blockBytes: 4096,
    inodes: 2,
    lastTransno: 2 ** 40,
    lastCommitted: 2 ** 40 - 1,
    evicted: [],
    orphans: 0,
    pid: 1234,
  }),
  'error reply': sample(ErrorReply, { text: 'no entry "f"' }),
};

function goldenPath(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder);
  return join(folder, 'test/fixtures/golden/wire_messages.json');
}

test('messages have the bytes that other versions know (golden)', () => {
  const made = Object.fromEntries(
    Object.entries(samples).map(([name, { type, value }]) => [name, encode(type, value).toString('hex')]),
  );
  // A change of these bytes is a change of the protocol: docs/PROTOCOL.md. HOLDFAST_GOLDEN=write makes them anew.
  if (process.env.HOLDFAST_GOLDEN === 'write')
    writeFileSync(goldenPath(), `${JSON.stringify(made, null, 2)}\n`);
  const golden = JSON.parse(readFileSync(goldenPath(), 'utf8')) as Record<string, string>;
  assert.deepEqual(made, golden);
  for (const [name, { type, value }] of Object.entries(samples)) {
    assert.deepEqual(plain(decode(type, Buffer.from(golden[name] ?? '', 'hex'))), plain(value), name);
  }
});

test('a message grows: unknown fields are ignored, absent optional ones are undefined', () => {
  const older = message('M', { a: req(1, uint), b: opt(2, text(9)) });
  const newer = message('M', {
    a: req(1, uint),
    b: opt(2, text(9)),
    c: opt(3, list(uint, 9)),
    d: opt(4, bool),
  });
  const fromNewer = decode(older, encode(newer, { a: 1, c: [1, 2], d: true }));
  const fromOlder = decode(newer, encode(older, { a: 1, b: 'x' }));
  assert.deepEqual([fromNewer, fromOlder], [{ a: 1 }, { a: 1, b: 'x' }]);
  assert.equal(outcome(newer, encode(message('N', { b: opt(2, text(9)) }), { b: 'x' })), 'EPROTO');
});

const u64 = (high: number, low: number): Buffer => {
  const body = Buffer.from([0x91, 0xcf, 0, 0, 0, 0, 0, 0, 0, 0]);
  body.writeUInt32BE(high, 2);
  body.writeUInt32BE(low, 6);
  return body;
};
const i64 = (high: number, low: number): Buffer => {
  const body = u64(high, low);
  body[1] = 0xd3;
  return body;
};
const f64 = (value: number): Buffer => {
  const body = Buffer.from([0x91, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0]);
  body.writeDoubleBE(value, 2);
  return body;
};

test('a lock offset from 2^53 on is an int64, one below what other integers are; 2^63 and negative ones are refused', () => {
  const type = message('M', { a: req(1, lockOffset) });
  const ends = [2 ** 53 - 1, 2n ** 53n, 2n ** 53n + 1n, LOCK_OFFSET_MAX];
  const bodies = ends.map((a) => encode(type, { a }));
  assert.deepEqual(
    bodies.map((body) => body.toString('hex')),
    ['91cb433fffffffffffff', '91d30020000000000000', '91d30020000000000001', '91d37fffffffffffffff'],
  );
  assert.deepEqual(
    bodies.map((body) => decode(type, body).a),
    ends,
  );
  const refused = [u64(0x8000_0000, 0), i64(0xffff_ffff, 0xffff_ffff), f64(2 ** 53), f64(1.5)];
  assert.deepEqual(
    refused.map((body) => outcome(type, body)),
    refused.map(() => 'EPROTO'),
  );
  assert.deepEqual(outcome(type, i64(0, 5)), { value: { a: 5 } });
});

test('integers are refused beyond 2^53 and when they are none, in every encoding', () => {
  const type = message('M', { a: req(1, int) });
  const max = 0x1f_ffff;
  assert.deepEqual(
    [
      u64(max, 0xffff_ffff), // 2^53 - 1
      f64(Number.MAX_SAFE_INTEGER),
      i64(0xffe0_0000, 1), // -(2^53 - 1)
      u64(max + 1, 0), // 2^53
      u64(max + 1, 1), // 2^53 + 1, which rounds to 2^53
      u64(0xffff_ffff, 0xffff_ffff),
      i64(0xffe0_0000, 0), // -2^53
      i64(0x8000_0000, 0),
      f64(2 ** 53),
      f64(1.5),
      f64(Number.NaN),
      f64(Number.POSITIVE_INFINITY),
    ].map((body) => outcome(type, body)),
    [
      { value: { a: Number.MAX_SAFE_INTEGER } },
      { value: { a: Number.MAX_SAFE_INTEGER } },
      { value: { a: Number.MIN_SAFE_INTEGER } },
      ...Array.from({ length: 9 }, () => 'EPROTO'),
    ],
  );
});

test('encoded bodies are not overwritten by later ones', () => {
  const made: { readonly body: Buffer; readonly copy: Buffer }[] = [];
  for (let i = 0; i < 400; i += 1) {
    const value = {
      fid: (i + 1) as Fid,
      name: 'user.x',
      value: Buffer.alloc((i * 977) % 40_000, i),
      flags: 0,
    };
    const body = encode(Setxattr.request, value);
    made.push({ body, copy: Buffer.from(body) });
  }
  assert.ok(made.every(({ body, copy }) => body.equals(copy)));
});

test('decoded bytes are views into the body, unless its memory is much more than they are', () => {
  const bytes = encode(Readlink.reply, { target: new Uint8Array([1, 2, 3]) });
  // Memory of its own; what encode() returns is a part of more.
  const body = new Uint8Array(bytes);
  const { target } = decode(Readlink.reply, body);
  assert.deepEqual([[...target], target.buffer === body.buffer], [[1, 2, 3], true]);
});

test('a truncated body, and one with bytes behind it, is EPROTO', () => {
  for (const { type, value } of Object.values(samples)) {
    const body = encode(type, value);
    for (let length = 0; length < body.length; length += 1) {
      assert.equal(outcome(type, body.subarray(0, length)), 'EPROTO', `${type.name} cut at ${length}`);
    }
    assert.equal(outcome(type, Buffer.concat([body, Buffer.from([0xc0])])), 'EPROTO', type.name);
  }
});

test('random bodies and damaged ones are decoded or EPROTO, never anything else', () => {
  const valid = Object.values(samples).map(({ type, value }) => encode(type, value));
  const damaged = fc
    .tuple(
      fc.constantFrom(...valid),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 }),
    )
    .map(([body, changes]) => {
      const copy = Buffer.from(body);
      for (const [at, byte] of changes) copy[at % copy.length] = byte;
      return copy;
    });
  fc.assert(
    fc.property(
      fc.oneof(fc.uint8Array({ maxLength: 200 }), damaged),
      fc.nat(messages.length - 1),
      (body, index) => {
        outcome(messages[index] as Message<unknown>, body);
      },
    ),
    { numRuns: 5000 },
  );
});

test('whatever MessagePack has beyond our messages is refused before msgpackr sees it', () => {
  const loose = message('Loose', {});
  const foreign: Record<string, Uint8Array> = {
    map: new Packr({ useRecords: false }).pack([{ a: 1 }]),
    'record definition': new Packr({ useRecords: true }).pack([{ a: 1 }]),
    timestamp: new Packr().pack([new Date(1000)]),
    float32: Buffer.from([0x91, 0xca, 0, 0, 0, 0]),
    never: Buffer.from([0x91, 0xc1]),
    'ext 8': Buffer.from([0x91, 0xc7, 1, 0x74, 0]),
    'array of 2^32-1': Buffer.from([0xdd, 0xff, 0xff, 0xff, 0xff]),
    'text of 2^32-1': Buffer.from([0x91, 0xdb, 0xff, 0xff, 0xff, 0xff]),
    'bytes of 2^32-1': Buffer.from([0x91, 0xc6, 0xff, 0xff, 0xff, 0xff]),
    'nested a million deep': Buffer.alloc(1 << 20, 0x91),
    'arrays that each claim what is left': Buffer.alloc(1 << 20, Buffer.from([0xdd, 0, 0x0f, 0, 0])),
    empty: Buffer.alloc(0),
    'not an array': Buffer.from([5]),
  };
  const before = process.memoryUsage().heapUsed;
  const got = Object.entries(foreign).map(([name, body]) => [name, outcome(loose, body)]);
  assert.deepEqual(
    got,
    Object.keys(foreign).map((name) => [name, 'EPROTO']),
  );
  assert.ok(process.memoryUsage().heapUsed - before < 32 << 20, 'something large was made');
});

test('minus zero is read as zero, whatever the number is for', () => {
  const numbers = message('Numbers', { a: req(1, uint), b: req(2, int), c: req(3, lockOffset) });
  const read = decode(numbers, Buffer.from(`93${'cb8000000000000000'.repeat(3)}`, 'hex'));
  assert.ok(Object.values(read).every((number) => Object.is(number, 0)));
});

test('values of the wrong type or out of their bounds are EPROTO and name the field', () => {
  const packr = new Packr({ useRecords: false });
  const wrong: [Message<unknown>, unknown[]][] = [
    [Lookup.request, [0, 'x', 0]],
    [Lookup.request, [1, '..', 0]],
    [Lookup.request, [1, 'a/b', 0]],
    [Lookup.request, [1, 'x'.repeat(256), 0]],
    [Lookup.request, [1, '\u0100', 0]],
    [Lookup.request, [1, 'x', 256]],
    [Lookup.request, ['1', 'x', 0]],
    [Lookup.request, [1, 'x']],
    [Lookup.request, [1, Buffer.from('x'), 0]],
    [Read.request, [1, -1, 0]],
    [Read.request, [1, 0, 2 ** 32]],
    [Enqueue.request, ['file', 1, 'PR']],
    [Enqueue.request, ['inode', 1, 'pr']],
    [Lookup.reply, [null, 7]],
    [Lookup.reply, [[1, 2], []]],
    [Write.request, [1, 0, [0, 1_000_000_000], 0]],
    [Write.request, [1, 0, [0], 0]],
  ];
  for (const [type, value] of wrong) {
    assert.throws(
      () => decode(type, packr.pack(value)),
      (error) =>
        error instanceof FsError && error.code === 'EPROTO' && error.message.startsWith(`${type.name}.`),
      `${type.name} ${JSON.stringify(value)}`,
    );
  }
});
